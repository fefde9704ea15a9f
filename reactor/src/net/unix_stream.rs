use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;

use socket2::Type;

use crate::fork;
use crate::io_source::{IoSource, SourceKind, readable, try_io, writable};
use crate::net::{peer, shutdown, socket};
use crate::sys::{descriptor, socket};

/// A Unix domain stream connection.
///
/// # Fork
///
/// A fork treats it like a [`TcpStream`](crate::net::TcpStream). The ends of a [`pair`](UnixStream::pair) have a default
/// policy of their own, because a pair may be the channel between parent and child.
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::net::UnixStream;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::io::{Read, Write};
///
/// let (mut receiver, mut sender) = UnixStream::pair()?;
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// poll.registry().register(&mut receiver, Token(0), Interest::READABLE)?;
///
/// sender.write_all(b"hello")?;
/// poll.poll(&mut events, None)?;
/// let mut buf = [0; 16];
/// assert_eq!(receiver.read(&mut buf)?, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnixStream {
    inner: IoSource<net::UnixStream>,
}

impl UnixStream {
    /// Connects to the socket at `path`, without waiting.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if the listener's backlog is full (on Linux, no event tells when to try
    /// again); [`InvalidInput`](io::ErrorKind::InvalidInput) for a path that contains a NUL or is too long; otherwise
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
        Ok(UnixStream::from_std(socket::connect(&socket::unix_address(address)?)?.into()))
    }

    /// Makes two sockets without names, connected to each other.
    ///
    /// # Errors
    ///
    /// Those of `socketpair(2)`: no descriptor left.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let [a, b] = descriptor::pair(Type::STREAM)?.map(net::UnixStream::from);
        fork::add_pair(a.as_raw_fd(), b.as_raw_fd());
        let end = |end| UnixStream { inner: IoSource::recorded(end, SourceKind::Pair) };
        Ok((end(a), end(b)))
    }
}

socket!(UnixStream, net::UnixStream, Stream, SocketAddr);
peer!(UnixStream, SocketAddr);
try_io!(UnixStream);
shutdown!(UnixStream);
readable!(UnixStream, &UnixStream);
writable!(UnixStream, &UnixStream);
