use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;

use socket2::{Domain, Type};

use crate::fork;
use crate::io_source::{IoSource, SourceKind, readable, try_io, writable};
use crate::net::{datagram, peer, shutdown, socket};
use crate::sys::{descriptor, socket};

/// A Unix domain socket that accepts connections.
///
/// Dropping the listener leaves the file at its path. Remove the file, but only in the process that bound the socket.
///
/// # Fork
///
/// A fork treats it like a [`TcpListener`](crate::net::TcpListener).
///
/// # Examples
///
/// ```
/// use forkio_reactor::net::{UnixListener, UnixStream};
///
/// let path = std::env::temp_dir().join(format!("forkio-doc-listener-{}", std::process::id()));
/// let listener = UnixListener::bind(&path)?;
/// let _client = UnixStream::connect(&path)?;
/// // A local connection is complete at once. The client has no name, because it has not bound its socket to one.
/// let (_stream, peer) = listener.accept()?;
/// assert!(peer.is_unnamed());
/// std::fs::remove_file(&path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnixListener {
    inner: IoSource<net::UnixListener>,
}

impl UnixListener {
    /// Binds a socket to `path`, which must not exist, and listens with the system's largest backlog.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a path that contains a NUL or is too long (108 bytes with the
    /// terminator on Linux, 104 on the BSDs); otherwise those of `socket(2)`, `bind(2)` and `listen(2)`:
    /// [`AddrInUse`](io::ErrorKind::AddrInUse), [`NotFound`](io::ErrorKind::NotFound) for a missing directory.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixListener> {
        UnixListener::bind_addr(&SocketAddr::from_pathname(path)?)
    }

    /// Like [`bind`](UnixListener::bind), for an address: a path or (on Linux) an abstract name. On Linux an unnamed
    /// address lets the system choose an abstract name.
    pub fn bind_addr(address: &SocketAddr) -> io::Result<UnixListener> {
        socket::unix_listen(address).map(UnixListener::from_std)
    }

    /// Accepts a connection; returns it, non-blocking and close-on-exec, with the peer's address.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if no connection is waiting, no descriptor left.
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        socket::unix_accept(&self.inner).map(|(stream, peer)| (UnixStream::from_std(stream), peer))
    }
}

socket!(UnixListener, net::UnixListener, Listener, SocketAddr);

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

    /// Like [`connect`](UnixStream::connect), for an address: a path or (on Linux) an abstract name.
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
        fork::add_pair(a.as_raw_fd(), b.as_raw_fd())?;
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
    /// Those of [`UnixListener::bind`].
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixDatagram> {
        UnixDatagram::bind_addr(&SocketAddr::from_pathname(path)?)
    }

    /// Like [`bind`](UnixDatagram::bind), for an address: a path or (on Linux) an abstract name.
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

    /// Like [`UnixStream::pair`], for datagrams.
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
