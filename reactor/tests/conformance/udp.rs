//! `UdpSocket`.

use std::io::ErrorKind;
use std::net::{self, Ipv4Addr, Ipv6Addr};

use super::util::{
    Loop, READ, WRITE, assert_flags, assert_kind, assert_would_block, check_conversions, check_registration, localhost,
    localhost_v6,
};
use crate::mio::event::Event;
use crate::mio::net::UdpSocket;

fn bind() -> UdpSocket {
    UdpSocket::bind(localhost()).unwrap()
}

#[test]
fn binds() {
    let socket = bind();
    assert_flags(&socket);
    let address = socket.local_addr().unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0);
    assert_kind(UdpSocket::bind(address), ErrorKind::AddrInUse);
    assert_kind(socket.peer_addr(), ErrorKind::NotConnected);
    assert!(socket.take_error().unwrap().is_none());
}

#[test]
fn sends_and_receives_with_addresses() {
    for address in [Some(localhost()), localhost_v6()].into_iter().flatten() {
        let mut run = Loop::new();
        let (mut a, mut b) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
        let mut buf = [0; 16];
        assert_would_block(b.recv_from(&mut buf));
        assert_would_block(b.peek_from(&mut buf));
        run.register(&mut a, 1, WRITE);
        run.register(&mut b, 2, READ);
        run.expect(1, Event::is_writable);
        assert_eq!(a.send_to(b"hello", b.local_addr().unwrap()).unwrap(), 5);
        run.expect(2, Event::is_readable);
        for _ in 0..2 {
            assert_eq!(b.peek_from(&mut buf).unwrap(), (5, a.local_addr().unwrap()));
        }
        assert_eq!(b.recv_from(&mut buf).unwrap(), (5, a.local_addr().unwrap()));
        assert_eq!(&buf[..5], b"hello");
        assert_would_block(b.recv_from(&mut buf));
    }
}

#[test]
fn sends_and_receives_connected() {
    let mut run = Loop::new();
    let (a, mut b) = (bind(), bind());
    run.register(&mut b, 0, READ);
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    assert_eq!(a.peer_addr().unwrap(), b.local_addr().unwrap());
    let mut buf = [0; 16];
    assert_would_block(b.recv(&mut buf));
    assert_would_block(b.peek(&mut buf));
    assert_eq!(a.send(b"hello").unwrap(), 5);
    assert_eq!(run.block_on(|| b.peek(&mut buf)).unwrap(), 5);
    assert_eq!(b.recv(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"hello");

    // The socket does not receive datagrams from other peers.
    bind().send_to(b"noise", b.local_addr().unwrap()).unwrap();
    a.send(b"signal").unwrap();
    assert_eq!(run.block_on(|| b.recv(&mut buf)).unwrap(), 6);
}

#[test]
fn datagrams_are_kept_apart_and_cut_off() {
    let mut run = Loop::new();
    let (a, mut b) = (bind(), bind());
    run.register(&mut b, 0, READ);
    let address = b.local_addr().unwrap();
    for datagram in [&b"a long datagram"[..], b"", b"next"] {
        a.send_to(datagram, address).unwrap();
    }
    let mut buf = [0; 6];
    assert_eq!(run.block_on(|| b.recv(&mut buf)).unwrap(), 6);
    assert_eq!(&buf, b"a long");
    assert_eq!(run.block_on(|| b.recv(&mut buf)).unwrap(), 0);
    assert_eq!(run.block_on(|| b.recv(&mut buf)).unwrap(), 4);
}

#[test]
fn a_refusal_is_reported_to_a_connected_socket() {
    let mut run = Loop::new();
    let mut socket = bind();
    let gone = bind();
    // `gone` is connected to itself, so it refuses the datagrams of `socket`. While it is open, no other socket gets its port.
    gone.connect(gone.local_addr().unwrap()).unwrap();
    socket.connect(gone.local_addr().unwrap()).unwrap();
    run.register(&mut socket, 0, READ);
    socket.send(b"x").unwrap();
    assert_kind(run.block_on(|| socket.recv(&mut [0; 1])), ErrorKind::ConnectionRefused);
}

#[test]
fn options() {
    let socket = bind();
    for on in [true, false] {
        socket.set_broadcast(on).unwrap();
        assert_eq!(socket.broadcast().unwrap(), on);
        socket.set_multicast_loop_v4(on).unwrap();
        assert_eq!(socket.multicast_loop_v4().unwrap(), on);
    }
    socket.set_multicast_ttl_v4(19).unwrap();
    assert_eq!(socket.multicast_ttl_v4().unwrap(), 19);
    socket.set_ttl(20).unwrap();
    assert_eq!(socket.ttl().unwrap(), 20);
    assert!(socket.only_v6().is_err());
}

#[test]
fn options_of_v6() {
    let Some(address) = localhost_v6() else { return };
    let socket = UdpSocket::bind(address).unwrap();
    for on in [true, false] {
        socket.set_multicast_loop_v6(on).unwrap();
        assert_eq!(socket.multicast_loop_v6().unwrap(), on);
    }
    socket.only_v6().unwrap();
    let group = Ipv6Addr::LOCALHOST;
    assert_kind(socket.join_multicast_v6(&group, 0), ErrorKind::InvalidInput);
    assert!(socket.leave_multicast_v6(&group, 0).is_err());
}

#[test]
fn multicast_groups() {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    let (group, interface) = (Ipv4Addr::new(239, 255, 42, 99), Ipv4Addr::LOCALHOST);
    assert_kind(socket.join_multicast_v4(&Ipv4Addr::LOCALHOST, &interface), ErrorKind::InvalidInput);
    assert!(socket.leave_multicast_v4(&group, &interface).is_err());
    socket.join_multicast_v4(&group, &interface).unwrap();
    socket.leave_multicast_v4(&group, &interface).unwrap();
    assert!(socket.leave_multicast_v4(&group, &interface).is_err());
}

#[test]
fn runs_other_operations() {
    let socket = bind();
    assert_eq!(socket.try_io(|| Ok(7)).unwrap(), 7);
    assert_would_block(socket.try_io(|| socket.recv(&mut [0])));
}

#[test]
fn registers_and_converts() {
    check_registration(&mut bind());
    let socket = bind();
    let address = socket.local_addr().unwrap();
    let socket = check_conversions!(UdpSocket, net::UdpSocket, socket);
    assert_flags(&socket);
    assert_eq!(socket.local_addr().unwrap(), address);
}
