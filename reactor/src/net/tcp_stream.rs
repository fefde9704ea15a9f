use std::io;
use std::net::{self, Shutdown, SocketAddr};

use crate::event::{readable, writable};
use crate::io_source::{IoSource, SourceKind};
use crate::net::socket;
use crate::sys;

/// A TCP connection, or the attempt to make one.
///
/// # Fork
///
/// The child inherits the registration, and both processes read from one queue. Let only one of them use the
/// connection: the peer sees its end when the last of them has closed it, or one has called
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
/// # fn main() -> std::io::Result<()> {
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
/// # Ok(())
/// # }
/// ```
pub struct TcpStream {
    inner: IoSource<net::TcpStream>,
}

impl TcpStream {
    /// Makes a socket and begins to connect it to `addr`, without waiting.
    ///
    /// To learn how it ended, register the stream for [`WRITABLE`](crate::Interest::WRITABLE) and wait for an event.
    /// Then [`take_error`](TcpStream::take_error) returns the error of a failed attempt, and
    /// [`peer_addr`](TcpStream::peer_addr) succeeds once there is a connection; if it fails with
    /// [`NotConnected`](io::ErrorKind::NotConnected), wait for another event.
    ///
    /// # Errors
    ///
    /// Those of `socket(2)` and `connect(2)` that show at once: no route, no local port
    /// ([`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable)), no descriptor left. An attempt under way is not an error.
    pub fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
        sys::socket::tcp_connect(addr).map(TcpStream::from_std)
    }

    /// Takes over a stream of the standard library, connected or connecting, in the mode it is in.
    pub fn from_std(stream: net::TcpStream) -> TcpStream {
        TcpStream { inner: IoSource::new(stream, SourceKind::Stream) }
    }

    /// The peer's address.
    ///
    /// # Errors
    ///
    /// Those of `getpeername(2)`: [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr()
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Shuts down the reading half, the writing half or both, for every process that has the socket.
    ///
    /// # Errors
    ///
    /// Those of `shutdown(2)`: [`NotConnected`](io::ErrorKind::NotConnected).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }

    /// Switches `TCP_NODELAY`: when on, small segments are sent at once (no Nagle algorithm).
    ///
    /// # Errors
    ///
    /// Those of `setsockopt(2)`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.inner.set_nodelay(nodelay)
    }

    /// Whether `TCP_NODELAY` is on.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.inner.nodelay()
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

    /// Takes the pending error (`SO_ERROR`) off the socket, such as that of a failed connection attempt.
    ///
    /// # Errors
    ///
    /// Those of `getsockopt(2)`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.inner.take_error()
    }

    /// Reads without taking the data off the queue (`MSG_PEEK`); returns the number of bytes.
    ///
    /// # Errors
    ///
    /// Those of `recv(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if there is nothing to read.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.peek(buf)
    }

    /// Runs an I/O operation on the socket's descriptor that this type has no method for.
    ///
    /// The kernel keeps the readiness, so this only calls `f`. Portable programs need this method: on other systems mio
    /// re-arms the source when `f` fails with [`WouldBlock`](io::ErrorKind::WouldBlock).
    ///
    /// # Errors
    ///
    /// Those of `f`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use forkio_reactor::net::TcpStream;
    /// use socket2::SockRef;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let stream = TcpStream::connect("127.0.0.1:7".parse().unwrap())?;
    /// // Once it is connected and writable:
    /// let sent = stream.try_io(|| SockRef::from(&stream).send_out_of_band(b"!"))?;
    /// assert_eq!(sent, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_io<F, T>(&self, f: F) -> io::Result<T>
    where
        F: FnOnce() -> io::Result<T>,
    {
        f()
    }
}

socket!(TcpStream, net::TcpStream, Stream);
readable!(TcpStream, &TcpStream);
writable!(TcpStream, &TcpStream);
