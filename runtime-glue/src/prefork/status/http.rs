//! The connections and routes of the service worker.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::channel::Reply;
use super::control::{MOST_OPERATIONS, STOPPING};
use super::service::ServiceState;
use super::snapshot::Snapshot;
use super::{metrics, page};
use crate::prefork::Accept;
use crate::prefork::slots::ServerPhase;

/// How long a client may take to send the head of a request. The service worker then closes the connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a read-only connection may last, so that a client that reads slowly cannot hold it forever.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How many connections a listener of the page serves at the same time. One more connection closes the oldest one, so that
/// idle clients do not block other clients.
pub(super) const MOST_CONNECTIONS: usize = 32;

/// How many connections the control socket serves at the same time. A client keeps its connection while it waits for
/// the result of its command. So the limit exceeds the number of commands that may be in progress.
pub(super) const MOST_CONTROL_CONNECTIONS: usize = MOST_OPERATIONS + 32;

/// How long to wait after a failed accept, for example because no descriptor is free.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// The rights of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Control,
    /// The peer is a process of another user, or of an unknown one.
    Nothing,
}

impl Access {
    /// Returns the rights of a connection to the control socket: root and `owner`, the user of the supervisor, may control
    /// the server. The kernel notes the user when the client connects (`SO_PEERCRED`, `LOCAL_PEERCRED`).
    pub(super) fn to_control(stream: &UnixStream, owner: u32) -> Access {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == owner => return Access::Control,
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refusing a user that may not control this server");
            }
            Err(error) => tracing::warn!(%error, "refusing a client of the control socket whose user is unknown"),
        }
        Access::Nothing
    }
}

/// The connections of one listener.
#[derive(Debug)]
struct Connections {
    most: usize,
    /// The connections, oldest first. Each has a flag, which is set while its client waits for the result of a command.
    open: VecDeque<(JoinHandle<()>, Waits)>,
}

type Waits = Arc<AtomicBool>;

impl Connections {
    fn serve(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        access: Access,
        service: &Arc<ServiceState>,
    ) {
        self.open.retain(|(connection, _)| !connection.is_finished());
        if self.open.len() >= self.most {
            let idle = self.open.iter().position(|(_, waits)| !waits.load(Ordering::Relaxed));
            if let Some((oldest, _)) = self.open.remove(idle.unwrap_or(0)) {
                tracing::debug!("too many connections to the service worker: closing the oldest");
                oldest.abort();
            }
        }
        let waits = Waits::default();
        let connection = serve(stream, access, Arc::clone(service), Arc::clone(&waits));
        self.open.push_back((tokio::spawn(connection), waits));
    }
}

/// Serves a listener, at most `most` connections at the same time. `access` returns the rights of a connection.
pub(super) async fn serve_listener<L>(
    listener: L,
    most: usize,
    service: Arc<ServiceState>,
    access: impl Fn(&L::Stream) -> Access + Send,
) where
    L: Accept<Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static> + Send + Sync,
{
    let mut connections = Connections { most, open: VecDeque::new() };
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((stream, _)) => {
                let access = access(&stream);
                connections.serve(stream, access, &service);
            }
            Err(error) => {
                tracing::debug!(%error, "the service worker cannot accept a connection");
                sleep(ACCEPT_DELAY).await;
            }
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: Access,
    service: Arc<ServiceState>,
    waits: Waits,
) {
    let route = service_fn(move |request: Request<Incoming>| {
        let service = Arc::clone(&service);
        // Begin at once: if the client goes away, hyper drops the future, and the command must not be lost.
        let command = Command::begin(&service, access, &request);
        waits.store(matches!(command, Some(Ok(_))), Ordering::Relaxed);
        async move {
            Ok::<_, Infallible>(match command {
                Some(Ok(command)) => command.outcome().await,
                Some(Err((status @ StatusCode::METHOD_NOT_ALLOWED, message))) => {
                    not_allowed(outcome(status, "failed", message), "POST")
                }
                Some(Err((status, message))) => outcome(status, "failed", message),
                None => answer(&service, access, &request).await,
            })
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // The connection is closed at `PAGE_TIMEOUT`, or to make room for a newer one. Without keep-alive, no client sends another
    // request at that moment.
    let connection = http.keep_alive(false).serve_connection(TokioIo::new(stream), route);
    let ended = match access {
        // The connection has no timeout, because a command may take any time.
        Access::Control => connection.await,
        Access::Read | Access::Nothing => timeout(PAGE_TIMEOUT, connection).await.unwrap_or(Ok(())),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the service worker ended early");
    }
}

async fn answer(service: &ServiceState, access: Access, request: &Request<Incoming>) -> Answer {
    if access == Access::Nothing {
        return text(StatusCode::FORBIDDEN, "only root and the user of the supervisor may use this socket\n");
    }
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_allowed(text(StatusCode::METHOD_NOT_ALLOWED, "this page is read-only\n"), "GET, HEAD");
    }
    match path {
        "/" | "/status" => {
            service.channel.refresh_memory().await;
            let mut answer =
                content(StatusCode::OK, "text/html; charset=utf-8", page::render(&Snapshot::take(service)));
            let policy = HeaderValue::from_static(page::CONTENT_POLICY);
            answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            answer
        }
        "/status.json" => {
            service.channel.refresh_memory().await;
            match serde_json::to_vec(&Snapshot::take(service)) {
                Ok(json) => content(StatusCode::OK, "application/json", json),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
        "/metrics" => {
            service.channel.refresh_memory().await;
            match metrics::encode(Snapshot::take(service)) {
                Ok(text) => content(StatusCode::OK, metrics::CONTENT_TYPE, text),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match Snapshot::take(service) {
            snapshot if snapshot.server.is_ready => text(StatusCode::OK, "ready\n"),
            snapshot => {
                let why = format!("not ready: {}, {} workers are ready\n", snapshot.server.state, snapshot.serving());
                text(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        },
        _ => text(StatusCode::NOT_FOUND, "unknown path: use /status, /status.json, /metrics, /healthz or /readyz\n"),
    }
}

/// Why a command is refused: the status and the text of the response.
type Refusal = (StatusCode, &'static str);

/// A command that the supervisor carries out.
#[derive(Debug)]
struct Command {
    replies: UnboundedReceiver<Reply>,
    /// Whether the client waits for the result.
    waits: bool,
}

impl Command {
    /// Begins the command of a request. Returns `None` if the request is not a command, or if the client has no access.
    fn begin(service: &ServiceState, access: Access, request: &Request<Incoming>) -> Option<Result<Command, Refusal>> {
        let command = request.uri().path().strip_prefix("/control/")?;
        // A stopping supervisor reads no more commands.
        let is_stopping = matches!(service.common.slots.phase(), ServerPhase::Stopping | ServerPhase::HandedOver);
        Some(match access {
            Access::Control if is_stopping => Err((StatusCode::CONFLICT, STOPPING)),
            Access::Control if request.method() == Method::POST => {
                Command::new(service, command, request.uri().query().unwrap_or(""))
            }
            Access::Control => Err((StatusCode::METHOD_NOT_ALLOWED, "send a POST request")),
            Access::Read => Err((StatusCode::FORBIDDEN, "this address is read-only: use the control socket")),
            Access::Nothing => return None,
        })
    }

    fn new(service: &ServiceState, command: &str, query: &str) -> Result<Command, Refusal> {
        let parameter = |name: &str| {
            let mut parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
            parameters.find(|(own, _)| *own == name).map(|(_, value)| value)
        };
        let number = |name: &str| parameter(name).and_then(|value| value.parse::<usize>().ok());
        let command = match (command, number("workers"), number("worker")) {
            ("reload" | "upgrade", _, _) => command.to_owned(),
            ("scale", Some(workers), _) => format!("scale {workers}"),
            ("retire", _, Some(worker)) => format!("retire {worker}"),
            ("scale", None, _) => return Err((StatusCode::BAD_REQUEST, "give ?workers= and a number")),
            ("retire", _, None) => return Err((StatusCode::BAD_REQUEST, "give ?worker= and an index")),
            _ => return Err((StatusCode::NOT_FOUND, "unknown command: use reload, scale, retire or upgrade")),
        };
        Ok(Command { replies: service.channel.command(&command), waits: parameter("wait") != Some("no") })
    }

    /// Waits for the result, unless the query said `wait=no`.
    async fn outcome(mut self) -> Answer {
        loop {
            match self.replies.recv().await {
                Some(Reply::Accepted) if self.waits => {}
                Some(Reply::Accepted) => return outcome(StatusCode::ACCEPTED, "accepted", "the command has begun"),
                Some(Reply::Done(text)) => return outcome(StatusCode::OK, "done", &text),
                Some(Reply::Failed(text)) => return outcome(StatusCode::CONFLICT, "failed", &text),
                None => return outcome(StatusCode::SERVICE_UNAVAILABLE, "failed", "the server ends"),
            }
        }
    }
}

/// Tells the client which methods it may use.
fn not_allowed(mut answer: Answer, allowed: &'static str) -> Answer {
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn outcome(status: StatusCode, outcome: &str, message: &str) -> Answer {
    content(status, "application/json", json!({ "outcome": outcome, "message": message }).to_string())
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    content(status, "text/plain; charset=utf-8", body)
}

fn content(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
