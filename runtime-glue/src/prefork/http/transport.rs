//! The transport of a connection: plain or TLS.

use super::Http;

/// The transport of the TCP connections that [`Http`] accepts.
#[derive(Clone, Debug, Default)]
pub(super) enum Transport {
    #[default]
    Plain,
    #[cfg(feature = "tls")]
    Tls(std::sync::Arc<tokio_rustls::rustls::ServerConfig>),
}

impl Http {
    /// Serves TLS on TCP listeners. Unix sockets stay plain.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(mut self, config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>) -> Http {
        self.transport = Transport::Tls(config);
        self
    }

    /// Returns the protocols that a TLS server offers, by name.
    #[cfg(feature = "tls")]
    pub(crate) fn protocol_names(&self) -> &'static [&'static str] {
        match self.protocols {
            super::Protocols::Http1(_) => &["http/1.1", "http/1.0"],
            super::Protocols::Both(_) => &["h2", "http/1.1", "http/1.0"],
        }
    }

    /// Serves without TLS: for Unix sockets, whose bytes stay on this machine.
    pub(super) fn plain(mut self) -> Http {
        self.transport = Transport::Plain;
        self
    }
}
