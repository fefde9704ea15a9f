use std::io;
use std::net::Shutdown;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;

use crate::event::{readable, writable};
use crate::io_source::{IoSource, SourceKind};
use crate::net::socket;
use crate::sys;

/// A Unix domain stream connection.
///
/// # Fork
///
/// The same as for a [`TcpStream`](crate::net::TcpStream). A [`pair`](UnixStream::pair) made in this process may be the channel
/// between parent and child.
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::net::UnixStream;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::io::{Read, Write};
///
/// # fn main() -> std::io::Result<()> {
/// let (mut ours, mut theirs) = UnixStream::pair()?;
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// poll.registry().register(&mut ours, Token(0), Interest::READABLE)?;
///
/// theirs.write_all(b"hello")?;
/// poll.poll(&mut events, None)?;
/// let mut buf = [0; 16];
/// assert_eq!(ours.read(&mut buf)?, 5);
/// # Ok(())
/// # }
/// ```
pub struct UnixStream {
    inner: IoSource<net::UnixStream>,
}

impl UnixStream {
    /// Connects to the socket at `path`, without waiting.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if the listener's backlog is full (Linux: no event will say when to try
    /// again), [`InvalidInput`](io::ErrorKind::InvalidInput) for a path that contains a NUL or is too long, otherwise
    /// those of `socket(2)` and `connect(2)`: [`NotFound`](io::ErrorKind::NotFound),
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), [`PermissionDenied`](io::ErrorKind::PermissionDenied).
    pub fn connect<P: AsRef<Path>>(path: P) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&SocketAddr::from_pathname(path)?)
    }

    /// Connects to the socket at `address`, a path or (on Linux) an abstract name, without waiting.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](UnixStream::connect).
    pub fn connect_addr(address: &SocketAddr) -> io::Result<UnixStream> {
        sys::socket::unix_connect(address).map(UnixStream::from_std)
    }

    /// Takes over a stream of the standard library, in the mode it is in.
    pub fn from_std(stream: net::UnixStream) -> UnixStream {
        UnixStream { inner: IoSource::new(stream, SourceKind::Stream) }
    }

    /// Makes two sockets without names, connected to each other.
    ///
    /// # Errors
    ///
    /// Those of `socketpair(2)`: no descriptor left.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let (a, b) = sys::socket::unix_stream_pair()?;
        let (a, b) = IoSource::pair(a, b);
        Ok((UnixStream { inner: a }, UnixStream { inner: b }))
    }

    /// The address of this side; unnamed unless it was bound to a name.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The peer's address; unnamed unless it was bound to a name.
    ///
    /// # Errors
    ///
    /// Those of `getpeername(2)`: [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr()
    }

    /// Takes the pending error (`SO_ERROR`) off the socket.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.inner.take_error()
    }

    /// Shuts down the reading half, the writing half or both, for every process that has the socket.
    ///
    /// # Errors
    ///
    /// Those of `shutdown(2)`: [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }

    /// Runs an I/O operation on the socket's descriptor that this type has no method for, such as receiving descriptors; see
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

socket!(UnixStream, net::UnixStream, Stream);
readable!(UnixStream, &UnixStream);
writable!(UnixStream, &UnixStream);
