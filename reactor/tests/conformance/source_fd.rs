//! `unix::SourceFd`.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::util::{Loop, READ, assert_kind, check_registration, localhost};
use crate::mio::Token;
use crate::mio::event::Event;
use crate::mio::unix::SourceFd;

#[test]
fn registers() {
    let (reader, writer) = UnixStream::pair().unwrap();
    check_registration(&mut SourceFd(&reader.as_raw_fd()));
    check_registration(&mut SourceFd(&writer.as_raw_fd()));
}

#[test]
fn gives_events() {
    let mut run = Loop::new();
    let listener = TcpListener::bind(localhost()).unwrap();
    let fd = listener.as_raw_fd();
    run.register(&mut SourceFd(&fd), 5, READ);
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    run.expect(5, Event::is_readable);

    // Another `SourceFd` of the same descriptor is the same source.
    run.poll.registry().reregister(&mut SourceFd(&fd), Token(6), READ).unwrap();
    run.expect(6, Event::is_readable);
    assert_kind(run.poll.registry().register(&mut SourceFd(&fd), Token(7), READ), ErrorKind::AlreadyExists);
    run.poll.registry().deregister(&mut SourceFd(&fd)).unwrap();
}

#[test]
fn does_not_own_the_descriptor() {
    let mut run = Loop::new();
    let (reader, mut writer) = UnixStream::pair().unwrap();
    run.register(&mut SourceFd(&reader.as_raw_fd()), 0, READ);
    writer.write_all(b"x").unwrap();
    run.expect(0, Event::is_readable);
    run.poll.registry().deregister(&mut SourceFd(&reader.as_raw_fd())).unwrap();
    writer.write_all(b"x").unwrap();
    run.expect_nothing();
}

#[test]
fn a_bad_descriptor_is_an_error() {
    let run = Loop::new();
    let error = run.poll.registry().register(&mut SourceFd(&-1), Token(0), READ).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

#[test]
fn two_selectors_may_watch_one_descriptor() {
    let (mut first, mut second) = (Loop::new(), Loop::new());
    let (reader, mut writer) = UnixStream::pair().unwrap();
    first.register(&mut SourceFd(&reader.as_raw_fd()), 1, READ);
    second.register(&mut SourceFd(&reader.as_raw_fd()), 2, READ);
    writer.write_all(b"x").unwrap();
    first.expect(1, Event::is_readable);
    second.expect(2, Event::is_readable);
}

#[test]
fn debug_shows_the_descriptor() {
    assert_eq!(format!("{:?}", SourceFd(&7)), "SourceFd(7)");
}
