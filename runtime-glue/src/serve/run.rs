//! Runs a configured server.

use std::env;
use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::listen::{ListenOptions, remove_abandoned};
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::{Address, AddressError, HttpService, ServeError};
use crate::prefork::http::Http;
use crate::prefork::{Inherited, Listener, Prefork, PreforkError, Stopped, Worker, enter_worker_span};

/// The supervisor calls this function with the addresses of the listeners, when the server is ready.
pub(super) type OnReady = Box<dyn FnOnce(&[Address]) + Send>;

/// The settings of a server, except the service.
pub(super) struct Setup {
    pub(super) addresses: Vec<Result<Address, AddressError>>,
    pub(super) listen_options: ListenOptions,
    pub(super) takes_inherited: bool,
    /// The files of the certificates and of their private key.
    #[cfg(feature = "tls")]
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
    pub(super) worker: WorkerSetup,
    pub(super) prefork: Prefork,
    pub(super) on_ready: Option<OnReady>,
}

/// The settings with which a worker serves.
#[derive(Debug)]
pub(super) struct WorkerSetup {
    pub(super) http: Http,
    /// The number of threads, if the worker has a runtime of its own.
    pub(super) threads: Option<usize>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

impl WorkerSetup {
    /// Returns the settings of HTTP, with the current certificate if there is one. Call it in the worker, because a reload may
    /// have changed the certificate.
    fn http(&self) -> Http {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return self.http.clone().tls(tls.config());
        }
        self.http.clone()
    }
}

impl Setup {
    pub(super) fn new() -> Setup {
        Setup {
            addresses: Vec::new(),
            listen_options: ListenOptions::default(),
            takes_inherited: false,
            worker: WorkerSetup {
                http: Http::new(),
                threads: None,
                #[cfg(feature = "tls")]
                tls: None,
            },
            #[cfg(feature = "tls")]
            certificate: None,
            prefork: Prefork::new(),
            on_ready: None,
        }
    }

    /// Opens the listeners. Adds the file of each Unix socket to `sockets` as soon as the socket is open.
    fn listen(&mut self, sockets: &mut Vec<PathBuf>) -> Result<Vec<(Address, Listener)>, ServeError> {
        let mut inherited = Inherited::from_env().map_err(ServeError::Inherited)?;
        let mut listeners = Vec::new();
        let mut add = |listener| -> Result<(), ServeError> {
            let address = Address::of(&listener).map_err(ServeError::Inherited)?;
            if let Address::Unix(path) = &address {
                sockets.push(path.clone());
            }
            listeners.push((address, listener));
            Ok(())
        };
        for address in self.addresses.drain(..) {
            add(address?.listen_with(&mut inherited, self.listen_options)?)?;
        }
        if self.takes_inherited {
            inherited.take_all().into_iter().try_for_each(add)?;
        } else if !inherited.is_empty() {
            tracing::warn!(?inherited, "closing inherited listeners: bind their addresses, or call `Server::systemd`");
        }
        match listeners.is_empty() {
            true => Err(ServeError::NoListener),
            false => Ok(listeners),
        }
    }

    /// Makes the supervisor with its listeners. Adds the files of its Unix sockets to `sockets`, even if it fails.
    fn into_prefork(mut self, sockets: &mut Vec<PathBuf>) -> Result<(Prefork, WorkerSetup), ServeError> {
        #[cfg(feature = "tls")]
        if let Some((certificates, key)) = self.certificate.take() {
            let tls = Tls::new(certificates, key, self.worker.http.protocol_names()).map_err(ServeError::Tls)?;
            // The task runs in the supervisor, and in each worker that continues the inherited runtime.
            tokio::spawn(tls.clone().forget_old_keys());
            let again = tls.clone();
            self.prefork = self.prefork.on_reload_first(move || again.reload());
            self.worker.tls = Some(tls);
        }
        let mut addresses = Vec::new();
        for (address, listener) in self.listen(sockets)? {
            tracing::info!(%address, "listening");
            addresses.push(address);
            self.prefork = self.prefork.listener(listener);
        }
        if let Some(on_ready) = self.on_ready {
            self.prefork = self.prefork.on_ready(move || on_ready(&addresses));
        }
        Ok((self.prefork, self.worker))
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("addresses", &self.addresses)
            .field("takes_inherited", &self.takes_inherited)
            .field("worker", &self.worker)
            .field("prefork", &self.prefork)
            .finish_non_exhaustive()
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Stopped, PreforkError>>>>;

/// A server that is ready to [run](Serving::run): [`Server::serve`](super::Server::serve).
#[must_use = "a server does nothing until it runs"]
pub struct Serving {
    setup: Setup,
    start: Box<dyn FnOnce(Prefork, WorkerSetup) -> Running>,
}

impl Serving {
    pub(super) fn new(setup: Setup, start: impl FnOnce(Prefork, WorkerSetup) -> Running + 'static) -> Serving {
        Serving { setup, start: Box::new(start) }
    }

    /// Serves until a signal stops the server. Returns the status that the process should exit with, and prints an error to
    /// standard error.
    ///
    /// | status | meaning |
    /// |---|---|
    /// | 0 | stopped by a signal; everything that had begun was finished |
    /// | 1 | connections were cut off at the shutdown timeout, or the server could not start or continue |
    /// | 2 | the server has no address, cannot listen at one (also of its status page), or cannot use its certificate |
    /// | other | the status of the first worker that failed, as a shell gives it: 137 if it was killed |
    ///
    /// # Fork
    ///
    /// Returns in the supervisor only. A worker process exits inside the call.
    pub fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(stopped) => ExitCode::from(stopped.exit_code()),
            Err(error) => {
                let program = env::args_os().next().unwrap_or_default();
                let name = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
                // Do not panic if standard error is closed.
                let _ = writeln!(io::stderr(), "{name}: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    }

    /// Like [`run`](Serving::run), but returns how the server ended.
    ///
    /// # Errors
    ///
    /// [`ServeError`]. All workers have ended by then.
    pub fn try_run(self) -> Result<Stopped, ServeError> {
        if Handle::try_current().is_ok() {
            return Err(ServeError::InsideRuntime);
        }
        // `fork(2)` copies only the thread that calls it, so a runtime that forks has one thread. A fork waits until the threads
        // of the blocking pool have ended, so this runtime keeps idle threads only for a short time.
        let mut runtime = Builder::new_current_thread();
        runtime.thread_keep_alive(Duration::from_millis(100)).on_thread_start(enter_worker_span).enable_all();
        let runtime = runtime.build().map_err(ServeError::Runtime)?;
        runtime.block_on(async {
            let mut sockets = Vec::new();
            let ended = match self.setup.into_prefork(&mut sockets) {
                Ok((prefork, worker)) => (self.start)(prefork, worker).await.map_err(ServeError::from),
                Err(error) => Err(error),
            };
            sockets.iter().for_each(|path| remove_abandoned(path));
            ended
        })
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("setup", &self.setup).finish_non_exhaustive()
    }
}

/// Serves the service that a worker has made, until the worker must end.
pub(super) async fn serve<S, E, Kind>(mut worker: Worker, setup: &WorkerSetup, made: Result<S, E>) -> Result<(), String>
where
    S: HttpService<Kind>,
    E: fmt::Display,
{
    let service = made.map_err(|error| format!("cannot make the service: {error:#}"))?;
    setup.http().serve(&mut worker, service.into_hyper()).await.map_err(|cut_off| cut_off.to_string())
}

pub(super) fn threaded(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).on_thread_start(enter_worker_span).enable_all().build()
}
