//! A prefork supervisor: one parent that holds the listeners, N workers that serve.
//!
//! The parent binds, loads and starts everything once, and forks. Workers are the same program in the same state, each
//! with a runtime of its own that goes on from there; memory that nobody writes stays shared.
//!
//! | | |
//! |---|---|
//! | a worker ends, however | it is replaced: at once if it had run for a second, otherwise after a delay that doubles |
//! | the same worker ends at once again and again | the others are drained, and [`Prefork::run`] returns an error |
//! | SIGTERM or SIGINT to the parent | its listeners are closed, the workers drain; what is left after [`Prefork::drain_timeout`] is killed; a second signal kills at once |
//! | SIGTERM or SIGINT to a worker | it drains, and is replaced when it has ended |
//! | the parent is killed | its workers drain and end (SIGALRM ends one that does not; where the kernel has no signal for it, on NetBSD, OpenBSD and macOS, one that is stuck stays) |
//! | a connection arrives | no wakeup of the parent: it has muted its listeners; which worker gets it, the [`Distribution`] says |

mod acceptor;
mod board;
mod connections;
mod distribution;
mod listener;
mod queues;
mod supervisor;
mod worker;

use std::fmt;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::process::ExitStatus;
use std::time::Duration;

use supervisor::{Outcome, Supervisor};
use tokio::runtime::Runtime;
pub use {
    acceptor::{Accept, Acceptor},
    connections::{Connections, Counted},
    distribution::Distribution,
    listener::Listener,
    worker::{Shutdown, Worker, WorkerOutput},
};

use crate::{ForkError, ForkOptions, Forked, no_fork};

/// A prefork server, to be configured and [run](Prefork::run).
///
/// # Examples
///
/// ```no_run
/// use forkio::{Listener, Prefork};
///
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// let stopped = runtime.block_on(async {
///     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await.unwrap();
///     let prefork = Prefork::new().listener(listener).workers(4);
///     prefork.run(|mut worker| async move {
///         let shutdown = worker.shutdown();
///         let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
///         let mut acceptor = worker.acceptor(listener);
///         loop {
///             tokio::select! {
///                 () = shutdown.clone() => break,
///                 connection = acceptor.accept() => drop(connection), // Serve it, that is.
///             }
///         }
///         drop(acceptor.close()); // Serve these too: they were waiting.
///     }).await
/// });
/// std::process::exit(stopped.unwrap().exit_code().into());
/// ```
pub struct Prefork {
    /// With a distribution of its own, if it has one.
    listeners: Vec<(Listener, Option<Distribution>)>,
    distribution: Distribution,
    workers: usize,
    drain_timeout: Duration,
    crash_limit: u32,
    fork_options: ForkOptions,
    prepare_ahead: bool,
    on_ready: Option<OnReady>,
}

type OnReady = Box<dyn FnOnce() + Send>;

impl Default for Prefork {
    fn default() -> Prefork {
        Prefork::new()
    }
}

impl Prefork {
    /// The [`drain_timeout`](Prefork::drain_timeout) unless set: that of gunicorn (`graceful_timeout`).
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// The [`crash_limit`](Prefork::crash_limit) unless set. With the delays between it is reached after some 13
    /// seconds.
    pub const DEFAULT_CRASH_LIMIT: u32 = 8;

    /// One worker per CPU that this process may use, and no listener.
    pub fn new() -> Prefork {
        Prefork {
            listeners: Vec::new(),
            distribution: Distribution::default(),
            workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            drain_timeout: Prefork::DEFAULT_DRAIN_TIMEOUT,
            crash_limit: Prefork::DEFAULT_CRASH_LIMIT,
            fork_options: ForkOptions::new(),
            prepare_ahead: true,
            on_ready: None,
        }
    }

    /// Gives the workers a listener. They [take](Worker::take_listeners) them in the order given here.
    pub fn listener(mut self, listener: impl Into<Listener>) -> Prefork {
        self.listeners.push((listener.into(), None));
        self
    }

    /// As [`listener`](Prefork::listener), with a distribution of its own.
    pub fn listener_with(mut self, listener: impl Into<Listener>, distribution: Distribution) -> Prefork {
        self.listeners.push((listener.into(), Some(distribution)));
        self
    }

    /// Who gets the next connection, for all listeners that have not been given a distribution of their own.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use forkio::{Distribution, Prefork};
    ///
    /// # async fn example() -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// let prefork = Prefork::new().listener(listener).distribution(Distribution::ReusePort);
    /// # Ok(())
    /// # }
    /// ```
    pub fn distribution(mut self, distribution: Distribution) -> Prefork {
        self.distribution = distribution;
        self
    }

    /// How many workers to keep running.
    pub fn workers(mut self, workers: usize) -> Prefork {
        self.workers = workers;
        self
    }

    /// How long workers have, from the signal to stop, to finish what they have begun. What is left is killed a second
    /// later.
    pub fn drain_timeout(mut self, limit: Duration) -> Prefork {
        self.drain_timeout = limit;
        self
    }

    /// After how many ends in a row, each within a second of its start, a worker is given up, and the server with it. 0:
    /// never.
    pub fn crash_limit(mut self, ends: u32) -> Prefork {
        self.crash_limit = ends;
        self
    }

    /// How the workers are forked; above all how long a fork may wait for threads of the blocking pool to end. A server
    /// that resolves a name before [`run`](Prefork::run) waits for that thread's keep-alive time, unless the runtime was
    /// built with a shorter one.
    pub fn fork_options(mut self, options: ForkOptions) -> Prefork {
        self.fork_options = options;
        self
    }

    /// Whether the parent [prepares](crate::prepare_ahead) the fork of the next worker while it waits, so that one that ends is
    /// replaced at the cost of `fork(2)`; it does unless told otherwise. Meanwhile it has some descriptors more: a queue for
    /// each selector, and a few. Listeners have no part in it, and a connection costs nothing more.
    ///
    /// It does not where workers have listeners of their own ([`Distribution::ReusePort`]): which of them the next worker is to
    /// have is not known before. In a parent whose other tasks open and close sockets all the time it is of no use: each change
    /// gives up what was prepared.
    pub fn prepare_ahead(mut self, ahead: bool) -> Prefork {
        self.prepare_ahead = ahead;
        self
    }

    /// Calls `ready` in the parent when the first workers have been forked: the moment to tell a service manager.
    pub fn on_ready(mut self, ready: impl FnOnce() + Send + 'static) -> Prefork {
        self.on_ready = Some(Box::new(ready));
        self
    }

    /// Forks the workers and supervises them until a signal says to stop. **Returns in the parent only**: in a worker
    /// the process exits with what `worker` resolves to (see [`WorkerOutput`]), with 101 if it panics.
    ///
    /// Everything else that the runtime does when this is called goes on in the parent and in each worker; see
    /// [`no_fork`](crate::no_fork()). A child that another task forks meanwhile has no part in this: there `run` waits
    /// for ever.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the parent, it tells its workers to stop and does not wait for them. Dropped in a worker, as by a
    /// `select!` around it, it ends the worker's process.
    ///
    /// # Errors
    ///
    /// [`PreforkError`]. No worker is left then.
    ///
    /// # Panics
    ///
    /// At once, if the runtime was built without its timers (`enable_all` has them).
    pub async fn run<F, Fut>(self, worker: F) -> Result<Stopped, PreforkError>
    where
        F: FnOnce(Worker) -> Fut,
        Fut: Future,
        Fut::Output: WorkerOutput,
    {
        let drain_timeout = self.drain_timeout;
        match self.supervise().await? {
            Outcome::Stopped(stopped) => Ok(stopped),
            Outcome::Worker(seat) => worker::run(seat, drain_timeout, worker).await,
        }
    }

    /// As [`run`](Prefork::run), but each worker leaves the parent's current-thread runtime for one of its own that `build`
    /// builds there: a multi-threaded one, for workers that are to use several CPUs each.
    ///
    /// The inherited runtime stands still in the worker: its tasks and timers, [`no_fork`](crate::no_fork()) futures
    /// included, are neither run nor dropped there, and what it had registered follows the policies as in any fork. The
    /// worker's listeners and its shutdown belong to the new runtime. What else the worker needs of the parent's I/O objects
    /// it has to move, as by `into_std` and `from_std`.
    ///
    /// A worker whose runtime cannot be built logs the error, and exits with 1.
    ///
    /// # Cancel safety, errors and panics
    ///
    /// As [`run`](Prefork::run).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use forkio::{Listener, Prefork};
    /// use tokio::runtime::Builder;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// let runtime = || Builder::new_multi_thread().worker_threads(4).enable_all().build();
    /// let stopped = Prefork::new().listener(listener).workers(2).run_on(runtime, |mut worker| async move {
    ///     let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
    ///     while let Ok((stream, _)) = listener.accept().await {
    ///         // On any of the four threads.
    ///         tokio::spawn(async move { drop(stream) });
    ///     }
    /// });
    /// std::process::exit(stopped.await?.exit_code().into());
    /// # }
    /// ```
    pub async fn run_on<B, F, Fut>(self, build: B, worker: F) -> Result<Stopped, PreforkError>
    where
        B: FnOnce() -> io::Result<Runtime> + Send,
        F: FnOnce(Worker) -> Fut + Send,
        Fut: Future,
        Fut::Output: WorkerOutput,
    {
        let drain_timeout = self.drain_timeout;
        match self.supervise().await? {
            Outcome::Stopped(stopped) => Ok(stopped),
            Outcome::Worker(seat) => worker::run_on(seat, drain_timeout, build, worker),
        }
    }

    async fn supervise(mut self) -> Result<Outcome, PreforkError> {
        if self.workers == 0 {
            return Err(PreforkError::NoWorkers);
        }
        let on_ready = self.on_ready.take();
        // A worker is forked by the supervisor itself, and goes on with it; any other child does not.
        match no_fork(Supervisor::new(self)?.run(on_ready)).await {
            Ok(outcome) => outcome,
            Err(Forked) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Prefork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefork")
            .field("listeners", &self.listeners)
            .field("distribution", &self.distribution)
            .field("workers", &self.workers)
            .field("drain_timeout", &self.drain_timeout)
            .field("crash_limit", &self.crash_limit)
            .finish_non_exhaustive()
    }
}

/// How a server ended that was told to stop.
#[derive(Clone, Debug)]
pub struct Stopped {
    workers: Vec<ExitStatus>,
}

impl Stopped {
    /// How the workers ended that ran when the signal came. One that other code in this process has reaped counts as 255.
    pub fn workers(&self) -> &[ExitStatus] {
        &self.workers
    }

    /// What the process should exit with: 0 if every worker did, otherwise the first other status, as a shell gives it:
    /// 128 and the signal's number for a worker that was killed, so 137 for one that outlived the drain timeout.
    pub fn exit_code(&self) -> u8 {
        self.workers.iter().map(shell_status).find(|code| *code != 0).unwrap_or(0)
    }
}

fn shell_status(status: &ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    // Both are eight bits wide.
    (code & 0xff) as u8
}

/// Why a prefork server ended, or did not start.
#[non_exhaustive]
pub enum PreforkError {
    /// Zero workers were asked for.
    NoWorkers,
    /// The signal handlers could not be installed.
    Signals(io::Error),
    /// A listener is not registered with a runtime on forkio's selector, or could not be muted.
    Mute(io::Error),
    /// A listener for [`Distribution::ReusePort`] is none that there can be more of at its address.
    ReusePort(io::Error),
    /// The memory in which the workers count their connections could not be shared.
    Share(io::Error),
    /// A first worker could not be forked, or none is left and none could be forked.
    Fork(ForkError),
    /// A worker kept ending within a second of its start.
    CrashLoop {
        /// The worker's index.
        worker: usize,
        /// How often in a row.
        ends: u32,
        /// How it ended last.
        status: ExitStatus,
    },
}

impl PreforkError {
    /// What the process should exit with: how the crashing worker ended, as a shell gives it, or 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            PreforkError::CrashLoop { status, .. } => shell_status(status).max(1),
            _ => 1,
        }
    }
}

/// As [`Display`](fmt::Display): this is what a `main` prints that returns the error, and what to do is in there.
impl fmt::Debug for PreforkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PreforkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PreforkError::NoWorkers => f.write_str("a prefork server needs at least one worker"),
            PreforkError::Signals(error) => write!(f, "installing handlers for SIGTERM and SIGINT: {error}"),
            PreforkError::Mute(error) => write!(f, "muting a listener in the parent: {error}"),
            PreforkError::ReusePort(error) => write!(f, "making a queue for each worker: {error}"),
            PreforkError::Share(error) => write!(f, "making what the workers count their connections in: {error}"),
            PreforkError::Fork(error) => write!(f, "forking a worker: {error}"),
            PreforkError::CrashLoop { worker, ends, status } => {
                write!(
                    f,
                    "worker {worker} ended {ends} times in a row within a second of its start, last with {status}"
                )
            }
        }
    }
}

impl std::error::Error for PreforkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PreforkError::Signals(error)
            | PreforkError::Mute(error)
            | PreforkError::ReusePort(error)
            | PreforkError::Share(error) => Some(error),
            PreforkError::Fork(error) => Some(error),
            PreforkError::NoWorkers | PreforkError::CrashLoop { .. } => None,
        }
    }
}
