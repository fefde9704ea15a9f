//! The builder of a prefork server.

mod hooks;
mod lifecycle;
mod limits;
mod privileges;
mod run;
#[cfg(feature = "status")]
mod status;
mod system;

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::run::Loading;
use super::limits::Limits;
use super::privileges::Privileges;
use super::status::StatusOptions;
use super::{Distribution, Listener};
use crate::ForkOptions;

/// The largest number of workers that a server starts with.
pub(crate) const MAX_WORKERS: usize = 1024;

/// Builds and [runs](Prefork::run) a prefork server.
///
/// # Examples
///
/// ```no_run
/// use forkio::prefork::{Listener, Prefork};
///
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// let stopped = runtime.block_on(async {
///     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await.unwrap();
///     let prefork = Prefork::new().listener(listener).workers(4);
///     prefork.run(|mut worker| async move {
///         let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
///         let mut incoming = worker.incoming(listener);
///         let mut connections = tokio::task::JoinSet::new();
///         while let Some((stream, _peer)) = incoming.next().await {
///             connections.spawn(async move { drop(stream) }); // Serve it here.
///         }
///         connections.join_all().await;
///     }).await
/// });
/// std::process::exit(stopped.unwrap().exit_code().into());
/// ```
pub struct Prefork {
    /// Each listener, with its own distribution if it has one.
    pub(super) listeners: Vec<(Listener, Option<Distribution>)>,
    pub(super) settings: Settings,
}

/// The settings of a server, except its listeners.
pub(super) struct Settings {
    pub(super) distribution: Distribution,
    pub(super) workers: usize,
    pub(super) worker: WorkerSettings,
    pub(super) boot_timeout: Duration,
    pub(super) load_timeout: Duration,
    pub(super) upgrade_timeout: Duration,
    pub(super) lame_duck: Duration,
    pub(super) crash_limit: u32,
    pub(super) limits: Limits,
    pub(super) max_extra: Option<usize>,
    pub(super) max_missing: usize,
    pub(super) max_draining: usize,
    pub(super) fork_options: ForkOptions,
    pub(super) prepare_ahead: bool,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) notifies: bool,
    pub(super) huge_pages: bool,
    pub(super) on_ready: Option<Box<dyn FnOnce() + Send>>,
    pub(super) on_reload: Option<Box<dyn FnMut() -> Result<(), String> + Send>>,
    pub(super) status: StatusOptions,
    /// Whether a template loads the application.
    pub(super) loads: bool,
}

#[derive(Clone)]
pub(super) struct WorkerSettings {
    pub(super) shutdown_timeout: Duration,
    pub(super) heartbeat_timeout: Option<Duration>,
    pub(super) abort_stuck: bool,
    pub(super) explicit_ready: bool,
    pub(super) max_connections: Option<usize>,
    pub(super) privileges: Privileges,
    pub(super) on_reopen: Option<Arc<dyn Fn() + Send + Sync>>,
    pub(super) on_end: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl WorkerSettings {
    pub(super) fn reopen_logs(&self) {
        let Some(reopen) = &self.on_reopen else { return };
        // A process that cannot open its logs must continue to serve, and to follow signals.
        if catch_unwind(AssertUnwindSafe(|| reopen())).is_err() {
            tracing::error!("the function of `on_reopen_logs` panicked");
        }
    }

    pub(super) fn end(&self) {
        if let Some(end) = &self.on_end {
            end();
        }
    }
}

impl Default for Prefork {
    fn default() -> Prefork {
        Prefork::new()
    }
}

impl Prefork {
    /// Makes a server with one worker per CPU that this process may use, and no listener.
    pub fn new() -> Prefork {
        Prefork {
            listeners: Vec::new(),
            settings: Settings {
                distribution: Distribution::default(),
                workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_WORKERS),
                worker: WorkerSettings {
                    // The supervisor waits one second longer. Both times are shorter than Docker's 10 s and Kubernetes'
                    // 30 s.
                    shutdown_timeout: Duration::from_secs(8),
                    heartbeat_timeout: Some(Duration::from_secs(30)),
                    abort_stuck: false,
                    explicit_ready: false,
                    max_connections: None,
                    privileges: Privileges::default(),
                    on_reopen: None,
                    on_end: None,
                },
                boot_timeout: Duration::from_secs(60),
                load_timeout: Duration::from_secs(300),
                upgrade_timeout: Duration::from_secs(60),
                lame_duck: Duration::ZERO,
                crash_limit: 8,
                limits: Limits { jitter: 0.1, ..Limits::default() },
                max_extra: None,
                max_missing: 0,
                max_draining: 3,
                fork_options: ForkOptions::new(),
                prepare_ahead: true,
                pid_file: None,
                notifies: true,
                huge_pages: false,
                on_ready: None,
                on_reload: None,
                status: StatusOptions::default(),
                loads: false,
            },
        }
    }

    /// Gives the workers a listener. [`take_listeners`](crate::prefork::Worker::take_listeners) returns the listeners in the
    /// order of these calls.
    ///
    /// Open the listener with [`Inherited`](crate::prefork::Inherited) if the program should support socket activation and
    /// upgrades (SIGUSR2). In an upgrade, a program that binds by itself finds the address in use, and the old program
    /// continues.
    pub fn listener(mut self, listener: impl Into<Listener>) -> Prefork {
        self.listeners.push((listener.into(), None));
        self
    }

    /// Gives the workers a listener that has a distribution of its own.
    pub fn listener_with(mut self, listener: impl Into<Listener>, distribution: Distribution) -> Prefork {
        self.listeners.push((listener.into(), Some(distribution)));
        self
    }

    /// Sets the distribution of connections to the workers, for all listeners without a distribution of their own.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use forkio::prefork::{Distribution, Prefork};
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// let prefork = Prefork::new().listener(listener).distribution(Distribution::ReusePort);
    /// # Ok(())
    /// # }
    /// ```
    pub fn distribution(mut self, distribution: Distribution) -> Prefork {
        self.settings.distribution = distribution;
        self
    }

    /// Sets how many workers run, from 1 to 1024. SIGTTIN and SIGTTOU change the number.
    pub fn workers(mut self, workers: usize) -> Prefork {
        self.settings.workers = workers;
        self
    }
}

impl fmt::Debug for Prefork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefork")
            .field("listeners", &self.listeners)
            .field("distribution", &self.settings.distribution)
            .field("workers", &self.settings.workers)
            .field("shutdown_timeout", &self.settings.worker.shutdown_timeout)
            .field("limits", &self.settings.limits)
            .finish_non_exhaustive()
    }
}
