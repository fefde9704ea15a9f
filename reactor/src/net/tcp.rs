use std::io;
use std::net::{self, SocketAddr};

use crate::io_source::{IoSource, SourceKind, readable, try_io, writable};
use crate::net::{forward, option, peer, shutdown, socket};
use crate::sys;

/// A TCP socket that accepts connections.
///
/// # Fork
///
/// The child inherits the registration. Parent and child then accept from one queue: the first to call
/// [`accept`](TcpListener::accept) gets the connection, the other one gets [`WouldBlock`](io::ErrorKind::WouldBlock).
///
/// # Examples
///
/// The [guide](crate::guide) registers a listener.
///
/// ```
/// use forkio_reactor::net::TcpListener;
///
/// let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
/// let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
/// // A local connection is complete at once.
/// let (_stream, peer) = listener.accept()?;
/// assert!(peer.ip().is_loopback());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpListener {
    inner: IoSource<net::TcpListener>,
}

impl TcpListener {
    /// Makes a socket, sets `SO_REUSEADDR`, binds it to `addr` and listens with a backlog of 128 connections.
    ///
    /// Port 0 lets the system choose one: see [`local_addr`](TcpListener::local_addr).
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`, `bind(2)` and `listen(2)`: [`AddrInUse`](io::ErrorKind::AddrInUse),
    /// [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable), [`PermissionDenied`](io::ErrorKind::PermissionDenied) for
    /// a privileged port, no descriptor left.
    pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
        sys::socket::tcp_listen(addr).map(TcpListener::from_std)
    }

    /// Accepts a connection; returns it, non-blocking and close-on-exec, with the peer's address.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if no connection is waiting, errors of a single
    /// connection such as [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), no descriptor left.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        sys::socket::tcp_accept(&self.inner).map(|(stream, peer)| (TcpStream::from_std(stream), peer))
    }
}

socket!(TcpListener, net::TcpListener, Listener, SocketAddr);
option!(TcpListener: ttl);

/// A TCP connection, or the attempt to make one.
///
/// # Fork
///
/// The child inherits the registration, and both processes read from one queue. Let only one of them use the
/// connection. The peer sees the end of the connection when both processes have closed it, or when one has called
/// [`shutdown`](TcpStream::shutdown).
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::net::TcpStream;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::io::Write;
///
/// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// let mut stream = TcpStream::connect(address)?;
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// poll.registry().register(&mut stream, Token(0), Interest::WRITABLE)?;
///
/// loop {
///     poll.poll(&mut events, None)?;
///     if let Some(error) = stream.take_error()? {
///         return Err(error);
///     }
///     if stream.peer_addr().is_ok() {
///         break;
///     }
/// }
/// assert_eq!(stream.write(b"hello")?, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpStream {
    inner: IoSource<net::TcpStream>,
}

impl TcpStream {
    /// Makes a socket and begins to connect it to `addr`, without waiting.
    ///
    /// To learn the result, register the stream for [`WRITABLE`](crate::Interest::WRITABLE) and wait for an event.
    /// Then [`take_error`](TcpStream::take_error) returns the error of a failed attempt, and
    /// [`peer_addr`](TcpStream::peer_addr) succeeds once there is a connection. If `peer_addr` fails with
    /// [`NotConnected`](io::ErrorKind::NotConnected), wait for another event.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)`, and those of `connect(2)` that the kernel reports at once: no route, no local port
    /// ([`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable)), no descriptor left. An attempt under way is not an error.
    pub fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
        Ok(TcpStream::from_std(sys::socket::connect(&addr.into())?.into()))
    }
}

forward! { TcpStream:
    /// Reads without taking the data off the queue (`MSG_PEEK`); returns the number of bytes.
    ///
    /// # Errors
    ///
    /// Those of `recv(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing to read.
    fn peek(buf: &mut [u8]) -> usize;
}

socket!(TcpStream, net::TcpStream, Stream, SocketAddr);
peer!(TcpStream, SocketAddr);
try_io! { TcpStream:
    /// # Examples
    ///
    /// ```no_run
    /// use forkio_reactor::net::TcpStream;
    /// use socket2::SockRef;
    ///
    /// let stream = TcpStream::connect("127.0.0.1:7".parse().unwrap())?;
    /// // Once it is connected and writable:
    /// stream.try_io(|| SockRef::from(&stream).send_out_of_band(b"!"))?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
}
shutdown!(TcpStream);
option!(TcpStream: set_nodelay, nodelay, bool,
    "`TCP_NODELAY`: whether small segments are sent at once (no Nagle algorithm).");
option!(TcpStream: ttl);
readable!(TcpStream, &TcpStream);
writable!(TcpStream, &TcpStream);
