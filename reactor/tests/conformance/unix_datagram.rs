//! `UnixDatagram`.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::{self, SocketAddr};

use super::util::{
    BOTH, Loop, READ, TempDir, assert_flags, assert_kind, assert_would_block, check_conversions, check_registration,
    without_children,
};
use crate::mio::event::Event;
use crate::mio::net::UnixDatagram;

#[test]
fn binds() {
    let directory = TempDir::new();
    let (first, second) = (directory.join("first"), directory.join("second"));
    let socket = UnixDatagram::bind(&first).unwrap();
    assert_flags(&socket);
    assert_eq!(socket.local_addr().unwrap().as_pathname(), Some(&*first));
    assert_kind(socket.peer_addr(), ErrorKind::NotConnected);
    assert!(socket.take_error().unwrap().is_none());
    assert_kind(UnixDatagram::bind(&first), ErrorKind::AddrInUse);
    assert_kind(UnixDatagram::bind("a\0b"), ErrorKind::InvalidInput);

    let socket = UnixDatagram::bind_addr(&SocketAddr::from_pathname(&second).unwrap()).unwrap();
    assert_flags(&socket);
    assert_eq!(socket.local_addr().unwrap().as_pathname(), Some(&*second));

    let socket = UnixDatagram::unbound().unwrap();
    assert_flags(&socket);
    assert!(socket.local_addr().unwrap().is_unnamed());
}

#[test]
fn sends_and_receives_with_addresses() {
    let mut run = Loop::new();
    let directory = TempDir::new();
    let (from, to) = (directory.join("from"), directory.join("to"));
    let sender = UnixDatagram::bind(&from).unwrap();
    let mut receiver = UnixDatagram::bind(&to).unwrap();
    run.register(&mut receiver, 0, READ);
    let mut buf = [0; 16];
    assert_would_block(receiver.recv_from(&mut buf));
    assert_eq!(sender.send_to(b"hello", &to).unwrap(), 5);
    run.expect(0, Event::is_readable);
    let (length, peer) = receiver.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..length], peer.as_pathname()), (&b"hello"[..], Some(&*from)));

    assert_eq!(UnixDatagram::unbound().unwrap().send_to(b"", &to).unwrap(), 0);
    let (length, peer) = receiver.recv_from(&mut buf).unwrap();
    assert!(length == 0 && peer.is_unnamed());
    assert_kind(sender.send_to(b"x", directory.join("missing")), ErrorKind::NotFound);
}

#[test]
fn sends_and_receives_connected() {
    let _guard = without_children();
    let directory = TempDir::new();
    let path = directory.join("socket");
    let receiver = UnixDatagram::bind(&path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    assert_kind(sender.send(b"x"), ErrorKind::NotConnected);
    assert_kind(sender.connect(directory.join("missing")), ErrorKind::NotFound);
    sender.connect(&path).unwrap();
    assert_eq!(sender.peer_addr().unwrap().as_pathname(), Some(&*path));
    assert_eq!(sender.send(b"a long datagram").unwrap(), 15);
    let mut buf = [0; 6];
    // The datagram is cut off.
    assert_eq!(receiver.recv(&mut buf).unwrap(), 6);
    assert_would_block(receiver.recv(&mut buf));
    drop(receiver);
    assert_kind(sender.send(b"x"), ErrorKind::ConnectionRefused);
}

#[test]
fn pair() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixDatagram::pair().unwrap();
    for end in [&a, &b] {
        assert_flags(end);
        assert!(end.local_addr().unwrap().is_unnamed() && end.peer_addr().unwrap().is_unnamed());
    }
    run.register(&mut a, 1, BOTH);
    run.register(&mut b, 2, BOTH);
    run.expect(1, Event::is_writable);
    assert_eq!(a.send(b"hello").unwrap(), 5);
    run.expect(2, Event::is_readable);
    let mut buf = [0; 16];
    assert_eq!(b.recv(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"hello");

    a.shutdown(Shutdown::Write).unwrap();
    assert_kind(a.send(b"x"), ErrorKind::BrokenPipe);
}

#[test]
fn runs_other_operations() {
    let (a, _b) = UnixDatagram::pair().unwrap();
    assert_eq!(a.try_io(|| Ok(7)).unwrap(), 7);
    assert_would_block(a.try_io(|| a.recv(&mut [0])));
}

#[test]
fn registers_and_converts() {
    let (mut a, b) = UnixDatagram::pair().unwrap();
    check_registration(&mut a);
    let a = check_conversions!(UnixDatagram, net::UnixDatagram, a);
    assert_flags(&a);
    a.send(b"x").unwrap();
    assert_eq!(b.recv(&mut [0; 2]).unwrap(), 1);
}
