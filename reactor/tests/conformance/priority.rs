//! Features of epoll: priority readiness, and an error for objects that are always ready.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net;
use std::os::fd::{AsRawFd, RawFd};

use super::util::{Loop, READ, assert_kind, localhost};
use crate::mio::net::TcpStream;
use crate::mio::unix::SourceFd;
use crate::mio::{Interest, Token};

fn send_out_of_band(fd: RawFd) {
    // SAFETY: the kernel reads one byte of the slice.
    assert_eq!(unsafe { libc::send(fd, b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
}

#[test]
fn out_of_band_data_is_priority_readiness() {
    let listener = net::TcpListener::bind(localhost()).unwrap();
    let sender = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let receiver = listener.accept().unwrap().0;
    receiver.set_nonblocking(true).unwrap();

    let mut run = Loop::new();
    let mut receiver = TcpStream::from_std(receiver);
    run.register(&mut receiver, 0, Interest::PRIORITY);
    send_out_of_band(sender.as_raw_fd());
    run.expect(0, |event| event.is_priority() && event.is_readable());

    // Without this interest the event is readable, and has no priority readiness.
    run.poll.registry().reregister(&mut receiver, Token(1), READ).unwrap();
    (&sender).write_all(b"x").unwrap();
    run.expect(1, |event| event.is_readable() && !event.is_priority());
}

#[test]
fn a_regular_file_is_refused() {
    let run = Loop::new();
    let file = File::open("/proc/self/exe").unwrap();
    let mut source = SourceFd(&file.as_raw_fd());
    assert_kind(run.poll.registry().register(&mut source, Token(0), READ), ErrorKind::PermissionDenied);
    assert_kind(run.poll.registry().deregister(&mut source), ErrorKind::PermissionDenied);
}
