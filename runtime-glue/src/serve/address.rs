//! The addresses that a server listens on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on, parsed from text such as `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` or
/// `unix:/run/app.sock`.
///
/// # Examples
///
/// ```
/// use forkio::Address;
///
/// let address: Address = "unix:/run/app.sock".parse()?;
/// assert_eq!(address, Address::Unix("/run/app.sock".into()));
/// assert!("8080".parse::<Address>().is_err());
/// # Ok::<(), forkio::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A host and a TCP port. Port 0 stands for a free port. If a host name has several addresses, the server listens on the
    /// first one that it can open. On Linux and macOS, unless configured otherwise, a listener at `[::]` takes IPv4
    /// connections too, and `0.0.0.0` with the same port is then in use.
    Tcp(String),
    /// The path of a Unix stream socket, on systems with `fork(2)`. Its permissions decide which users may connect: those of
    /// [`Server::unix_mode`](crate::Server::unix_mode), or those that the umask leaves.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(AddressError { text: text.to_owned() }),
                path => Ok(Address::Unix(path.into())),
            };
        }
        let is_host = |host: &str| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        let is_name = || text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
        match text.parse::<SocketAddr>().is_ok() || is_name() {
            true => Ok(Address::Tcp(text.to_owned())),
            false => Err(AddressError { text: text.to_owned() }),
        }
    }
}

/// Prints the text that this address is parsed from.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot listen on {:?}: give an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080, a host name and a \
             port, or unix: and a path",
            self.text
        )
    }
}

impl std::error::Error for AddressError {}
