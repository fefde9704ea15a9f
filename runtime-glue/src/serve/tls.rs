//! TLS with rustls (feature `tls`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use super::tickets::{PERIOD, TicketKeys};

/// The files of a certificate, and the configuration that was made from them.
///
/// The supervisor reads the files before it forks, and again at each reload, so workers with fewer privileges need not read
/// the key.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    certificates: PathBuf,
    key: PathBuf,
    protocols: &'static [&'static str],
    tickets: Arc<TicketKeys>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files. An error is a text for the operator.
    pub(super) fn new(certificates: PathBuf, key: PathBuf, protocols: &'static [&'static str]) -> Result<Tls, String> {
        let tickets =
            TicketKeys::new().ok_or("cannot make a key for session tickets: the system has no random bytes")?;
        let tickets = Arc::new(tickets);
        let config = Arc::new(Mutex::new(read(&certificates, &key, &tickets, protocols)?));
        Ok(Tls { certificates, key, protocols, tickets, config })
    }

    /// Returns the configuration for the workers that are forked from now on.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again. If a file cannot be read or used, the old configuration stays.
    pub(super) fn reload(&self) -> Result<(), String> {
        let config = read(&self.certificates, &self.key, &self.tickets, self.protocols)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Rotates the ticket keys even in a process that does not use them, so that old keys do not stay in memory. A worker with
    /// a runtime of its own does not run this task, and rotates its keys when it next uses them.
    pub(super) async fn forget_old_keys(self) {
        loop {
            tokio::time::sleep(PERIOD / 2).await;
            self.tickets.advance();
        }
    }
}

fn read(
    certificates: &Path,
    key: &Path,
    tickets: &Arc<TicketKeys>,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, String> {
    let cannot_read = |what: &str, path: &Path, error: pem::Error| {
        let why = match error {
            pem::Error::Io(error) => error.to_string(),
            error => format!("{error}; give a file in PEM format"),
        };
        format!("cannot read the {what} in {}: {why}", path.display())
    };
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|error| cannot_read("certificates", certificates, error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| cannot_read("private key", key, error))?;
    let config = |chain, secret| -> Result<ServerConfig, rustls::Error> {
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
    };
    let mut config = config(chain, secret).map_err(|error| {
        let (certificates, key) = (certificates.display(), key.display());
        format!("cannot use the certificates in {certificates} with the private key in {key}: {error}")
    })?;
    config.ticketer = Arc::clone(tickets) as _;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
