//! What lies between the socket and HTTP.

use std::error::Error;

use hyper::body::{Body, Incoming as IncomingBody};
use hyper::service::Service;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::worker::WorkerHandle;
use super::{Http, connection};
use crate::Peer;

/// The transport of the TCP connections that [`Http`] accepts.
#[derive(Clone, Debug, Default)]
pub(super) enum Transport {
    #[default]
    Plain,
    #[cfg(feature = "tls")]
    Tls(std::sync::Arc<tokio_rustls::rustls::ServerConfig>),
}

impl Http {
    /// Serves TLS on TCP listeners. Unix sockets stay as they are.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(mut self, config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>) -> Http {
        self.transport = Transport::Tls(config);
        self
    }

    /// The protocols that a TLS server offers, by name.
    #[cfg(feature = "tls")]
    pub(crate) fn protocol_names(&self) -> &'static [&'static str] {
        match self.protocols {
            super::Protocols::Http1(_) => &["http/1.1"],
            super::Protocols::Both(_) => &["h2", "http/1.1"],
        }
    }

    /// For listeners on which nothing can be read on the way.
    pub(super) fn plain(mut self) -> Http {
        self.transport = Transport::Plain;
        self
    }

    /// Serves one connection that has been accepted.
    pub(super) async fn accepted<I, S, B>(
        &self,
        io: I,
        peer: Option<Peer>,
        service: S,
        worker: &WorkerHandle,
    ) -> Result<(), Box<dyn Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        match &self.transport {
            Transport::Plain => connection::serve(self, io, peer, service, worker).await,
            #[cfg(feature = "tls")]
            Transport::Tls(config) => {
                let handshake = tokio_rustls::TlsAcceptor::from(std::sync::Arc::clone(config)).accept(io);
                let io = tokio::time::timeout(self.header_timeout, handshake).await??;
                // Boxed, so that a plain connection has no place for it.
                Box::pin(connection::serve(self, io, peer, service, worker)).await
            }
        }
    }
}
