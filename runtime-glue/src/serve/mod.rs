//! `serve` and `Server`: HTTP from worker processes.

mod address;
#[cfg(feature = "axum")]
mod axum;
mod error;
mod listen;
#[cfg(feature = "clap")]
mod options;
mod peer;
mod run;
mod server;
mod service;
#[cfg(feature = "tls")]
mod tickets;
#[cfg(feature = "tls")]
mod tls;

use std::process::ExitCode;

pub use self::address::{Address, AddressError};
#[cfg(feature = "axum")]
pub use self::axum::{WorkerListener, WorkerStream};
pub use self::error::ServeError;
#[cfg(feature = "status")]
pub(crate) use self::listen::try_connect;
#[cfg(feature = "clap")]
pub use self::options::ServerOptions;
pub use self::peer::Peer;
pub use self::run::Serving;
pub use self::server::{Load, NoLoad, Server};
pub(crate) use self::service::ConnectionService;
pub use self::service::{HttpService, Hyper, Tower};

/// Serves HTTP at an address from one worker process per CPU that this process may use, until a signal stops the server
/// (feature `http`).
///
/// `service` is an axum `Router` or any other [`HttpService`]. The caller makes it once, before the fork, and each worker has
/// a copy. If workers must not share something, such as a connection to a database, open it in [`Server::serve_with`]. The
/// address is one that [`Address`] accepts.
///
/// `serve` runs the tokio runtime itself, so call it from a plain `main`. It returns the status that the process should exit
/// with, and prints an error to standard error. [`Server`] has the options.
///
/// # Fork
///
/// Returns in the supervisor only. A worker process exits inside the call.
///
/// # Examples
///
/// ```no_run
/// use std::convert::Infallible;
/// use std::process::ExitCode;
///
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
///
/// fn main() -> ExitCode {
///     forkio::serve("0.0.0.0:8080", service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new("Hello!".to_owned()))))
/// }
/// ```
pub fn serve<S, Kind>(address: impl ToString, service: S) -> ExitCode
where
    S: HttpService<Kind> + Send + 'static,
{
    Server::new().bind(address).serve(|_| service).run()
}
