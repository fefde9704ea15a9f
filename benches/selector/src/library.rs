//! The interface through which the operations use a library.

use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::time::Duration;
use std::{net, os};

/// The readiness that a source is registered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    ReadWrite,
}

/// A library with selectors, in mio's terms.
pub(crate) trait Library: 'static {
    type Poll;
    type Registry: Register<Self::TcpListener>
        + Register<Self::TcpStream>
        + Register<Self::UdpSocket>
        + Register<Self::UnixStream>
        + Send
        + Sync
        + 'static;
    type Events;
    type Waker: Send + Sync + 'static;
    type TcpListener: Send + 'static;
    type TcpStream: Read + Write;
    type UdpSocket: Send + 'static;
    type UnixStream: Read + Write;

    fn new_poll() -> io::Result<Self::Poll>;
    fn registry(poll: &Self::Poll) -> &Self::Registry;
    fn try_clone(registry: &Self::Registry) -> io::Result<Self::Registry>;
    /// Makes room for 64 events.
    fn events() -> Self::Events;
    fn poll(poll: &mut Self::Poll, events: &mut Self::Events, limit: Option<Duration>) -> io::Result<()>;
    fn is_empty(events: &Self::Events) -> bool;
    fn has(events: &Self::Events, token: usize) -> bool;

    /// Makes a waker whose token is 0.
    fn waker(registry: &Self::Registry) -> io::Result<Self::Waker>;
    fn wake(waker: &Self::Waker) -> io::Result<()>;

    fn tcp_listener(listener: net::TcpListener) -> Self::TcpListener;
    fn tcp_stream(stream: net::TcpStream) -> Self::TcpStream;
    fn udp_socket(socket: net::UdpSocket) -> Self::UdpSocket;
    fn unix_stream(stream: os::unix::net::UnixStream) -> Self::UnixStream;
    /// Accepts a connection and learns the peer's address.
    fn accept(listener: &Self::TcpListener) -> io::Result<Self::TcpStream>;

    /// Registers a descriptor that other code owns, for reading.
    fn register_fd(registry: &Self::Registry, fd: RawFd, token: usize) -> io::Result<()>;
    fn deregister_fd(registry: &Self::Registry, fd: RawFd) -> io::Result<()>;
}

/// A registry that takes the source `S`.
pub(crate) trait Register<S> {
    fn add(&self, source: &mut S, token: usize, interest: Interest) -> io::Result<()>;
    fn change(&self, source: &mut S, token: usize, interest: Interest) -> io::Result<()>;
    fn remove(&self, source: &mut S) -> io::Result<()>;
}
