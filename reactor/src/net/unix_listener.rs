use std::io;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;

use crate::io_source::{IoSource, SourceKind};
use crate::net::{UnixStream, socket};
use crate::sys;

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

    /// Binds a socket to `address`, a path or (on Linux) an abstract name, and listens. On Linux an unnamed address lets
    /// the system choose an abstract name.
    ///
    /// # Errors
    ///
    /// Those of [`bind`](UnixListener::bind).
    pub fn bind_addr(address: &SocketAddr) -> io::Result<UnixListener> {
        sys::socket::unix_listen(address).map(UnixListener::from_std)
    }

    /// Accepts a connection; returns it, non-blocking and close-on-exec, with the peer's address.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if no connection is waiting, no descriptor left.
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        sys::socket::unix_accept(&self.inner).map(|(stream, peer)| (UnixStream::from_std(stream), peer))
    }
}

socket!(UnixListener, net::UnixListener, Listener, SocketAddr);
