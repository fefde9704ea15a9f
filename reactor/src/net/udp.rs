use std::io;
use std::net::{self, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{SockRef, Type};

use crate::io_source::{IoSource, SourceKind, try_io};
use crate::net::{datagram, forward, option, peer, socket};
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
///
/// let sender = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// let mut receiver = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// sender.send_to(b"hello", receiver.local_addr()?)?;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// poll.registry().register(&mut receiver, Token(0), Interest::READABLE)?;
/// poll.poll(&mut events, None)?;
/// let mut buf = [0; 1500];
/// let (length, from) = receiver.recv_from(&mut buf)?;
/// assert_eq!((&buf[..length], from), (&b"hello"[..], sender.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UdpSocket {
    inner: IoSource<net::UdpSocket>,
}

impl UdpSocket {
    /// Makes a socket and binds it to `addr`. Port 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// Those of [`TcpListener::bind`](crate::net::TcpListener::bind).
    pub fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
        Ok(UdpSocket::from_std(sys::socket::bind(&addr.into(), Type::DGRAM)?.into()))
    }

    /// Whether an IPv6 socket takes IPv6 packets only (`IPV6_V6ONLY`).
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`: on Linux, an IPv4 socket does not know the option.
    pub fn only_v6(&self) -> io::Result<bool> {
        SockRef::from(&*self.inner).only_v6()
    }
}

forward! { UdpSocket:
    /// Sets the peer that [`send`](UdpSocket::send) sends to. The socket then receives datagrams only from this peer.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`: no route.
    fn connect(addr: SocketAddr) -> ();

    /// Sends a datagram to `target`; returns its length.
    ///
    /// # Errors
    ///
    /// Those of `sendto(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no room, a datagram that is too long.
    fn send_to(buf: &[u8], target: SocketAddr) -> usize;

    /// Like [`recv_from`](UdpSocket::recv_from), but the datagram stays in the queue.
    fn peek_from(buf: &mut [u8]) -> (usize, SocketAddr);

    /// Like [`recv`](UdpSocket::recv), but the datagram stays in the queue.
    fn peek(buf: &mut [u8]) -> usize;

    /// Joins the multicast group `multiaddr` on the interface that has the address `interface`; the unspecified address
    /// lets the system choose one.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)` (`IP_ADD_MEMBERSHIP`): not a multicast address, no such interface.
    fn join_multicast_v4(multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> ();

    /// Joins the multicast group `multiaddr` on the interface with the index `interface`; 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)` (`IPV6_ADD_MEMBERSHIP`): not a multicast address, no such interface.
    fn join_multicast_v6(multiaddr: &Ipv6Addr, interface: u32) -> ();

    /// Leaves a group joined with [`join_multicast_v4`](UdpSocket::join_multicast_v4) (`IP_DROP_MEMBERSHIP`). Fails if
    /// the socket is not a member.
    fn leave_multicast_v4(multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> ();

    /// Leaves a group joined with [`join_multicast_v6`](UdpSocket::join_multicast_v6) (`IPV6_DROP_MEMBERSHIP`). Fails
    /// if the socket is not a member.
    fn leave_multicast_v6(multiaddr: &Ipv6Addr, interface: u32) -> ();
}

socket!(UdpSocket, net::UdpSocket, Datagram, SocketAddr);
datagram!(UdpSocket, SocketAddr);
peer!(UdpSocket, SocketAddr);
try_io!(UdpSocket);
option!(UdpSocket: ttl);
option!(UdpSocket: set_broadcast, broadcast, bool,
    "`SO_BROADCAST`: whether the socket may send to a broadcast address. Off at first.");
option!(UdpSocket: set_multicast_loop_v4, multicast_loop_v4, bool,
    "`IP_MULTICAST_LOOP`: whether this host receives the IPv4 multicasts that the socket sends.");
option!(UdpSocket: set_multicast_ttl_v4, multicast_ttl_v4, u32,
    "the time to live of IPv4 multicasts (`IP_MULTICAST_TTL`), in hops. 1 at first: the local network.");
option!(UdpSocket: set_multicast_loop_v6, multicast_loop_v6, bool,
    "`IPV6_MULTICAST_LOOP`: whether this host receives the IPv6 multicasts that the socket sends.");
