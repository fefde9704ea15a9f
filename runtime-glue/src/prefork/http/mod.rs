//! Serves HTTP with hyper so that no request is lost when a worker ends (feature `http`).
//!
//! [`Http`] serves any hyper service. A tower service, such as axum's `Router`, becomes one with
//! `hyper_util::service::TowerToHyperService`.
//!
//! # When the worker must end
//!
//! [The guide](crate::guide::operating#what-a-drain-does) says what happens to each kind of connection.
//!
//! Let the handler of an upgraded connection, or of a response without an end, finish when
//! [`WorkerHandle::shutdown`](super::WorkerHandle::shutdown) resolves. A reload then does not wait for the shutdown timeout.
//! The client connects again, and reaches a new worker:
//!
//! ```
//! use std::convert::Infallible;
//! use std::time::Duration;
//!
//! use axum::response::sse::{Event, Sse};
//! use axum::{Router, routing::get};
//! use forkio::Server;
//! use futures_util::{Stream, StreamExt, stream};
//!
//! fn ticks() -> impl Stream<Item = Result<Event, Infallible>> {
//!     stream::unfold((), async |()| {
//!         tokio::time::sleep(Duration::from_secs(1)).await;
//!         Some((Ok(Event::default().data("tick")), ()))
//!     })
//! }
//!
//! Server::new().bind("127.0.0.1:8080").serve(|worker| {
//!     let worker = worker.handle();
//!     Router::new().route("/ticks", get(async move || Sse::new(ticks().take_until(worker.shutdown()))))
//! });
//! ```

mod activity;
mod connection;
mod io;
mod request_timer;
mod track;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming as IncomingBody};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tracing::Instrument;

use self::connection::{ConnectionStream, Serving};
use super::worker::WorkerHandle;
use super::{Accept, Incoming, Listener, Phase, Worker};
use crate::Peer;
use crate::serve::ConnectionService;

/// The longest timeout: 30 years. The deadline of a longer one might not fit into an `Instant`.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// How a worker serves HTTP: timeouts, protocols and hyper's own options.
///
/// # Examples
///
/// ```no_run
/// use std::convert::Infallible;
///
/// use forkio::prefork::{Prefork, Worker};
/// use forkio::prefork::http::{CutOff, Http};
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
///
/// async fn work(mut worker: Worker) -> Result<(), CutOff> {
///     let hello = service_fn(|_: Request<_>| async { Ok::<_, Infallible>(Response::new("Hello!".to_owned())) });
///     Http::new().serve(&mut worker, hello).await
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// Prefork::new().listener(listener).run(work).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Http {
    protocols: Protocols,
    transport: Transport,
    header_timeout: Duration,
    idle_grace: Duration,
    keep_alive_timeout: Duration,
    adds_peer: bool,
}

/// The transport of the TCP connections that [`Http`] accepts.
#[derive(Clone, Debug)]
enum Transport {
    Plain,
    #[cfg(feature = "tls")]
    Tls(Arc<tokio_rustls::rustls::ServerConfig>),
}

#[derive(Clone, Debug)]
enum Protocols {
    Http1(http1::Builder),
    Both(auto::Builder<TokioExecutor>),
}

impl Default for Http {
    fn default() -> Http {
        Http::new()
    }
}

impl Http {
    /// Serves HTTP/1 and HTTP/2, with the default timeouts. The first bytes of a connection tell which protocol it uses.
    pub fn new() -> Http {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // `RequestTimer` enforces this timeout instead of hyper.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
        builder.http2().timer(TokioTimer::new());
        Http::with(Protocols::Both(builder))
    }

    /// Serves HTTP/1 only, with the default timeouts.
    pub fn http1() -> Http {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(None);
        Http::with(Protocols::Http1(builder))
    }

    fn with(protocols: Protocols) -> Http {
        Http {
            protocols,
            transport: Transport::Plain,
            header_timeout: Duration::from_secs(10),
            idle_grace: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(75),
            adds_peer: false,
        }
    }

    /// Sets how long a client may take to send the head of its first request, and to finish a later head that it has begun. The
    /// default is 10 seconds.
    pub fn header_timeout(mut self, limit: Duration) -> Http {
        self.header_timeout = limit.min(LONGEST);
        self
    }

    /// Sets how long a connection may be idle after a request. After this time, or up to a quarter more, an HTTP/1
    /// connection is closed, and an HTTP/2 client gets GOAWAY: it connects again for its next request. A connection is not
    /// idle while a request or its response is under way. The default is 75 seconds, like nginx's
    /// `keepalive_timeout`. Zero closes each HTTP/1 connection with its first response.
    ///
    /// (hyper's option of this name, for HTTP/2, is the time in which a client must answer a ping.)
    ///
    /// An HTTP/2 client counts as vanished if it does not answer GOAWAY and a ping within the [header
    /// timeout](Http::header_timeout). Its connection is then closed. If such a client has a request in flight, only
    /// `http2().keep_alive_interval` of [`configure`](Http::configure) ends the connection.
    pub fn keep_alive_timeout(mut self, limit: Duration) -> Http {
        self.keep_alive_timeout = limit.min(LONGEST);
        self
    }

    /// Sets how long an idle HTTP/1 connection stays open for one more request after the worker was told to end. An active
    /// client sends a request in that time, and learns from the response that it must connect again. The default is 1 second.
    pub fn idle_grace(mut self, grace: Duration) -> Http {
        self.idle_grace = grace.min(LONGEST);
        self
    }

    /// Adds the client's address to each request's extensions: a [`Peer`]; with the feature `axum` a `ConnectInfo<Peer>`, and
    /// a `ConnectInfo<SocketAddr>` if the client came over TCP. Requests of [`serve_connection`](Http::serve_connection) get
    /// no address.
    pub fn connect_info(mut self) -> Http {
        self.adds_peer = true;
        self
    }

    /// Sets hyper's options, such as limits of header sizes, if [`http1`](Http::http1) made this value. Otherwise does nothing:
    /// use [`configure`](Http::configure).
    pub fn configure_http1(mut self, set: impl FnOnce(&mut http1::Builder)) -> Http {
        if let Protocols::Http1(builder) = &mut self.protocols {
            set(builder);
        }
        self
    }

    /// Sets the options of hyper and hyper-util, if [`new`](Http::new) made this value. Otherwise does nothing: use
    /// [`configure_http1`](Http::configure_http1).
    pub fn configure(mut self, set: impl FnOnce(&mut auto::Builder<TokioExecutor>)) -> Http {
        if let Protocols::Both(builder) = &mut self.protocols {
            set(builder);
        }
        self
    }

    /// Serves TLS on TCP listeners. Unix sockets stay plain, because their bytes stay on this machine.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(mut self, config: Arc<tokio_rustls::rustls::ServerConfig>) -> Http {
        self.transport = Transport::Tls(config);
        self
    }

    /// Returns the protocols that a TLS server offers, by name.
    #[cfg(feature = "tls")]
    pub(crate) fn protocol_names(&self) -> &'static [&'static str] {
        match self.protocols {
            Protocols::Http1(_) => &["http/1.1", "http/1.0"],
            Protocols::Both(_) => &["h2", "http/1.1", "http/1.0"],
        }
    }

    /// Serves all listeners of the worker until the worker must end. Then finishes the accepted connections, as the
    /// [module](self) describes.
    ///
    /// # Errors
    ///
    /// [`CutOff`] if connections were still open at the shutdown timeout. `serve` closes them. Upgraded connections, and
    /// connections that the application counts itself, end with the process instead.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the listeners are closed. Connections continue until the worker must end, and then drain.
    pub async fn serve<S, B>(&self, worker: &mut Worker, service: S) -> Result<(), CutOff>
    where
        S: Service<Request<IncomingBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let mut accepting = JoinSet::new();
        let (cut_off, is_cut_off) = watch::channel(false);
        for listener in worker.take_listeners() {
            let (service, span) = (service.clone(), worker.span_of_tasks());
            let mut serving = Serving { http: self.clone(), worker: worker.handle(), is_cut_off: is_cut_off.clone() };
            match listener {
                Listener::Tcp(listener) => {
                    accepting.spawn(serve_incoming(serving, worker.incoming(listener), service).instrument(span));
                }
                Listener::Unix(listener) => {
                    serving.http.transport = Transport::Plain;
                    accepting.spawn(serve_incoming(serving, worker.incoming(listener), service).instrument(span));
                }
            }
        }
        while let Some(ended) = accepting.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the task that accepts connections panicked");
            }
        }
        let (connections, shutdown) = (worker.connections(), worker.shutdown());
        if shutdown.phase() == Phase::Serving {
            // There was no listener, or each task that accepts connections has panicked.
            return Ok(());
        }
        match shutdown.deadline() {
            Some(deadline) => drop(timeout_at(deadline, connections.all_closed()).await),
            None => connections.all_closed().await,
        }
        match connections.open() {
            0 => Ok(()),
            connections => {
                cut_off.send_replace(true);
                Err(CutOff { connections, timeout: worker.shutdown_timeout() })
            }
        }
    }

    /// Serves one connection that the application has accepted, such as a TLS session. Call it in a task of
    /// [`spawn`](WorkerHandle::spawn), which the worker finishes before it ends.
    ///
    /// # Errors
    ///
    /// - The client took too long to send a request.
    /// - Those of hyper, for example if the client violated the protocol or went away.
    pub async fn serve_connection<I, S, B>(
        &self,
        io: I,
        service: S,
        worker: &WorkerHandle,
    ) -> Result<(), Box<dyn Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<IncomingBody>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        // The worker cuts off its tasks itself.
        let (_never, is_cut_off) = watch::channel(false);
        let serving = Serving { http: self.clone(), worker: worker.clone(), is_cut_off };
        connection::serve(&Arc::new(serving), io, None, service).await
    }
}

/// Serves one listener until the worker must end. Each connection is a task.
async fn serve_incoming<L, S>(serving: Serving, mut incoming: Incoming<L>, service: S)
where
    L: Accept<Address: Into<Peer>, Stream: ConnectionStream>,
    S: ConnectionService + Clone,
{
    let serving = Arc::new(serving);
    while let Some((stream, peer)) = incoming.next().await {
        let peer = serving.http.adds_peer.then(|| peer.into());
        let span = serving.worker.span_of_tasks();
        let serve = connection::accepted(Arc::clone(&serving), stream, peer, service.clone());
        tokio::spawn(serve.instrument(span));
    }
}

/// The error if connections were still open at the shutdown timeout.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CutOff {
    /// How many connections were cut off.
    pub connections: usize,
    /// The shutdown timeout.
    pub timeout: Duration,
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CutOff { connections, timeout } = self;
        let (s, were) = if *connections == 1 { ("", "was") } else { ("s", "were") };
        write!(f, "cut off {connections} connection{s} that {were} open {timeout:?} after the worker was told to end")
    }
}

impl Error for CutOff {}
