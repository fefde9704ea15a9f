//! Buffers, and generators of random numbers.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::sync::{Arc, Mutex};

use forkio_tests::runtime::*;
use rand::RngExt;

/// Draws random numbers: one in this process, and one in each of two children.
async fn draw() -> Vec<u128> {
    let (mut reader, writer) = io::pipe().unwrap();
    // After the first number, the generator has more numbers in its buffer.
    let _first: u64 = rand::rng().random();
    for _ in 0..2 {
        in_child(async || (&writer).write_all(&rand::rng().random::<u128>().to_le_bytes()).unwrap()).await;
    }
    let mut numbers = vec![rand::rng().random()];
    for _ in 0..2 {
        let mut number = [0; 16];
        reader.read_exact(&mut number).unwrap();
        numbers.push(u128::from_le_bytes(number));
    }
    numbers
}

scenarios!(
    /// A line in the buffer of the C library is written once, although both processes flush the buffer.
    fn c_library() {
        check_eq("output", Program::start("buffers::c_line", &[]).finish_well().as_str(), "a line\n");
    }

    /// Prints a line with the C library, and forks.
    #[program]
    async fn c_line() {
        // SAFETY: the format has no arguments.
        unsafe { libc::printf(c"a line\n".as_ptr()) };
        // Both processes flush the buffer when they exit.
        in_child(async || {}).await;
    }

    /// The contents of a Rust buffer are written twice, or once if a hook flushes it before the fork.
    async fn buffered_file() {
        let path = temporary_path("buffered");
        let append = || BufWriter::new(OpenOptions::new().create(true).append(true).open(&path).unwrap());
        let file = Arc::new(Mutex::new(append()));
        file.lock().unwrap().write_all(b"a line\n").unwrap();
        let flushed = Arc::clone(&file);
        in_child(async || file.lock().unwrap().flush().unwrap()).await;
        file.lock().unwrap().flush().unwrap();
        check_eq("the file without a hook", fs::read_to_string(&path).unwrap().as_str(), "a line\na line\n");

        forkio::before_fork(move || flushed.lock().unwrap().flush());
        file.lock().unwrap().write_all(b"another\n").unwrap();
        in_child(async || file.lock().unwrap().flush().unwrap()).await;
        file.lock().unwrap().flush().unwrap();
        check_eq("the file with a hook", fs::read_to_string(&path).unwrap().as_str(), "a line\na line\nanother\n");
    }

    /// Without reseeding, parent and children draw the same random numbers.
    async fn same_random_numbers() {
        let numbers = draw().await;
        assert!(numbers[0] == numbers[1] && numbers[0] == numbers[2], "{numbers:?}");
    }

    /// With reseeding in a hook, parent and children draw different random numbers.
    async fn reseeded_random_numbers() {
        forkio::on_child(|_| rand::rng().reseed().expect("random numbers from the system"));
        let numbers: BTreeSet<_> = draw().await.into_iter().collect();
        check_eq("how many distinct numbers", numbers.len(), 3);
    }
);
