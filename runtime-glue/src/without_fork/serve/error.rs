//! Why a server did not start, or ended.

use std::fmt;
use std::io;

use super::{Address, AddressError};

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
    /// The server was started inside a runtime, but builds its own.
    InsideRuntime,
    /// The runtime could not be built, or the system has refused the address of a listener or the handler of Ctrl+C.
    Runtime(io::Error),
    /// The application could not be loaded, or its service could not be made. The text is that of the error.
    Application(String),
    /// This many connections were still open at the shutdown timeout.
    CutOff(usize),
}

impl ServeError {
    /// Returns the status that the process should exit with: 2 if the server cannot listen where it was told to, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Address(_) | ServeError::NoListener | ServeError::Listen { .. } => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Address(error) => error.fmt(f),
            ServeError::NoListener => f.write_str("there is nothing to listen on: give an address"),
            ServeError::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {source}; choose another address")
            }
            ServeError::InsideRuntime => f.write_str(
                "cannot start the server inside a tokio runtime, because the server builds its own: start it in a `main` \
                 without `#[tokio::main]`",
            ),
            ServeError::Runtime(error) => write!(f, "cannot run the server: {error}"),
            ServeError::Application(error) => write!(f, "cannot load the application or make its service: {error}"),
            ServeError::CutOff(connections) => {
                let (s, were) = if *connections == 1 { ("", "was") } else { ("s", "were") };
                write!(f, "cut off {connections} connection{s} that {were} open at the shutdown timeout")
            }
        }
    }
}

debug_like_display!(ServeError);

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServeError::Address(error) => Some(error),
            ServeError::Listen { source, .. } | ServeError::Runtime(source) => Some(source),
            _ => None,
        }
    }
}
