//! Measures the cost of a fork with registrations, and the cost of a bare `fork(2)`. The program forks, so it runs without
//! the test harness.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use forkio_reactor::fork::{ForkResult, block_signals, prepare};
use forkio_reactor::{Interest, Poll, Token};

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

fn main() {
    // On Linux, this only checks that the program works: the benchmarks measure epoll; a model's times mean nothing.
    let sizes: &[usize] = if cfg!(target_os = "linux") { &[10] } else { &[0, 10, 1_000] };
    sizes.iter().copied().for_each(cost_of_a_fork);
}

/// Measures forks with this many registered sockets, and bare forks. Prints the medians, in microseconds.
fn cost_of_a_fork(registrations: usize) {
    const ROUNDS: usize = 21;
    let poll = Poll::new().expect("a selector");
    let mut sockets: Vec<_> = (0..registrations)
        .map_while(|_| UdpSocket::bind("127.0.0.1:0").ok())
        .map(forkio_reactor::net::UdpSocket::from_std)
        .collect();
    for (index, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket, Token(index), Interest::READABLE).expect("registering");
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let (mut prepared_in, mut ready_in, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut reader, mut writer) = UnixStream::pair().expect("a socket pair");
        let mut tell = |since: Instant| {
            let nanos = since.elapsed().as_nanos() as u64;
            let _ = writer.write_all(&nanos.to_ne_bytes());
            // SAFETY: the call ends the process at once.
            unsafe { libc::_exit(0) };
        };
        let mut hear = || {
            let mut nanos = [0; 8];
            reader.read_exact(&mut nanos).expect("the child's time");
            let mut status = 0;
            // SAFETY: the kernel writes the status.
            unsafe { libc::waitpid(-1, &mut status, 0) };
            Duration::from_nanos(u64::from_ne_bytes(nanos))
        };
        let blocked = block_signals();
        let start = Instant::now();
        let prepared = prepare().expect("preparing");
        prepared_in.push(start.elapsed());
        let start = Instant::now();
        // SAFETY: this process has one thread, and signals are blocked.
        match unsafe { prepared.fork() }.expect("forking") {
            ForkResult::Child => tell(start),
            ForkResult::Parent { .. } => ready_in.push(hear()),
        }
        drop(blocked);
        let start = Instant::now();
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => tell(start),
            _ => bare.push(hear()),
        }
    }
    println!(
        "fork     {:5} registrations: prepare {:.0} us, child ready after {:.0} us (bare fork {:.0} us)",
        sockets.len(),
        median(prepared_in),
        median(ready_in),
        median(bare)
    );
}
