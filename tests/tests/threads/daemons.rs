//! Children that close every descriptor before they use the runtime, as daemons do.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;

use forkio_tests::runtime::*;

use crate::{RUNTIME, use_everything, wait};

/// Closes the descriptors that `is_closed` selects, except standard input, output and error.
fn close_all(is_closed: impl Fn(i32) -> bool) {
    for fd in open_descriptors().into_iter().filter(|fd| *fd > 2 && is_closed(*fd)) {
        // SAFETY: only objects of the parent's runtime own these descriptors, and this process does not drop these objects.
        unsafe { libc::close(fd) };
    }
}

scenarios!(
    /// A daemon closes the descriptors of tokio's signal pipe. Its runtime works, and so do those of its children.
    fn closed_signal_pipe() {
        let is_socket = |fd| std::fs::metadata(format!("/dev/fd/{fd}")).is_ok_and(|file| file.file_type().is_socket());
        let daemon = |is_closed: &dyn Fn(i32) -> bool| {
            close_all(is_closed);
            use_everything();
            unplanned::in_child(use_everything);
            wait(fork_with_threads(use_everything));
            use_everything();
            exit_now(0);
        };
        use_everything();
        // If only the sockets are closed, the lowest free descriptors are those of the pipe.
        let daemons = || {
            unplanned::in_child(|| daemon(&|_| true));
            unplanned::in_child(|| daemon(&is_socket));
        };
        // These daemons reconcile when they use the runtime; after `install`, the next ones reconcile inside `fork(2)`.
        daemons();
        forkio::atfork::install().unwrap();
        daemons();
        use_everything();
    }

    /// If a daemon has other files at the descriptors of the signal pipe, its runtime returns an error. Neither the runtime
    /// nor the daemon's forks touch these files.
    fn files_in_place_of_the_signal_pipe() {
        let daemon = || {
            close_all(|_| true);
            let mut pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
            pairs.iter_mut().for_each(|(a, _)| a.write_all(b"text").unwrap());
            let error = RUNTIME.get().expect_err("the pipe cannot be restored");
            assert!(matches!(error, RuntimeError::SignalPipe(_)), "{error}");
            let text = error.to_string();
            let is_named = |fd| text.contains(&format!("descriptor {fd},"));
            assert!(pairs.iter().any(|(a, b)| is_named(a.as_raw_fd()) || is_named(b.as_raw_fd())), "{text}");
            // A fresh pair in place of a file would have no connection to the parent's copy.
            let identity =
                |stream: &UnixStream| std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).unwrap();
            let identities = || -> Vec<_> { pairs.iter().map(|(a, b)| [identity(a), identity(b)]).collect() };
            let before = identities();
            unplanned::in_child(|| {
                assert!(RUNTIME.get().is_err());
                check_eq("the files", identities(), before.clone());
                exit_now(0);
            });
            for (_, b) in &mut pairs {
                b.set_nonblocking(true).unwrap();
                check_eq("the bytes of a pair", b.read(&mut [0; 5]).unwrap(), 4);
            }
            exit_now(0);
        };
        forkio::atfork::install().unwrap();
        use_everything();
        unplanned::in_child(daemon);
        use_everything();
    }
);
