//! The builder of a server.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use super::run::{Serving, Setup};
use super::{HttpService, ServeError};
use crate::prefork::Worker;

/// An HTTP server that serves from this process (feature `http`): HTTP/1 and HTTP/2, with upgrades.
///
/// Call [`serve`](Server::serve) or [`serve_with`](Server::serve_with) to say what to serve, then [`run`](Serving::run).
///
/// # Platforms
///
/// On systems with `fork(2)`, worker processes serve. Only on those systems, `Server` serves Unix sockets, and has the
/// options `backlog`, `unix_mode`, `systemd`, `tls`, `distribution`, `max_requests`, `status`, `control`, `idle_grace`,
/// `connect_info`, `http`, `prefork` and `options`.
#[must_use = "a server does nothing until it runs"]
pub struct Server<L = NoLoad> {
    setup: Setup,
    load: L,
}

/// The type parameter of a [`Server`] that loads nothing.
#[derive(Debug)]
pub struct NoLoad(());

/// The type parameter of a [`Server`] that loads the application first: [`Server::load`].
pub struct Load<F>(F);

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
    /// Makes a server without an address.
    pub fn new() -> Server {
        Server { setup: Setup::default(), load: NoLoad(()) }
    }

    /// Loads the application before it is served.
    pub fn load<F, Fut, T, E>(self, load: F) -> Server<Load<F>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>>,
        E: fmt::Display,
    {
        Server { setup: self.setup, load: Load(load) }
    }

    /// Does the same as [`load`](Server::load), because there is only one process.
    pub fn preload<F, Fut, T, E>(self, load: F) -> Server<Load<F>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>>,
        E: fmt::Display,
    {
        self.load(load)
    }

    /// Serves the service that `make` returns. The server calls `make` once, inside the runtime.
    pub fn serve<F, S, Kind>(self, make: F) -> Serving
    where
        F: FnOnce(&Worker) -> S + Send + 'static,
        S: HttpService<Kind>,
    {
        Serving::new(self.setup, async move || Ok(make(&Worker::new()).into_hyper()))
    }

    /// Like [`serve`](Server::serve), for a service that takes time to make or may fail.
    pub fn serve_with<F, S, E, Kind>(self, make: F) -> Serving
    where
        F: AsyncFnOnce(&Worker) -> Result<S, E> + Send + 'static,
        S: HttpService<Kind>,
        E: fmt::Display,
    {
        Serving::new(self.setup, async move || {
            make(&Worker::new()).await.map(S::into_hyper).map_err(|error| ServeError::Application(error.to_string()))
        })
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
        self.serve_with(async move |loaded: T, worker: &Worker| Ok::<_, String>(make(loaded, worker)))
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
        let Load(load) = self.load;
        Serving::new(self.setup, async move || {
            let loaded = load().await.map_err(|error| ServeError::Application(error.to_string()))?;
            let made = make(loaded, &Worker::new()).await;
            made.map(S::into_hyper).map_err(|error| ServeError::Application(error.to_string()))
        })
    }
}

/// The options. They may come before or after [`load`](Server::load).
impl<L> Server<L> {
    /// Listens on a TCP address, such as `0.0.0.0:8080`. Call it again for more listeners. If the text is not an address, or is
    /// the path of a Unix socket, [`run`](Serving::run) fails.
    pub fn bind(mut self, address: impl ToString) -> Self {
        self.setup.addresses.push(address.to_string().parse());
        self
    }

    /// Sets how many worker processes to keep running on systems with `fork(2)`. Does nothing on this system: one process
    /// serves. Use [`worker_threads`](Server::worker_threads) instead.
    pub fn workers(self, _workers: usize) -> Self {
        self
    }

    /// Sets how many threads serve. As many as there are CPUs unless set.
    ///
    /// # Panics
    ///
    /// With 0, [`run`](Serving::run) panics, like `tokio::runtime::Builder::worker_threads`.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.setup.threads = Some(threads);
        self
    }

    /// Sets how long connections may take to finish their requests after Ctrl+C. 8 seconds unless set.
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.setup.shutdown_timeout = limit;
        self
    }

    /// Sets how long a client may take to send the head of its first request. 10 seconds unless set.
    pub fn header_timeout(mut self, limit: Duration) -> Self {
        self.setup.header_timeout = limit;
        self
    }

    /// Sets how long an HTTP/1 client may take to send the head of each later request, idle time included. 75 seconds unless
    /// set. Zero turns keep-alive off.
    pub fn keep_alive_timeout(mut self, limit: Duration) -> Self {
        // hyper adds the limit to the current time, and an `Instant` cannot hold every sum.
        const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        self.setup.keep_alive_timeout = limit.min(LONGEST);
        self
    }

    /// Calls `ready` once the listeners are open and the service is made, with the addresses of the listeners.
    pub fn on_ready(mut self, ready: impl FnOnce(&[super::Address]) + Send + 'static) -> Self {
        self.setup.on_ready = Some(Box::new(ready));
        self
    }
}

impl<L> fmt::Debug for Server<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("setup", &self.setup).finish_non_exhaustive()
    }
}
