//! Runs a configured server.

use std::env;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io::{self, Write};
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::service::ConnectionService;
use super::{Address, AddressError, ServeError};

type OnReady = Box<dyn FnOnce(&[Address]) + Send>;

pub(super) struct Setup {
    pub(super) addresses: Vec<Result<Address, AddressError>>,
    pub(super) threads: Option<usize>,
    pub(super) shutdown_timeout: Duration,
    pub(super) header_timeout: Duration,
    pub(super) keep_alive_timeout: Duration,
    pub(super) on_ready: Option<OnReady>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            addresses: Vec::new(),
            threads: None,
            shutdown_timeout: Duration::from_secs(8),
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            on_ready: None,
        }
    }
}

impl Setup {
    async fn listen(&mut self) -> Result<Vec<TcpListener>, ServeError> {
        let mut listeners = Vec::new();
        for address in self.addresses.drain(..) {
            let address = address.map_err(ServeError::Address)?;
            let opened = match &address {
                Address::Tcp(address) => TcpListener::bind(address).await,
                Address::Unix(_) => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "forkio serves Unix sockets only on systems with fork(2): use a TCP address",
                )),
            };
            listeners.push(opened.map_err(|source| ServeError::Listen { address, source })?);
        }
        if listeners.is_empty() { Err(ServeError::NoListener) } else { Ok(listeners) }
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // hyper's header timeout includes the idle time before a request. `connection` limits the first request.
        let keep_alive = Some(self.keep_alive_timeout).filter(|limit| !limit.is_zero());
        builder.http1().timer(TokioTimer::new()).keep_alive(keep_alive.is_some()).header_read_timeout(keep_alive);
        builder.http2().timer(TokioTimer::new());
        builder
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

type Running = Pin<Box<dyn Future<Output = Result<(), ServeError>>>>;

/// A server that is ready to [run](Serving::run). [`Server::serve`](super::Server::serve) returns it.
#[must_use = "a server does nothing until it runs"]
pub struct Serving {
    threads: Option<usize>,
    start: Box<dyn FnOnce() -> Running>,
}

impl Serving {
    pub(super) fn new<S, F>(mut setup: Setup, make: F) -> Serving
    where
        F: AsyncFnOnce() -> Result<S, ServeError> + 'static,
        S: ConnectionService + Clone + Sync,
    {
        let threads = setup.threads;
        let start = move || -> Running {
            Box::pin(async move {
                let listeners = setup.listen().await?;
                let service = make().await?;
                let mut addresses = Vec::new();
                for listener in &listeners {
                    addresses.push(Address::Tcp(listener.local_addr().map_err(ServeError::Runtime)?.to_string()));
                }
                let mut interrupted = pin!(tokio::signal::ctrl_c());
                // The first poll installs the handler. From now on, Ctrl+C resolves the future instead of ending the
                // process.
                if let Poll::Ready(ended) = poll_fn(|cx| Poll::Ready(interrupted.as_mut().poll(cx))).await {
                    return ended.map_err(ServeError::Runtime);
                }
                if let Some(ready) = setup.on_ready.take() {
                    ready(&addresses);
                }
                serve(listeners, service, &setup, interrupted).await
            })
        };
        Serving { threads, start: Box::new(start) }
    }

    /// Serves until Ctrl+C stops the server. Returns the status that the process should exit with. Prints an error to
    /// standard error.
    ///
    /// | status | meaning |
    /// |---|---|
    /// | 0 | stopped; everything that had begun was finished |
    /// | 1 | connections were cut off at the shutdown timeout, or the server could not start |
    /// | 2 | the server has no address, or cannot use one of its addresses |
    pub fn run(self) -> ExitCode {
        match self.try_run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let program = env::args_os().next().unwrap_or_default();
                let name = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
                // Do not panic if standard error is closed.
                let _ = writeln!(io::stderr(), "{name}: {error}");
                ExitCode::from(error.exit_code())
            }
        }
    }

    /// Like [`run`](Serving::run), but returns an error instead of printing it.
    ///
    /// # Errors
    ///
    /// [`ServeError`].
    pub fn try_run(self) -> Result<(), ServeError> {
        if Handle::try_current().is_ok() {
            return Err(ServeError::InsideRuntime);
        }
        let mut builder = Builder::new_multi_thread();
        if let Some(threads) = self.threads {
            builder.worker_threads(threads);
        }
        let runtime = builder.enable_all().build().map_err(ServeError::Runtime)?;
        let ended = runtime.block_on((self.start)());
        runtime.shutdown_background();
        ended
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

/// Serves until `interrupted` resolves, then finishes the accepted connections, at most until the shutdown timeout.
async fn serve<S>(
    listeners: Vec<TcpListener>,
    service: S,
    setup: &Setup,
    interrupted: impl Future<Output = io::Result<()>>,
) -> Result<(), ServeError>
where
    S: ConnectionService + Clone + Sync,
{
    let (stop, stopped) = watch::channel(false);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (service, builder, stopped) = (service.clone(), setup.builder(), stopped.clone());
        accepting.spawn(accept(listener, service, builder, setup.header_timeout, stopped));
    }
    interrupted.await.map_err(ServeError::Runtime)?;
    let _ = stop.send(true);
    let mut connections = Vec::new();
    while let Some(accepted) = accepting.join_next().await {
        connections.extend(accepted);
    }
    let drained = timeout(setup.shutdown_timeout, async {
        for accepted in &mut connections {
            while accepted.join_next().await.is_some() {}
        }
    });
    match drained.await {
        Ok(()) => Ok(()),
        Err(_) => Err(ServeError::CutOff(connections.iter().map(JoinSet::len).sum())),
    }
}

async fn wait_for_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the server has ended.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Accepts from one listener until the server stops. Returns the connections that are open then.
async fn accept<S>(
    listener: TcpListener,
    service: S,
    builder: auto::Builder<TokioExecutor>,
    header_timeout: Duration,
    mut stopped: watch::Receiver<bool>,
) -> JoinSet<()>
where
    S: ConnectionService + Clone + Sync,
{
    /// How long to wait after a failed accept, such as when the process has no descriptor left.
    const RETRY: Duration = Duration::from_millis(50);
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = wait_for_stop(&mut stopped) => return connections,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
        };
        match stream {
            Ok(stream) => {
                let (service, builder, stopped) = (service.clone(), builder.clone(), stopped.clone());
                connections.spawn(connection(stream, service, builder, header_timeout, stopped));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Serves one connection. When the server stops, finishes the requests that have begun.
async fn connection<S>(
    stream: TcpStream,
    service: S,
    builder: auto::Builder<TokioExecutor>,
    header_timeout: Duration,
    mut stopped: watch::Receiver<bool>,
) where
    S: ConnectionService + Clone + Sync,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let begun = Notify::new();
    let mut too_late = pin!(async {
        match timeout(header_timeout, begun.notified()).await {
            Ok(()) => pending().await,
            Err(_) => Err("the client has not sent the head of a request in time".into()),
        }
    });
    let service = service_fn(|request| {
        begun.notify_one();
        service.call(request)
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        late = too_late.as_mut() => late,
        () = wait_for_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = connection => served,
                late = too_late => late,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(error, "a connection ended early");
    }
}
