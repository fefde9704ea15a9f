//! `TcpListener` and `TcpStream`.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::{net, thread};

use super::util::{
    BOTH, Loop, READ, WRITE, assert_flags, assert_kind, assert_would_block, check_conversions, check_registration,
    localhost, localhost_v6,
};
use crate::mio::event::Event;
use crate::mio::net::{TcpListener, TcpStream};

const CLIENT: usize = 1;
const SERVER: usize = 2;

/// Makes a connection, and registers both ends for reading and writing.
fn connected(run: &mut Loop) -> (TcpStream, TcpStream) {
    let mut listener = TcpListener::bind(localhost()).unwrap();
    run.register(&mut listener, 0, READ);
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    run.register(&mut client, CLIENT, BOTH);
    let (mut server, peer) = run.block_on(|| listener.accept()).unwrap();
    run.register(&mut server, SERVER, BOTH);
    run.block_on(|| match client.peer_addr() {
        Err(error) if error.kind() == ErrorKind::NotConnected => Err(ErrorKind::WouldBlock.into()),
        result => result,
    })
    .unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    (client, server)
}

fn option(fd: RawFd, level: libc::c_int, name: libc::c_int) -> libc::c_int {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`.
    let result = unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &mut length) };
    assert_eq!(result, 0);
    value
}

/// Makes a bound socket that does not listen: no other socket gets its port, and connections to it are refused.
fn refusing() -> (OwnedFd, SocketAddr) {
    // SAFETY: the socket is a new descriptor of this function; the kernel reads an initialised address of the given length.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        assert_ne!(fd, -1);
        let socket = net::TcpListener::from_raw_fd(fd);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
        let address = socket.local_addr().unwrap();
        (socket.into(), address)
    }
}

#[test]
fn listener_binds() {
    let listener = TcpListener::bind(localhost()).unwrap();
    assert_flags(&listener);
    let address = listener.local_addr().unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0);
    assert_ne!(option(listener.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR), 0);
    assert!(listener.take_error().unwrap().is_none());
    assert_kind(TcpListener::bind(address), ErrorKind::AddrInUse);

    listener.set_ttl(17).unwrap();
    assert_eq!(listener.ttl().unwrap(), 17);
}

#[test]
fn listener_accepts() {
    for address in [Some(localhost()), localhost_v6()].into_iter().flatten() {
        let mut run = Loop::new();
        let mut listener = TcpListener::bind(address).unwrap();
        run.register(&mut listener, 0, READ);
        assert_would_block(listener.accept());
        let clients: Vec<_> =
            (0..3).map(|_| net::TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        run.expect(0, Event::is_readable);
        for client in &clients {
            let (stream, peer) = run.block_on(|| listener.accept()).unwrap();
            assert_flags(&stream);
            assert_eq!(peer, client.local_addr().unwrap());
            assert_eq!(stream.peer_addr().unwrap(), peer);
            assert_eq!(stream.local_addr().unwrap(), listener.local_addr().unwrap());
        }
        assert_would_block(listener.accept());
    }
}

#[test]
fn listener_registers_and_converts() {
    check_registration(&mut TcpListener::bind(localhost()).unwrap());
    let listener = TcpListener::bind(localhost()).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = check_conversions!(TcpListener, net::TcpListener, listener);
    assert_flags(&listener);
    assert_eq!(listener.local_addr().unwrap(), address);
}

#[test]
fn stream_connects() {
    for address in [Some(localhost()), localhost_v6()].into_iter().flatten() {
        let mut run = Loop::new();
        let listener = net::TcpListener::bind(address).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_flags(&stream);
        run.register(&mut stream, 0, WRITE);
        run.expect(0, Event::is_writable);
        assert!(stream.take_error().unwrap().is_none());
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
    }
}

#[test]
fn stream_is_refused() {
    let mut run = Loop::new();
    let (_socket, address) = refusing();
    // Some systems return the error at once.
    let error = match TcpStream::connect(address) {
        Ok(mut stream) => {
            run.register(&mut stream, 0, BOTH);
            run.expect(0, |event| event.is_writable() && event.is_error() && event.is_write_closed());
            assert_kind(stream.peer_addr(), ErrorKind::NotConnected);
            let error = stream.take_error().unwrap().unwrap();
            assert!(stream.take_error().unwrap().is_none());
            error
        }
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn stream_options() {
    let mut run = Loop::new();
    let (client, _server) = connected(&mut run);
    for on in [true, false] {
        client.set_nodelay(on).unwrap();
        assert_eq!(client.nodelay().unwrap(), on);
    }
    client.set_ttl(18).unwrap();
    assert_eq!(client.ttl().unwrap(), 18);
}

#[test]
fn stream_reads_writes_and_peeks() {
    let mut run = Loop::new();
    let (mut client, mut server) = connected(&mut run);
    let mut buf = [0; 16];
    assert_would_block(server.read(&mut buf));
    assert_would_block(server.peek(&mut buf));

    assert_eq!(client.write(b"hello").unwrap(), 5);
    client.flush().unwrap();
    run.expect(SERVER, Event::is_readable);
    for _ in 0..2 {
        assert_eq!(server.peek(&mut buf).unwrap(), 5);
        assert_eq!(&buf[..5], b"hello");
    }
    assert_eq!(server.read(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"hello");

    // Shared references read and write in the same way.
    let (mut client, mut server) = (&client, &server);
    assert_eq!(client.write(b"again").unwrap(), 5);
    client.flush().unwrap();
    assert_eq!(run.block_on(|| server.read(&mut buf)).unwrap(), 5);
    assert_would_block(server.read(&mut buf));
}

#[test]
fn stream_reads_and_writes_vectored() {
    let mut run = Loop::new();
    let (mut client, mut server) = connected(&mut run);
    let parts = [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"three")];
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    assert_eq!(client.write_vectored(&parts).unwrap(), 8);
    let mut read = || server.read_vectored(&mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)]);
    assert_eq!(run.block_on(&mut read).unwrap(), 8);
    assert_eq!((&head, &tail[..4]), (b"onet", &b"hree"[..]));

    assert_eq!((&client).write_vectored(&parts).unwrap(), 8);
    let mut server = &server;
    let mut read = || server.read_vectored(&mut [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)]);
    assert_eq!(run.block_on(&mut read).unwrap(), 8);
}

#[test]
fn stream_moves_more_than_the_buffers_hold() {
    const LENGTH: usize = 8 << 20;
    let mut run = Loop::new();
    let listener = net::TcpListener::bind(localhost()).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    run.register(&mut client, 0, WRITE);
    let thread = thread::spawn(move || io::copy(&mut server, &mut io::sink()).unwrap());
    let chunk = [7; 64 << 10];
    let mut sent = 0;
    while sent < LENGTH {
        sent += run.block_on(|| client.write(&chunk[..chunk.len().min(LENGTH - sent)])).unwrap();
    }
    drop(client);
    assert_eq!(thread.join().unwrap(), LENGTH as u64);
}

#[test]
fn stream_shuts_down() {
    let mut run = Loop::new();
    let (mut client, mut server) = connected(&mut run);
    let mut buf = [0; 16];
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_kind(client.write(b"x"), ErrorKind::BrokenPipe);
    run.expect(SERVER, |event| event.is_readable() && event.is_read_closed() && !event.is_write_closed());
    assert_eq!(server.read(&mut buf).unwrap(), 4);
    assert_eq!(server.read(&mut buf).unwrap(), 0);

    // The other direction is still open.
    server.write_all(b"bye").unwrap();
    assert_eq!(run.block_on(|| client.read(&mut buf)).unwrap(), 3);
    server.shutdown(Shutdown::Both).unwrap();
    run.expect(CLIENT, Event::is_read_closed);
    assert_eq!(client.read(&mut buf).unwrap(), 0);
}

#[test]
fn stream_sees_its_peer_close() {
    let mut run = Loop::new();
    let (mut client, server) = connected(&mut run);
    drop(server);
    run.expect(CLIENT, Event::is_read_closed);
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    let error = loop {
        if let Err(error) = run.block_on(|| client.write(b"x")) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

#[test]
fn stream_runs_other_operations() {
    let mut run = Loop::new();
    let (client, _server) = connected(&mut run);
    assert_eq!(client.try_io(|| Ok(7)).unwrap(), 7);
    assert_would_block(client.try_io(|| client.peek(&mut [0])));
}

#[test]
fn stream_registers_and_converts() {
    let listener = net::TcpListener::bind(localhost()).unwrap();
    check_registration(&mut TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let std = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std.set_nonblocking(true).unwrap();
    let stream = check_conversions!(TcpStream, net::TcpStream, TcpStream::from_std(std));
    assert_flags(&stream);
    assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
}
