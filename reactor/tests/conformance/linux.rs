//! Features of Linux: abstract addresses, priority interest, eventfds.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::process;

use super::util::{Loop, READ, WRITE, assert_kind, without_children};
use crate::mio::Interest;
use crate::mio::event::Event;
use crate::mio::net::{UnixDatagram, UnixListener, UnixStream};
use crate::mio::unix::SourceFd;

fn abstract_address(name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("conformance-{}-{name}", process::id())).unwrap()
}

#[test]
fn streams_with_an_abstract_address() {
    let _guard = without_children();
    let address = abstract_address("stream");
    let listener = UnixListener::bind_addr(&address).unwrap();
    assert_eq!(listener.local_addr().unwrap().as_abstract_name(), address.as_abstract_name());
    assert_kind(UnixListener::bind_addr(&address), ErrorKind::AddrInUse);
    let mut client = UnixStream::connect_addr(&address).unwrap();
    assert_eq!(client.peer_addr().unwrap().as_abstract_name(), address.as_abstract_name());
    let (mut server, peer) = listener.accept().unwrap();
    assert!(peer.is_unnamed());
    client.write_all(b"x").unwrap();
    assert_eq!(server.read(&mut [0; 2]).unwrap(), 1);
    drop(listener);
    assert_kind(UnixStream::connect_addr(&address), ErrorKind::ConnectionRefused);
}

#[test]
fn datagrams_with_an_abstract_address() {
    let address = abstract_address("datagram");
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    assert_eq!(socket.local_addr().unwrap().as_abstract_name(), address.as_abstract_name());
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    sender.send_to_addr(b"hello", &address).unwrap();
    assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 5);
}

#[test]
fn an_unnamed_address_lets_the_system_choose() {
    let unnamed = SocketAddr::from_pathname("").unwrap();
    let listener = UnixListener::bind_addr(&unnamed).unwrap();
    let address = listener.local_addr().unwrap();
    assert!(address.as_abstract_name().is_some());
    UnixStream::connect_addr(&address).unwrap();
    assert!(UnixDatagram::bind_addr(&unnamed).unwrap().local_addr().unwrap().as_abstract_name().is_some());
}

#[test]
fn interest_in_priority() {
    let interest = Interest::PRIORITY;
    assert!(interest.is_priority() && !interest.is_readable() && !interest.is_writable());
    assert!(WRITE < interest);
    assert_eq!(format!("{interest:?}"), "PRIORITY");
    assert_eq!(format!("{:?}", READ | WRITE | interest), "READABLE | WRITABLE | PRIORITY");
    assert_eq!((READ | interest).remove(READ), Some(interest));
}

#[test]
fn an_eventfd_is_a_source() {
    let mut run = Loop::new();
    // SAFETY: the result is checked, and no other code owns the descriptor.
    let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert_ne!(event, -1);
    // SAFETY: the descriptor is open, and no other code owns it.
    let mut file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(event) };
    run.register(&mut SourceFd(&event), 8, READ);
    run.expect_nothing();
    file.write_all(&1_u64.to_ne_bytes()).unwrap();
    run.expect(8, Event::is_readable);
    run.expect_nothing();
    // Each write is an edge, even without a read in between.
    file.write_all(&1_u64.to_ne_bytes()).unwrap();
    run.expect(8, Event::is_readable);
}
