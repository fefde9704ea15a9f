use std::io;
use std::net::Shutdown;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;

use crate::io_source::{IoSource, SourceKind};
use crate::net::socket;
use crate::sys;

/// A Unix domain datagram socket.
///
/// Dropping a bound socket leaves the file at its path: remove it, but only in the process that bound it.
///
/// # Fork
///
/// The same as for a [`UdpSocket`](crate::net::UdpSocket). A [`pair`](UnixDatagram::pair) made in this process may be the channel
/// between parent and child.
///
/// # Examples
///
/// ```
/// use forkio_reactor::net::UnixDatagram;
///
/// # fn main() -> std::io::Result<()> {
/// let (a, b) = UnixDatagram::pair()?;
/// a.send(b"one")?;
/// a.send(b"three")?;
/// let mut buf = [0; 16];
/// assert_eq!(b.recv(&mut buf)?, 3);
/// assert_eq!(b.recv(&mut buf)?, 5);
/// # Ok(())
/// # }
/// ```
pub struct UnixDatagram {
    inner: IoSource<net::UnixDatagram>,
}

impl UnixDatagram {
    /// Makes a socket and binds it to `path`, which must not exist.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a path that contains a NUL or is too long, otherwise those of
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
        sys::socket::unix_datagram(address).map(UnixDatagram::from_std)
    }

    /// Takes over a socket of the standard library, in the mode it is in.
    pub fn from_std(socket: net::UnixDatagram) -> UnixDatagram {
        UnixDatagram { inner: IoSource::new(socket, SourceKind::Datagram) }
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
        sys::socket::unix_datagram_unbound().map(UnixDatagram::from_std)
    }

    /// Makes two sockets without names, connected to each other.
    ///
    /// # Errors
    ///
    /// Those of `socketpair(2)`: no descriptor left.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (a, b) = sys::socket::unix_datagram_pair()?;
        let own = |end| UnixDatagram { inner: IoSource::new(end, SourceKind::Pair) };
        Ok((own(a), own(b)))
    }

    /// The address of this socket; unnamed unless it was bound to a name.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The address of the socket it was connected to.
    ///
    /// # Errors
    ///
    /// Those of `getpeername(2)`: [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr()
    }

    /// Receives a datagram; returns its length, or the buffer's if that is less, and the sender's address.
    ///
    /// # Errors
    ///
    /// Those of `recvfrom(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock).
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.inner.recv_from(buf)
    }

    /// Receives a datagram; returns its length, or the buffer's if that is less.
    ///
    /// # Errors
    ///
    /// Those of `recv(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock).
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.recv(buf)
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

    /// Sends a datagram to the peer; returns its length.
    ///
    /// # Errors
    ///
    /// Those of `send(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if the receiver's queue is full,
    /// [`NotConnected`](io::ErrorKind::NotConnected) without a peer.
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.inner.send(buf)
    }

    /// Takes the pending error (`SO_ERROR`) off the socket.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.inner.take_error()
    }

    /// Shuts down receiving, sending or both, for every process that has the socket.
    ///
    /// # Errors
    ///
    /// Those of `shutdown(2)`: [`NotConnected`](io::ErrorKind::NotConnected) without a peer.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }

    /// Runs an I/O operation on the socket's descriptor that this type has no method for, such as receiving descriptors;
    /// see [`TcpStream::try_io`](crate::net::TcpStream::try_io).
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

socket!(UnixDatagram, net::UnixDatagram, Datagram);
