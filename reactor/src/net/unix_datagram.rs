use std::io;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;

use socket2::{Domain, Type};

use crate::io_source::{IoSource, SourceKind, try_io};
use crate::net::{datagram, peer, shutdown, socket};
use crate::sys::{descriptor, socket};

/// A Unix domain datagram socket.
///
/// Dropping a bound socket leaves the file at its path. Remove the file, but only in the process that bound the socket.
///
/// # Fork
///
/// A fork treats it like a [`UdpSocket`](crate::net::UdpSocket). The ends of a [`pair`](UnixDatagram::pair) have a default
/// policy of their own, because a pair may be the channel between parent and child.
///
/// # Examples
///
/// ```
/// use forkio_reactor::net::UnixDatagram;
///
/// let (a, b) = UnixDatagram::pair()?;
/// a.send(b"one")?;
/// a.send(b"three")?;
/// let mut buf = [0; 16];
/// assert_eq!(b.recv(&mut buf)?, 3);
/// assert_eq!(b.recv(&mut buf)?, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnixDatagram {
    inner: IoSource<net::UnixDatagram>,
}

impl UnixDatagram {
    /// Makes a socket and binds it to `path`, which must not exist.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a path that contains a NUL or is too long; otherwise those of
    /// `socket(2)` and `bind(2)`: [`AddrInUse`](io::ErrorKind::AddrInUse), [`NotFound`](io::ErrorKind::NotFound) for a
    /// missing directory.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixDatagram> {
        UnixDatagram::bind_addr(&SocketAddr::from_pathname(path)?)
    }

    /// Makes a socket and binds it to `address`, a path or (on Linux) an abstract name.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](UnixDatagram::bind).
    pub fn bind_addr(address: &SocketAddr) -> io::Result<UnixDatagram> {
        Ok(UnixDatagram::from_std(socket::bind(&socket::unix_address(address)?, Type::DGRAM)?.into()))
    }

    /// Sets the peer that [`send`](UnixDatagram::send) sends to. The socket then receives datagrams only from this peer.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`: [`NotFound`](io::ErrorKind::NotFound),
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused).
    pub fn connect<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.inner.connect(path)
    }

    /// Makes a socket without a name: it can send, but its peers cannot answer.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`: no descriptor left.
    pub fn unbound() -> io::Result<UnixDatagram> {
        Ok(UnixDatagram::from_std(socket::open(Domain::UNIX, Type::DGRAM)?.into()))
    }

    /// Makes two sockets without names, connected to each other.
    ///
    /// # Errors
    ///
    /// Those of `socketpair(2)`: no descriptor left.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let [a, b] = descriptor::pair(Type::DGRAM)?.map(|end| IoSource::new(end.into(), SourceKind::Pair));
        Ok((UnixDatagram { inner: a }, UnixDatagram { inner: b }))
    }

    /// Sends a datagram to the socket at `path`; returns its length.
    ///
    /// # Errors
    ///
    /// Those of `sendto(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if the receiver's queue is full,
    /// [`NotFound`](io::ErrorKind::NotFound), [`ConnectionRefused`](io::ErrorKind::ConnectionRefused).
    pub fn send_to<P: AsRef<Path>>(&self, buf: &[u8], path: P) -> io::Result<usize> {
        self.inner.send_to(buf, path)
    }
}

socket!(UnixDatagram, net::UnixDatagram, Datagram, SocketAddr);
datagram!(UnixDatagram, SocketAddr);
peer!(UnixDatagram, SocketAddr);
try_io!(UnixDatagram);
shutdown!(UnixDatagram);
