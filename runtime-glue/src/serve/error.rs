//! Why a server did not start, or ended.

use std::fmt;
use std::io;

use super::{Address, AddressError};
use crate::prefork::PreforkError;

/// Why a [`Server`](super::Server) did not start, or ended.
#[non_exhaustive]
pub enum ServeError {
    /// A text is not an address.
    Address(AddressError),
    /// There is no address to listen on.
    NoListener,
    /// A listener could not be opened.
    #[non_exhaustive]
    Listen {
        /// The address.
        address: Address,
        /// The error of the system.
        source: io::Error,
    },
    /// A listener that this process was started with cannot be used.
    Inherited(io::Error),
    /// The certificate or its private key cannot be used. The text says what to do.
    #[cfg(feature = "tls")]
    Tls(String),
    /// The server was started inside a runtime, but builds its own.
    InsideRuntime,
    /// The runtime could not be built.
    Runtime(io::Error),
    /// The supervisor ended with an error.
    Prefork(PreforkError),
}

impl ServeError {
    /// Returns the status that the process should exit with: 2 if the server cannot listen at an address or cannot use
    /// its certificate; otherwise 1, or the [status of a worker](PreforkError::exit_code).
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Address(_) | ServeError::NoListener | ServeError::Listen { .. } | ServeError::Inherited(_) => 2,
            #[cfg(feature = "tls")]
            ServeError::Tls(_) => 2,
            ServeError::InsideRuntime | ServeError::Runtime(_) => 1,
            ServeError::Prefork(error) => error.exit_code(),
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Address(error) => error.fmt(f),
            ServeError::NoListener => f.write_str(
                "there is nothing to listen on: give an address, or start the server through a socket unit of systemd",
            ),
            ServeError::Listen { address, source } => fmt_listen(f, address, source),
            ServeError::Inherited(error) => write!(
                f,
                "cannot use a listener that this process was started with: {error}; pass stream sockets that listen"
            ),
            #[cfg(feature = "tls")]
            ServeError::Tls(error) => f.write_str(error),
            ServeError::InsideRuntime => f.write_str(
                "cannot start the server inside a tokio runtime, because the server builds its own: start it in a `main` \
                 without `#[tokio::main]`",
            ),
            ServeError::Runtime(error) => write!(f, "cannot build the runtime: {error}"),
            ServeError::Prefork(error) => error.fmt(f),
        }
    }
}

fn fmt_listen(f: &mut fmt::Formatter<'_>, address: &Address, error: &io::Error) -> fmt::Result {
    write!(f, "cannot listen on {address}: ")?;
    match (address, error.kind()) {
        // `Inherited::bind_tcp` names the listener that has the port.
        (Address::Tcp(_), io::ErrorKind::AddrInUse) if error.raw_os_error().is_none() => write!(f, "{error}"),
        (Address::Tcp(_), io::ErrorKind::AddrInUse) => f.write_str(
            "the address is in use; stop the program that listens on it, or choose another port (port 0 stands for a free one)",
        ),
        (Address::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            f.write_str("it is not an address of this machine; choose one that the machine has, or 0.0.0.0 for all")
        }
        (Address::Tcp(_), io::ErrorKind::PermissionDenied) => f.write_str(
            "this is not allowed; choose a port above 1023, or pass the listener through a socket unit of systemd",
        ),
        (Address::Unix(_), io::ErrorKind::AddrInUse) => {
            f.write_str("the path is in use; stop the program that listens on it, or choose another path")
        }
        (Address::Unix(_), io::ErrorKind::NotFound) => f.write_str("the folder does not exist; create it first"),
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            f.write_str("this is not allowed; choose a folder that this process may write to")
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            write!(f, "{error}; raise the limit of open files: `ulimit -n`, or that of the system")
        }
        _ => write!(f, "{error}; choose another address"),
    }
}

debug_like_display!(ServeError);

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServeError::Address(error) => Some(error),
            ServeError::Listen { source, .. } => Some(source),
            ServeError::Inherited(error) | ServeError::Runtime(error) => Some(error),
            ServeError::Prefork(error) => Some(error),
            ServeError::NoListener | ServeError::InsideRuntime => None,
            #[cfg(feature = "tls")]
            ServeError::Tls(_) => None,
        }
    }
}

impl From<AddressError> for ServeError {
    fn from(error: AddressError) -> ServeError {
        ServeError::Address(error)
    }
}

impl From<PreforkError> for ServeError {
    fn from(error: PreforkError) -> ServeError {
        ServeError::Prefork(error)
    }
}
