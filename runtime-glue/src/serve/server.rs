//! The builder of a server.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
#[cfg(any(feature = "status", feature = "tls"))]
use std::path::PathBuf;
use std::time::Duration;

use super::run::{self, Serving, Setup};
use super::{Address, HttpService};
use crate::prefork::http::Http;
use crate::prefork::{Distribution, Prefork, PreforkError, Worker};

/// An HTTP server that serves from worker processes (feature `http`).
///
/// `Server` opens the listeners, runs the tokio runtime, supervises the workers ([`Prefork`]) and serves HTTP/1 and HTTP/2 with
/// upgrades and drain ([`prefork::http`](crate::prefork::http)). [`serve`](crate::serve) is the short form.
///
/// Call [`serve`](Server::serve) or [`serve_with`](Server::serve_with) to set the service, then [`run`](Serving::run).
///
/// # Examples
///
/// ```no_run
/// use std::convert::Infallible;
/// use std::process::ExitCode;
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use forkio::Server;
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
///
/// fn main() -> ExitCode {
///     Server::new()
///         .bind("0.0.0.0:8080")
///         .bind("unix:/run/app.sock")
///         .workers(4)
///         .max_requests(10_000)
///         .shutdown_timeout(Duration::from_secs(20))
///         .load(|| async { std::fs::read_to_string("greeting.txt") })
///         .serve(|greeting, worker| {
///             let text = Arc::new(format!("worker {}: {greeting}", worker.index()));
///             service_fn(move |_: Request<_>| {
///                 let text = text.to_string();
///                 async { Ok::<_, Infallible>(Response::new(text)) }
///             })
///         })
///         .run()
/// }
/// ```
#[must_use = "a server does nothing until it runs"]
pub struct Server<L = NoLoad> {
    setup: Setup,
    load: L,
}

/// The type parameter of a [`Server`] that loads nothing.
#[derive(Debug)]
pub struct NoLoad(());

/// The type parameter of a [`Server`] that loads the application first: [`Server::load`] or [`Server::preload`].
pub struct Load<F> {
    load: F,
    is_in_template: bool,
}

impl<F> fmt::Debug for Load<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").finish_non_exhaustive()
    }
}

impl Default for Server {
    fn default() -> Server {
        Server::new()
    }
}

impl Server {
    /// Makes a server with one worker per CPU that this process may use, and no address.
    pub fn new() -> Server {
        Server { setup: Setup::new(), load: NoLoad(()) }
    }

    /// Loads the application in a *template* process, and again at each reload. See [`Prefork::load`].
    pub fn load<F, Fut, T, E>(self, load: F) -> Server<Load<F>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>>,
        E: fmt::Display,
    {
        Server { setup: self.setup, load: Load { load, is_in_template: true } }
    }

    /// Loads the application in the supervisor, before the first worker is forked. All workers share the loaded value. A
    /// reload does not load again. If a reload must load, use [`Server::load`], which needs one more process.
    ///
    /// The function runs inside the runtime. Tasks that it spawns continue in the supervisor and in each worker, except in
    /// workers that have [threads](Server::worker_threads); see [`parent_only`](crate::parent_only()). Until the function has
    /// returned, signals have their default action.
    ///
    /// Each fork waits until the blocking pool (`spawn_blocking`, `tokio::fs`, name resolution) has been idle for a tenth of
    /// a second. A task that continues in the supervisor must therefore leave the pool idle from time to time. Start threads
    /// that never end, such as those of `rayon` or of a log writer, in the workers. If the supervisor has such a thread, the
    /// fork is refused.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::convert::Infallible;
    ///
    /// use forkio::Server;
    /// use hyper::service::service_fn;
    /// use hyper::{Request, Response};
    ///
    /// Server::new()
    ///     .bind("127.0.0.1:8080")
    ///     .preload(|| async { std::fs::read_to_string("greeting.txt") })
    ///     .serve(|greeting, _| {
    ///         service_fn(move |_: Request<_>| {
    ///             let greeting = greeting.clone();
    ///             async { Ok::<_, Infallible>(Response::new(greeting)) }
    ///         })
    ///     })
    ///     .run();
    /// ```
    pub fn preload<F, Fut, T, E>(self, load: F) -> Server<Load<F>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>>,
        E: fmt::Display,
    {
        Server { setup: self.setup, load: Load { load, is_in_template: false } }
    }

    /// Serves the service that `make` returns. Each worker calls `make` once, inside its runtime.
    pub fn serve<F, S, Kind>(self, make: F) -> Serving
    where
        F: FnOnce(&Worker) -> S + Send + 'static,
        S: HttpService<Kind>,
    {
        self.serve_with(async move |worker: &Worker| Ok::<_, Infallible>(make(worker)))
    }

    /// Like [`serve`](Server::serve), for a service that takes time to make or may fail: one that connects to a database, for
    /// instance. If `make` fails, the worker logs the error and exits with 1, which counts as a boot failure.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::convert::Infallible;
    ///
    /// use forkio::Server;
    /// use hyper::service::service_fn;
    /// use hyper::{Request, Response};
    ///
    /// let server = Server::new().bind("127.0.0.1:8080").serve_with(async |worker| {
    ///     let text = tokio::fs::read_to_string(format!("{}.txt", worker.index())).await?;
    ///     Ok::<_, std::io::Error>(service_fn(move |_: Request<_>| {
    ///         let text = text.clone();
    ///         async { Ok::<_, Infallible>(Response::new(text)) }
    ///     }))
    /// });
    /// server.run();
    /// ```
    pub fn serve_with<F, S, E, Kind>(self, make: F) -> Serving
    where
        F: AsyncFnOnce(&Worker) -> Result<S, E> + Send + 'static,
        S: HttpService<Kind>,
        E: fmt::Display,
    {
        let load = Load { load: || ready(Ok::<_, Infallible>(())), is_in_template: false };
        Server { setup: self.setup, load }.serve_with(async move |(), worker: &Worker| make(worker).await)
    }
}

impl<L> Server<Load<L>> {
    /// Like [`Server::serve`]. `make` also gets the loaded value.
    pub fn serve<Fut, T, E, F, S, Kind>(self, make: F) -> Serving
    where
        L: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + 'static,
        T: Send + 'static,
        E: fmt::Display + 'static,
        F: FnOnce(T, &Worker) -> S + Send + 'static,
        S: HttpService<Kind>,
    {
        self.serve_with(async move |loaded: T, worker: &Worker| Ok::<_, Infallible>(make(loaded, worker)))
    }

    /// Like [`Server::serve_with`]. `make` also gets the loaded value.
    pub fn serve_with<Fut, T, LoadError, F, S, E, Kind>(self, make: F) -> Serving
    where
        L: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, LoadError>> + 'static,
        T: Send + 'static,
        LoadError: fmt::Display + 'static,
        F: AsyncFnOnce(T, &Worker) -> Result<S, E> + Send + 'static,
        S: HttpService<Kind>,
        E: fmt::Display,
    {
        let Load { load, is_in_template } = self.load;
        Serving::new(self.setup, move |prefork, setup| {
            Box::pin(async move {
                let threads = setup.threads;
                let work = async move |worker: Worker, loaded: T| {
                    let made = make(loaded, &worker).await;
                    run::serve(worker, &setup, made).await
                };
                if is_in_template {
                    return match threads {
                        None => prefork.load(load).run(work).await,
                        Some(threads) => prefork.load(load).run_on(move || run::threaded(threads), work).await,
                    };
                }
                let loaded = load().await.map_err(|error| PreforkError::Load(format!("{error:#}")))?;
                let work = async move |worker: Worker| work(worker, loaded).await;
                match threads {
                    None => prefork.run(work).await,
                    Some(threads) => prefork.run_on(move || run::threaded(threads), work).await,
                }
            })
        })
    }
}

/// The options. They may come before or after [`load`](Server::load).
impl<L> Server<L> {
    /// Listens on an address that [`Address`] accepts, such as `0.0.0.0:8080` or `unix:/run/app.sock`. Call it again for more
    /// listeners.
    ///
    /// If systemd or an upgrade has passed a listener with this address, the server uses that listener. If the text is not an
    /// address, [`run`](Serving::run) fails. The server removes the file of a Unix socket at the end, unless another process
    /// listens on it.
    pub fn bind(mut self, address: impl ToString) -> Self {
        self.setup.addresses.push(address.to_string().parse());
        self
    }

    /// Sets how many connections may wait in the queue of each listener that [`bind`](Server::bind) opens. Unless set, 1024 for
    /// TCP, and for Unix sockets the kernel's limit, on Linux `/proc/sys/net/core/somaxconn`.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.setup.listen_options.backlog = Some(connections);
        self
    }

    /// Sets the permissions of the Unix sockets that [`bind`](Server::bind) opens. Clients need the permission to write: `0o666`
    /// allows any user to connect, `0o660` the owner and the group of the file. The umask of the process decides unless set.
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.setup.listen_options.unix_mode = Some(mode);
        self
    }

    /// Also serves the listeners that systemd has passed (`LISTEN_FDS`), besides those of [`bind`](Server::bind). Without
    /// this option, the server closes each passed listener whose address was not given to `bind`.
    pub fn systemd(mut self) -> Self {
        self.setup.takes_inherited = true;
        self
    }

    /// Serves HTTPS on TCP listeners, with the certificates and the private key in these files, in PEM format (feature `tls`).
    /// Unix sockets still serve plain HTTP.
    ///
    /// The supervisor reads the files before it forks, and again at each reload (SIGHUP), which fails if the files are
    /// not valid. A session of a client resumes on every worker, because all of them have the same keys for tickets.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let server = forkio::Server::new();
    /// server.bind("0.0.0.0:443").tls("/etc/ssl/example.pem", "/etc/ssl/private/example.pem");
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.setup.certificate = Some((certificates.into(), key.into()));
        self
    }

    /// Sets how many workers to keep running: [`Prefork::workers`].
    pub fn workers(self, workers: usize) -> Self {
        self.prefork(|prefork| prefork.workers(workers))
    }

    /// Gives each worker a runtime with this many threads, instead of the inherited runtime with one thread:
    /// [`Prefork::run_on`].
    ///
    /// # Panics
    ///
    /// With 0, each worker panics as it starts, like `tokio::runtime::Builder::worker_threads`.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.setup.worker.threads = Some(threads);
        self
    }

    /// Sets the distribution of connections to the workers: [`Prefork::distribution`].
    pub fn distribution(self, distribution: Distribution) -> Self {
        self.prefork(|prefork| prefork.distribution(distribution))
    }

    /// Sets how long a worker may take to finish its work: [`Prefork::shutdown_timeout`]. 8 seconds unless set.
    pub fn shutdown_timeout(self, limit: Duration) -> Self {
        self.prefork(|prefork| prefork.shutdown_timeout(limit))
    }

    /// Replaces a worker after this many requests: [`Prefork::max_requests`].
    pub fn max_requests(self, requests: impl Into<Option<u64>>) -> Self {
        self.prefork(|prefork| prefork.max_requests(requests))
    }

    /// Serves a status page and metrics at an address: [`Prefork::status`] (feature `status`). Off by default.
    #[cfg(feature = "status")]
    pub fn status(self, address: impl ToString) -> Self {
        self.prefork(|prefork| prefork.status(address))
    }

    /// Serves a control socket at a path: [`Prefork::control`] (feature `status`). Off by default.
    #[cfg(feature = "status")]
    pub fn control(self, path: impl Into<PathBuf>) -> Self {
        self.prefork(|prefork| prefork.control(path))
    }

    /// Sets how long a client may take to send the head of its first request, and to finish a later head that it has begun:
    /// [`Http::header_timeout`]. 10 seconds unless set.
    pub fn header_timeout(self, limit: Duration) -> Self {
        self.http(|http| http.header_timeout(limit))
    }

    /// Sets how long a connection may be idle after a request: [`Http::keep_alive_timeout`]. 75 seconds unless set.
    pub fn keep_alive_timeout(self, limit: Duration) -> Self {
        self.http(|http| http.keep_alive_timeout(limit))
    }

    /// Sets how long an idle HTTP/1 connection is kept for one more request when its worker must end:
    /// [`Http::idle_grace`]. 1 second unless set.
    pub fn idle_grace(self, grace: Duration) -> Self {
        self.http(|http| http.idle_grace(grace))
    }

    /// Adds the address of the client to each request: [`Http::connect_info`]. With the feature `axum`, handlers extract it as
    /// `ConnectInfo<Peer>`, or over TCP as `ConnectInfo<SocketAddr>`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use axum::{Router, extract::ConnectInfo, routing::get};
    /// use forkio::{Peer, Server};
    ///
    /// let app = Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<Peer>| format!("you are {peer}")));
    /// Server::new().bind("127.0.0.1:8080").connect_info().serve(|_| app).run();
    /// ```
    pub fn connect_info(self) -> Self {
        self.http(Http::connect_info)
    }

    /// Sets options of [`Http`], or replaces it: `|_| Http::http1()` serves HTTP/1 only.
    pub fn http(mut self, set: impl FnOnce(Http) -> Http) -> Self {
        self.setup.worker.http = set(self.setup.worker.http);
        self
    }

    /// Sets the other options of the supervisor, such as [`Prefork::user`] or [`Prefork::max_age`].
    pub fn prefork(mut self, set: impl FnOnce(Prefork) -> Prefork) -> Self {
        self.setup.prefork = set(self.setup.prefork);
        self
    }

    /// Applies the options of the command line. An option that was not given leaves the value that this server has. If
    /// `--listen` was given, it replaces all addresses. (Feature `clap`.)
    #[cfg(feature = "clap")]
    pub fn options(mut self, options: super::ServerOptions) -> Self {
        if !options.listen.is_empty() {
            self.setup.addresses = options.listen.iter().cloned().map(Ok).collect();
        }
        let listen = &mut self.setup.listen_options;
        listen.backlog = options.backlog.or(listen.backlog);
        listen.unix_mode = options.unix_mode.or(listen.unix_mode);
        self.setup.worker.threads = options.worker_threads.or(self.setup.worker.threads);
        self.http(|http| options.apply_to_http(http)).prefork(|prefork| options.apply(prefork))
    }

    /// Calls `ready` in the supervisor when all workers are ready for the first time, with the addresses of the listeners.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let server = forkio::Server::new();
    /// server.bind("127.0.0.1:0").on_ready(|addresses| println!("listening on http://{}", addresses[0]));
    /// ```
    pub fn on_ready(mut self, ready: impl FnOnce(&[Address]) + Send + 'static) -> Self {
        self.setup.on_ready = Some(Box::new(ready));
        self
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("setup", &self.setup).finish_non_exhaustive()
    }
}
