use std::io;
use std::net::{self, SocketAddr};

use crate::io_source::{IoSource, SourceKind};
use crate::net::{TcpStream, option, socket};
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
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::net::TcpListener;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::io;
///
/// let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
///
/// # let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
/// poll.poll(&mut events, None)?;
/// // One event may stand for several connections.
/// loop {
///     match listener.accept() {
///         Ok((_stream, peer)) => println!("{peer} is connected"),
///         Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
///         Err(error) => return Err(error),
///     }
/// }
/// # Ok::<(), io::Error>(())
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
