use std::io;
use std::net::{self, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::io_source::{IoSource, SourceKind};
use crate::net::socket;
use crate::sys;

/// A UDP socket.
///
/// # Fork
///
/// The child inherits the registration, and both processes receive from one queue: each datagram goes to the first process
/// that asks.
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::net::UdpSocket;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::io;
///
/// # fn main() -> io::Result<()> {
/// let sender = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// let mut receiver = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// sender.send_to(b"hello", receiver.local_addr()?)?;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// poll.registry().register(&mut receiver, Token(0), Interest::READABLE)?;
/// let mut buf = [0; 1500];
/// let (length, from) = loop {
///     match receiver.recv_from(&mut buf) {
///         Err(error) if error.kind() == io::ErrorKind::WouldBlock => poll.poll(&mut events, None)?,
///         result => break result?,
///     }
/// };
/// assert_eq!((&buf[..length], from), (&b"hello"[..], sender.local_addr()?));
/// # Ok(())
/// # }
/// ```
pub struct UdpSocket {
    inner: IoSource<net::UdpSocket>,
}

impl UdpSocket {
    /// Makes a socket and binds it to `addr`. Port 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)` and `bind(2)`: [`AddrInUse`](io::ErrorKind::AddrInUse),
    /// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable), [`PermissionDenied`](io::ErrorKind::PermissionDenied) for
    /// a privileged port, no descriptor left.
    pub fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
        sys::socket::udp_bind(addr).map(UdpSocket::from_std)
    }

    /// Takes over a socket of the standard library, in the mode it is in.
    pub fn from_std(socket: net::UdpSocket) -> UdpSocket {
        UdpSocket { inner: IoSource::new(socket, SourceKind::Datagram) }
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The address the socket was connected to.
    ///
    /// # Errors
    ///
    /// Those of `getpeername(2)`: [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr()
    }

    /// Sends a datagram to `target`; returns its length.
    ///
    /// # Errors
    ///
    /// Those of `sendto(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no room, a datagram that is too long.
    pub fn send_to(&self, buf: &[u8], target: SocketAddr) -> io::Result<usize> {
        self.inner.send_to(buf, target)
    }

    /// Receives a datagram; returns its length, or the buffer's if that is less, and the sender's address.
    ///
    /// # Errors
    ///
    /// Those of `recvfrom(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock).
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.inner.recv_from(buf)
    }

    /// Like [`recv_from`](UdpSocket::recv_from), but the datagram stays in the queue.
    ///
    /// # Errors
    ///
    /// Those of [`recv_from`](UdpSocket::recv_from).
    pub fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.inner.peek_from(buf)
    }

    /// Sends a datagram to the connected peer; returns its length.
    ///
    /// # Errors
    ///
    /// Those of `send(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no room, a missing peer,
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if an earlier datagram found no receiver.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.inner.send(buf)
    }

    /// Receives a datagram; returns its length, or the buffer's if that is less.
    ///
    /// # Errors
    ///
    /// Those of `recv(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock), and on a connected socket
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if an earlier datagram found no receiver.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.recv(buf)
    }

    /// Like [`recv`](UdpSocket::recv), but the datagram stays in the queue.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](UdpSocket::recv).
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.peek(buf)
    }

    /// Sets the peer that [`send`](UdpSocket::send) sends to. The socket then receives datagrams only from this peer.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`: no route.
    pub fn connect(&self, addr: SocketAddr) -> io::Result<()> {
        self.inner.connect(addr)
    }

    /// Switches `SO_BROADCAST`: whether the socket may send to a broadcast address. Off at first.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_broadcast(&self, on: bool) -> io::Result<()> {
        self.inner.set_broadcast(on)
    }

    /// Whether `SO_BROADCAST` is on.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn broadcast(&self) -> io::Result<bool> {
        self.inner.broadcast()
    }

    /// Switches `IP_MULTICAST_LOOP`: whether this host receives the IPv4 multicasts that the socket sends.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_multicast_loop_v4(&self, on: bool) -> io::Result<()> {
        self.inner.set_multicast_loop_v4(on)
    }

    /// Whether `IP_MULTICAST_LOOP` is on.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        self.inner.multicast_loop_v4()
    }

    /// Sets the time to live of IPv4 multicasts (`IP_MULTICAST_TTL`), in hops. 1 at first: the local network.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        self.inner.set_multicast_ttl_v4(ttl)
    }

    /// The time to live of IPv4 multicasts, in hops.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        self.inner.multicast_ttl_v4()
    }

    /// Switches `IPV6_MULTICAST_LOOP`: whether this host receives the IPv6 multicasts that the socket sends.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_multicast_loop_v6(&self, on: bool) -> io::Result<()> {
        self.inner.set_multicast_loop_v6(on)
    }

    /// Whether `IPV6_MULTICAST_LOOP` is on.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn multicast_loop_v6(&self) -> io::Result<bool> {
        self.inner.multicast_loop_v6()
    }

    /// Sets the time to live (`IP_TTL`) of the packets that the socket sends, in hops.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.inner.set_ttl(ttl)
    }

    /// The time to live (`IP_TTL`), in hops.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn ttl(&self) -> io::Result<u32> {
        self.inner.ttl()
    }

    /// Joins the multicast group `multiaddr` on the interface that has the address `interface`; the unspecified address
    /// lets the system choose one.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)` (`IP_ADD_MEMBERSHIP`): not a multicast address, no such interface.
    pub fn join_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.inner.join_multicast_v4(multiaddr, interface)
    }

    /// Joins the multicast group `multiaddr` on the interface with the index `interface`; 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)` (`IPV6_ADD_MEMBERSHIP`): not a multicast address, no such interface.
    pub fn join_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.inner.join_multicast_v6(multiaddr, interface)
    }

    /// Leaves a group joined with [`join_multicast_v4`](UdpSocket::join_multicast_v4).
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)` (`IP_DROP_MEMBERSHIP`): not a member.
    pub fn leave_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.inner.leave_multicast_v4(multiaddr, interface)
    }

    /// Leaves a group joined with [`join_multicast_v6`](UdpSocket::join_multicast_v6).
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)` (`IPV6_DROP_MEMBERSHIP`): not a member.
    pub fn leave_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.inner.leave_multicast_v6(multiaddr, interface)
    }

    /// Whether an IPv6 socket takes IPv6 packets only (`IPV6_V6ONLY`).
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`: on Linux, an IPv4 socket does not know the option.
    pub fn only_v6(&self) -> io::Result<bool> {
        sys::socket::udp_only_v6(&self.inner)
    }

    /// Takes the pending error (`SO_ERROR`) off the socket.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.inner.take_error()
    }

    /// Runs an I/O operation on the socket's descriptor that this type has no method for; see
    /// [`TcpStream::try_io`](crate::net::TcpStream::try_io).
    ///
    /// # Errors
    ///
    /// Those of `f`.
    pub fn try_io<F, T>(&self, f: F) -> io::Result<T>
    where
        F: FnOnce() -> io::Result<T>,
    {
        f()
    }
}

socket!(UdpSocket, net::UdpSocket, Datagram);
