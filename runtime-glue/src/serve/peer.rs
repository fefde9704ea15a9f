//! The other end of a connection.

use std::fmt;
use std::net::SocketAddr;

use hyper::Request;

/// The address of a connection's other end (feature `http`).
///
/// [`Server::connect_info`](crate::Server::connect_info) adds the `Peer` to the extensions of requests. With the feature
/// `axum`, a handler gets it as `ConnectInfo<Peer>`, and the address of a TCP client as `ConnectInfo<SocketAddr>` too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// The address of a TCP client.
    Tcp(SocketAddr),
    /// A client of a Unix socket. Its address is not kept.
    Unix,
}

impl Peer {
    pub(crate) fn insert_into<B>(self, request: &mut Request<B>) {
        request.extensions_mut().insert(self);
        #[cfg(feature = "axum")]
        {
            request.extensions_mut().insert(axum::extract::ConnectInfo(self));
            if let Peer::Tcp(address) = self {
                request.extensions_mut().insert(axum::extract::ConnectInfo(address));
            }
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        Peer::Tcp(address)
    }
}

impl From<tokio::net::unix::SocketAddr> for Peer {
    fn from(_: tokio::net::unix::SocketAddr) -> Peer {
        Peer::Unix
    }
}
