//! Opens the listeners of a server.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{Address, ServeError};
use crate::prefork::{Inherited, Listener};
use crate::sys;

/// The options of the listeners that this program opens. Inherited listeners keep theirs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ListenOptions {
    pub(super) backlog: Option<u32>,
    /// The permissions of the files of Unix sockets.
    pub(super) unix_mode: Option<u32>,
}

impl ListenOptions {
    fn set_backlog(self, listener: &impl AsFd) -> io::Result<()> {
        match self.backlog {
            Some(backlog) => SockRef::from(listener).listen(backlog.try_into().unwrap_or(i32::MAX)),
            None => Ok(()),
        }
    }
}

impl Address {
    /// Takes the inherited listener at this address, or opens a new one. A connection to a TCP listener has `TCP_NODELAY` set.
    ///
    /// Replaces a socket file that no process listens on. The caller must remove the file of a Unix socket when the server has
    /// ended, as [`Server`](crate::Server) does.
    ///
    /// # Errors
    ///
    /// [`ServeError::Listen`].
    ///
    /// # Panics
    ///
    /// Outside a runtime with I/O enabled, like `TcpListener::from_std`.
    pub fn listen(&self, inherited: &mut Inherited) -> Result<Listener, ServeError> {
        self.listen_with(inherited, ListenOptions::default())
    }

    pub(super) fn listen_with(
        &self,
        inherited: &mut Inherited,
        options: ListenOptions,
    ) -> Result<Listener, ServeError> {
        let listener = match self {
            Address::Tcp(address) => listen_tcp(address, inherited, options),
            Address::Unix(path) => match inherited.unix(path) {
                Some(listener) => Ok(listener.into()),
                None => listen_unix(path, options).map(Into::into),
            },
        };
        listener.map_err(|source| ServeError::Listen { address: self.clone(), source })
    }

    /// Returns the address of an open listener, with its actual port.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn of(listener: &Listener) -> io::Result<Address> {
        Ok(match listener {
            Listener::Tcp(listener) => Address::Tcp(listener.local_addr()?.to_string()),
            Listener::Unix(listener) => {
                let address = listener.local_addr()?;
                Address::Unix(address.as_pathname().unwrap_or(Path::new("")).to_owned())
            }
        })
    }
}

fn listen_tcp(address: &str, inherited: &mut Inherited, options: ListenOptions) -> io::Result<Listener> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    // The inherited listener may have any of the addresses of a host name.
    let listener = match addresses.iter().find_map(|address| inherited.tcp(*address)) {
        Some(listener) => listener,
        None => {
            let listener = bind_first(&addresses, inherited)?;
            options.set_backlog(&listener)?;
            listener
        }
    };
    // hyper writes a response as a whole, which the kernel need not delay. Accepted connections inherit the option.
    if let Err(error) = SockRef::from(&listener).set_tcp_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    Ok(listener.into())
}

fn bind_first(addresses: &[SocketAddr], inherited: &mut Inherited) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match inherited.bind_tcp(*address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn listen_unix(path: &Path, options: ListenOptions) -> io::Result<UnixListener> {
    let bind = || match options.unix_mode {
        // Unlike chmod(2) afterwards, the umask leaves no time in which other users may connect.
        Some(mode) => sys::with_umask(!mode & 0o777, || UnixListener::bind(path)),
        None => UnixListener::bind(path),
    };
    let listener = match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            fs::remove_file(path)?;
            bind()?
        }
        listener => listener?,
    };
    options.set_backlog(&listener)?;
    Ok(listener)
}

/// Removes the file of a socket at the end of a server, unless another process listens on it: a new program after an upgrade,
/// or systemd.
pub(super) fn remove_abandoned(path: &Path) {
    if !is_abandoned(path) {
        return;
    }
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove the file of a socket");
    }
}

/// Returns whether this is the file of a socket that no process listens on.
fn is_abandoned(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && try_connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects to a Unix socket, to see whether a process listens on it. Returns [`WouldBlock`](io::ErrorKind::WouldBlock) if
/// its queue is full.
pub(crate) fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}
