//! Serves HTTP from one process.

#[path = "../../serve/address.rs"]
mod address;
mod error;
mod run;
mod server;
#[path = "../../serve/service.rs"]
mod service;

use std::process::ExitCode;

pub use self::address::{Address, AddressError};
pub use self::error::ServeError;
pub use self::run::Serving;
pub use self::server::{Load, NoLoad, Server};
pub use self::service::{HttpService, Hyper, Tower};

/// Serves HTTP at an address from this process, until Ctrl+C stops the server (feature `http`).
///
/// `service` is an axum `Router` or any other [`HttpService`]. The address is one that [`Address`] accepts. `serve` runs the
/// tokio runtime itself, with a thread for each CPU, so call it from a plain `main`. It returns the status that the process
/// should exit with, and prints an error to standard error. [`Server`] has the options.
///
/// # Platforms
///
/// On systems with `fork(2)`, worker processes answer the requests.
pub fn serve<S, Kind>(address: impl ToString, service: S) -> ExitCode
where
    S: HttpService<Kind> + Send + 'static,
{
    Server::new().bind(address).serve(|_| service).run()
}
