//! Running a configured server.

use std::fmt;
use std::future::Future;
use std::io;

use tokio::runtime::Runtime;

use super::Prefork;
use crate::prefork::supervisor::{Outcome, Supervisor};
use crate::prefork::{PreforkError, Stopped, Worker, WorkerOutput, template, worker};
use crate::{NotInChild, parent_only};

impl Prefork {
    /// Loads the application in a *template* process rather than in the supervisor. Each generation of workers has a template
    /// of its own, which runs `load` and then forks the workers. The workers share its memory.
    ///
    /// A reload (SIGHUP) starts a new template, so `load` runs again. If `load` fails, panics, or takes longer than the
    /// [`load_timeout`](Prefork::load_timeout), the old generation continues to serve, and the supervisor logs the error.
    ///
    /// # Platforms
    ///
    /// Workers of a template become children of the supervisor. This requires a *subreaper*, which Linux, FreeBSD and DragonFly
    /// have. Elsewhere [`run`](Loading::run) returns [`PreforkError::Load`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use forkio::prefork::Prefork;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let prefork = Prefork::new().listener(tokio::net::TcpListener::bind("127.0.0.1:8080").await?);
    /// let stopped = prefork.load(|| async { std::fs::read("table.bin") }).run(|worker, table| async move {
    ///     println!("worker {} has {} bytes", worker.index(), table.len());
    ///     worker.shutdown().await;
    /// });
    /// std::process::exit(stopped.await?.exit_code().into());
    /// # }
    /// ```
    pub fn load<F, Fut, T, E>(mut self, load: F) -> Loading<F>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: fmt::Display,
    {
        self.settings.loads = true;
        Loading { prefork: self, load }
    }

    /// Forks the workers and supervises them until a signal stops the server or an upgrade replaces it. **Returns in
    /// the supervisor only**: a worker exits with what `worker` returns ([`WorkerOutput`]), or with 101 if it panics.
    ///
    /// # Errors
    ///
    /// [`PreforkError`]. After an error no worker runs.
    ///
    /// # Panics
    ///
    /// At once, if the runtime was built without timers (`enable_time` or `enable_all`).
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped in the supervisor tells its workers to stop and does not wait for them. A future that is
    /// dropped in a worker, such as by a `select!` around it, ends the worker's process.
    ///
    /// # Fork
    ///
    /// All other tasks of the runtime continue in the supervisor and in each worker; see
    /// [`parent_only`](crate::parent_only()). In a child that another task forks meanwhile, `run` never resolves.
    pub async fn run<F, Fut>(self, worker: F) -> Result<Stopped, PreforkError>
    where
        F: FnOnce(Worker) -> Fut,
        Fut: Future,
        Fut::Output: WorkerOutput,
    {
        match self.supervise().await? {
            Outcome::Worker(assignment) => worker::run(assignment, worker).await,
            other => Ok(other.stopped()),
        }
    }

    /// Like [`run`](Prefork::run), but each worker leaves the supervisor's current-thread runtime, and uses a runtime that
    /// `build` builds in the worker: a multi-threaded one, for workers that use several CPUs each.
    ///
    /// A worker whose runtime cannot be built logs the error, and exits with 1.
    ///
    /// `build` runs inside the worker's `tracing` span. Let each thread enter the span as it starts, with
    /// `Builder::on_thread_start`, so that the events of all threads are inside it:
    ///
    /// ```
    /// use tokio::runtime::Builder;
    /// use tracing::Span;
    ///
    /// let build = || {
    ///     let worker = Span::current();
    ///     let enter = move || std::mem::forget(worker.clone().entered());
    ///     Builder::new_multi_thread().on_thread_start(enter).enable_all().build()
    /// };
    /// # build().unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`run`](Prefork::run).
    ///
    /// # Panics
    ///
    /// Like [`run`](Prefork::run).
    ///
    /// # Fork
    ///
    /// The inherited runtime does not run in the worker: its tasks and timers, including [`parent_only`](crate::parent_only())
    /// futures, are neither polled nor dropped, and its registrations follow the policies as in any fork. The worker's
    /// listeners and its shutdown belong to the new runtime. To use another I/O object of the supervisor in the worker,
    /// move the object, such as by `into_std` and `from_std`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use forkio::prefork::{Listener, Prefork};
    /// use tokio::runtime::Builder;
    /// use tokio::task::JoinSet;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// let runtime = || Builder::new_multi_thread().worker_threads(4).enable_all().build();
    /// let stopped = Prefork::new().listener(listener).workers(2).run_on(runtime, |mut worker| async move {
    ///     let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
    ///     let mut incoming = worker.incoming(listener);
    ///     let mut connections = JoinSet::new();
    ///     while let Some((stream, _)) = incoming.next().await {
    ///         // On any of the four threads.
    ///         connections.spawn(async move { drop(stream) });
    ///     }
    ///     connections.join_all().await;
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
        match self.supervise().await? {
            Outcome::Worker(assignment) => worker::run_on(assignment, build, worker),
            other => Ok(other.stopped()),
        }
    }

    async fn supervise(self) -> Result<Outcome, PreforkError> {
        // The supervisor forks a worker inside this future, so the worker continues the future. In other children the future
        // resolves to an error.
        match parent_only(Supervisor::new(self)?.run()).await {
            Ok(Ok(Outcome::Service(service))) => service.run(),
            Ok(outcome) => outcome,
            Err(NotInChild) => std::future::pending().await,
        }
    }
}

impl Outcome {
    /// Returns how the server stopped. Only the supervisor may call it.
    fn stopped(self) -> Stopped {
        match self {
            Outcome::Stopped(stopped) => stopped,
            // `supervise` runs the service worker. Templates exist only with `load`, and then they fork all workers.
            _ => unreachable!("a child continues as the supervisor"),
        }
    }
}

/// A prefork server that loads its application in a template process: [`Prefork::load`].
pub struct Loading<F> {
    prefork: Prefork,
    load: F,
}

impl<F> Loading<F> {
    /// Like [`Prefork::run`]. The worker also gets the value that the template has loaded.
    ///
    /// # Errors
    ///
    /// Those of [`Prefork::run`], and [`PreforkError::Load`].
    pub async fn run<L, T, E, W, Fut>(self, worker: W) -> Result<Stopped, PreforkError>
    where
        F: FnOnce() -> L,
        L: Future<Output = Result<T, E>>,
        E: fmt::Display,
        W: FnOnce(Worker, T) -> Fut,
        Fut: Future,
        Fut::Output: WorkerOutput,
    {
        match self.prefork.supervise().await? {
            Outcome::Template(template) => {
                let (assignment, loaded) = template::run(template, self.load).await;
                worker::run(assignment, |own| worker(own, loaded)).await
            }
            other => Ok(other.stopped()),
        }
    }

    /// Like [`Prefork::run_on`]. The worker also gets the value that the template has loaded.
    ///
    /// # Errors
    ///
    /// Those of [`Prefork::run`], and [`PreforkError::Load`].
    pub async fn run_on<L, T, E, B, W, Fut>(self, build: B, worker: W) -> Result<Stopped, PreforkError>
    where
        F: FnOnce() -> L,
        L: Future<Output = Result<T, E>>,
        E: fmt::Display,
        T: Send,
        B: FnOnce() -> io::Result<Runtime> + Send,
        W: FnOnce(Worker, T) -> Fut + Send,
        Fut: Future,
        Fut::Output: WorkerOutput,
    {
        match self.prefork.supervise().await? {
            Outcome::Template(template) => {
                let (assignment, loaded) = template::run(template, self.load).await;
                worker::run_on(assignment, build, |own| worker(own, loaded))
            }
            other => Ok(other.stopped()),
        }
    }
}

impl<F> fmt::Debug for Loading<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loading").field("prefork", &self.prefork).finish_non_exhaustive()
    }
}
