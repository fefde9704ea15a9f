//! `UnixListener` and `UnixStream`.

use std::fs;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{self, SocketAddr};

use super::util::{
    BOTH, Loop, READ, TempDir, WRITE, assert_flags, assert_kind, assert_would_block, check_conversions,
    check_registration, without_children,
};
use crate::mio::event::Event;
use crate::mio::net::{UnixListener, UnixStream};

const LEFT: usize = 1;
const RIGHT: usize = 2;

fn pair(run: &Loop) -> (UnixStream, UnixStream) {
    let (mut left, mut right) = UnixStream::pair().unwrap();
    run.register(&mut left, LEFT, BOTH);
    run.register(&mut right, RIGHT, BOTH);
    (left, right)
}

#[test]
fn listener_binds() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    assert_flags(&listener);
    assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(&*path));
    assert!(listener.take_error().unwrap().is_none());
    assert_kind(UnixListener::bind(&path), ErrorKind::AddrInUse);
    assert_kind(UnixListener::bind(directory.join("no/socket")), ErrorKind::NotFound);
    assert_kind(UnixListener::bind("a\0b"), ErrorKind::InvalidInput);
    assert_kind(UnixListener::bind("x".repeat(200)), ErrorKind::InvalidInput);
    // The file outlives the listener.
    drop(listener);
    assert!(path.exists());
}

#[test]
fn listener_accepts() {
    let mut run = Loop::new();
    let directory = TempDir::new();
    let path = directory.join("socket");
    let address = SocketAddr::from_pathname(&path).unwrap();
    let mut listener = UnixListener::bind_addr(&address).unwrap();
    run.register(&mut listener, 0, READ);
    assert_would_block(listener.accept());
    let clients = [UnixStream::connect(&path).unwrap(), UnixStream::connect_addr(&address).unwrap()];
    run.expect(0, Event::is_readable);
    for mut client in clients {
        assert_flags(&client);
        let (mut stream, peer) = listener.accept().unwrap();
        assert_flags(&stream);
        assert!(peer.is_unnamed() && peer.as_pathname().is_none());
        assert!(client.local_addr().unwrap().is_unnamed());
        assert!(stream.peer_addr().unwrap().is_unnamed());
        assert_eq!(stream.local_addr().unwrap().as_pathname(), Some(&*path));
        assert_eq!(client.peer_addr().unwrap().as_pathname(), Some(&*path));
        client.write_all(b"x").unwrap();
        assert_eq!(stream.read(&mut [0; 2]).unwrap(), 1);
    }
    assert_would_block(listener.accept());
}

#[test]
fn listener_registers_and_converts() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let mut listener = UnixListener::bind(&path).unwrap();
    check_registration(&mut listener);
    let listener = check_conversions!(UnixListener, net::UnixListener, listener);
    assert_flags(&listener);
    assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(&*path));
}

#[test]
fn stream_is_refused() {
    let _guard = without_children();
    let directory = TempDir::new();
    assert_kind(UnixStream::connect(directory.join("nothing")), ErrorKind::NotFound);
    let path = directory.join("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert_kind(UnixStream::connect(&path), ErrorKind::ConnectionRefused);
    let path = directory.join("file");
    fs::write(&path, "").unwrap();
    assert_kind(UnixStream::connect(&path), ErrorKind::ConnectionRefused);
    assert_kind(UnixStream::connect("a\0b"), ErrorKind::InvalidInput);
}

#[test]
fn stream_pair() {
    let mut run = Loop::new();
    let (mut left, mut right) = pair(&run);
    for end in [&left, &right] {
        assert_flags(end);
        assert!(end.local_addr().unwrap().is_unnamed() && end.peer_addr().unwrap().is_unnamed());
        assert!(end.take_error().unwrap().is_none());
    }
    run.expect(LEFT, Event::is_writable);
    let mut buf = [0; 16];
    assert_would_block(right.read(&mut buf));
    assert_eq!(left.write(b"hello").unwrap(), 5);
    left.flush().unwrap();
    run.expect(RIGHT, Event::is_readable);
    assert_eq!(right.read(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"hello");

    // Shared references read and write in the same way.
    let (mut left, mut right) = (&left, &right);
    assert_eq!(right.write(b"hi").unwrap(), 2);
    right.flush().unwrap();
    assert_eq!(left.read(&mut buf).unwrap(), 2);
    assert_would_block(left.read(&mut buf));
}

#[test]
fn stream_reads_and_writes_vectored() {
    let (mut left, mut right) = UnixStream::pair().unwrap();
    let parts = [IoSlice::new(b"one"), IoSlice::new(b"three")];
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    assert_eq!(left.write_vectored(&parts).unwrap(), 8);
    let mut bufs = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
    assert_eq!(right.read_vectored(&mut bufs).unwrap(), 8);
    assert_eq!((&left).write_vectored(&parts).unwrap(), 8);
    assert_eq!((&right).read_vectored(&mut bufs).unwrap(), 8);
    assert_eq!((&head, &tail[..4]), (b"onet", &b"hree"[..]));
}

#[test]
fn stream_is_writable_again_after_room_is_made() {
    let mut run = Loop::new();
    let (mut left, mut right) = UnixStream::pair().unwrap();
    run.register(&mut left, LEFT, WRITE);
    run.expect(LEFT, Event::is_writable);
    let chunk = [0; 4096];
    let mut sent = 0;
    loop {
        match left.write(&chunk) {
            Ok(n) => sent += n,
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    let mut buf = vec![0; sent];
    while sent > 0 {
        sent -= right.read(&mut buf).unwrap();
    }
    run.expect(LEFT, Event::is_writable);
}

#[test]
fn stream_shuts_down() {
    let mut run = Loop::new();
    let (mut left, mut right) = pair(&run);
    left.shutdown(Shutdown::Write).unwrap();
    assert_kind(left.write(b"x"), ErrorKind::BrokenPipe);
    run.expect(RIGHT, |event| event.is_read_closed() && !event.is_write_closed());
    assert_eq!(right.read(&mut [0]).unwrap(), 0);
    right.write_all(b"x").unwrap();
    right.shutdown(Shutdown::Both).unwrap();
    // The write-closed event may have come already, when `left` shut down its writing half.
    run.expect(LEFT, Event::is_read_closed);
    assert_eq!(left.read(&mut [0; 2]).unwrap(), 1);
    assert_eq!(left.read(&mut [0]).unwrap(), 0);
}

#[test]
fn stream_sees_its_peer_close() {
    let mut run = Loop::new();
    let (mut left, right) = pair(&run);
    drop(right);
    run.expect_all(LEFT, &[|event| event.is_readable() && event.is_read_closed(), Event::is_write_closed]);
    assert_eq!(left.read(&mut [0]).unwrap(), 0);
    assert_kind(left.write(b"x"), ErrorKind::BrokenPipe);
}

#[test]
fn stream_runs_other_operations() {
    let (left, _right) = UnixStream::pair().unwrap();
    assert_eq!(left.try_io(|| Ok(7)).unwrap(), 7);
    assert_would_block(left.try_io(|| (&left).read(&mut [0])));
}

#[test]
fn stream_registers_and_converts() {
    let (mut left, right) = UnixStream::pair().unwrap();
    check_registration(&mut left);
    let mut left = check_conversions!(UnixStream, net::UnixStream, left);
    assert_flags(&left);
    left.write_all(b"x").unwrap();
    assert_eq!((&right).read(&mut [0; 2]).unwrap(), 1);
}
