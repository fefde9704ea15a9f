//! One connection, from its first byte to its last.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::super::worker::WorkerHandle;
use super::activity::Activity;
use super::io::TrackedIo;
use super::request_timer::RequestTimer;
use super::track::TrackedService;
use super::{Http, LONGEST, Protocols, Transport};
use crate::Peer;
use crate::serve::ConnectionService;

/// The sleep in which the event loop turns once: the resolution of tokio's timers. `yield_now` is not enough, because a
/// multi-threaded runtime may run the task again at once.
const EVENT_LOOP_TURN: Duration = Duration::from_millis(1);

/// A short name for the bounds of a connection's stream.
pub(super) trait ConnectionStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> ConnectionStream for I {}

/// The state that the connections of a listener share.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) http: Http,
    pub(super) worker: WorkerHandle,
    /// Whether open connections must be cut off. A connection checks this only after the worker was told to end.
    pub(super) is_cut_off: watch::Receiver<bool>,
}

/// Logs a panic of the task that holds this value. A panic ends only the connection of that task.
struct LogsPanic;

impl Drop for LogsPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the task of a connection panicked");
        }
    }
}

/// Serves an accepted connection, including its TLS handshake.
pub(super) async fn accepted<I: ConnectionStream, S: ConnectionService>(
    serving: Arc<Serving>,
    io: I,
    peer: Option<Peer>,
    service: S,
) {
    let _logs_panic = LogsPanic;
    let served = match &serving.http.transport {
        Transport::Plain => serve(&serving, io, peer, service).await,
        // The future is boxed, so that the future of a plain connection reserves no space for TLS.
        #[cfg(feature = "tls")]
        Transport::Tls(config) => Box::pin(serve_tls(config, &serving, io, peer, service)).await,
    };
    if let Err(error) = served {
        tracing::debug!(error = &*error, "a connection ended early");
    }
}

#[cfg(feature = "tls")]
async fn serve_tls<I: ConnectionStream, S: ConnectionService>(
    config: &Arc<tokio_rustls::rustls::ServerConfig>,
    serving: &Arc<Serving>,
    io: I,
    peer: Option<Peer>,
    service: S,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let until = Instant::now() + serving.http.header_timeout;
    let time_is_over = async {
        // An error means that the time is over.
        let _told = timeout_at(until, serving.worker.status().must_end()).await;
        sleep_until(serving.worker.status().before_deadline(until)).await;
    };
    let io = tokio::select! {
        io = tokio_rustls::TlsAcceptor::from(Arc::clone(config)).accept(io) => io?,
        () = time_is_over => return Err("the client has not finished its TLS handshake in time".into()),
    };
    serve(serving, io, peer, service).await
}

pub(super) async fn serve<I: ConnectionStream, S: ConnectionService>(
    serving: &Arc<Serving>,
    io: I,
    peer: Option<Peer>,
    service: S,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let activity = Arc::new(Activity::new(Arc::clone(serving)));
    let io = TokioIo::new(TrackedIo::new(io, Arc::clone(&activity)));
    let service = TrackedService { service, activity: Arc::clone(&activity), peer };
    // The connection is boxed: the future moves several times when it is spawned, and would otherwise reserve space for the
    // largest of the protocols.
    match &serving.http.protocols {
        Protocols::Http1(builder) => {
            let mut connection = Box::pin(builder.serve_connection(io, service).with_upgrades());
            drive(connection.as_mut(), |connection| connection.graceful_shutdown(), &activity).await?;
        }
        Protocols::Both(builder) => {
            let mut connection = Box::pin(builder.serve_connection_with_upgrades(io, service));
            drive(connection.as_mut(), |connection| connection.graceful_shutdown(), &activity).await?;
        }
    }
    Ok(())
}

/// Why [`drive`] leaves its main loop.
enum End<R> {
    Served(R),
    WorkerEnds,
    /// The client has taken too long to send a request, or to answer a ping of HTTP/2.
    NoRequest,
}

/// Runs a connection to its end.
async fn drive<C: Future<Output = Result<(), E>>, E: Into<Box<dyn Error + Send + Sync>>>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    activity: &Activity,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let Serving { http, worker, is_cut_off } = activity.serving();
    let accepted = Instant::now();
    // A connection whose only request is answered at once needs no timer.
    let mut timer = None;
    let mut is_shut_down = false;
    let mut must_end = pin!(worker.status().must_end());
    let end = poll_fn(|cx| {
        if let Poll::Ready(served) = connection.as_mut().poll(cx) {
            return Poll::Ready(End::Served(served));
        }
        let timer = timer.get_or_insert_with(|| RequestTimer::new(http, accepted));
        if timer.poll(activity, cx).is_ready() {
            if is_shut_down || !(activity.is_http2() && activity.has_had_request()) {
                return Poll::Ready(End::NoRequest);
            }
            is_shut_down = true;
            // hyper finishes the open streams.
            graceful_shutdown(connection.as_mut());
            // The shutdown begins with the next poll.
            cx.waker().wake_by_ref();
        }
        must_end.as_mut().poll(cx).map(|()| End::WorkerEnds)
    });
    // The end of the connection is boxed, so that the future reserves no space for it while the worker serves.
    let served = match end.await {
        End::Served(served) => served,
        End::NoRequest if activity.is_http2() || (activity.has_had_request() && !activity.has_partial_head()) => {
            Box::pin(close_idle(connection, graceful_shutdown, activity)).await
        }
        End::NoRequest => return Err("the client has not sent the head of a request in time".into()),
        End::WorkerEnds => {
            Box::pin(async move {
                let mut is_cut_off = is_cut_off.clone();
                tokio::select! {
                    biased;
                    // An error means that `Http::serve` was dropped. The connection then drains without being cut off.
                    Ok(_) = is_cut_off.wait_for(|is_cut_off| *is_cut_off) => Ok(()),
                    served = drain(connection, graceful_shutdown, activity, accepted) => served,
                }
            })
            .await
        }
    };
    served.map_err(E::into)
}

/// Ends an idle connection, with GOAWAY (HTTP/2) and close_notify (TLS). Still serves a request that is on its way.
async fn close_idle<C: Future<Output = Result<(), E>>, E>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
    activity: &Activity,
) -> Result<(), E> {
    let requests = activity.requests();
    activity.end_body_if_idle();
    graceful_shutdown(connection.as_mut());
    let mut grace = pin!(sleep(activity.serving().http.idle_grace));
    poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Pending if activity.requests() == requests => grace.as_mut().poll(cx).map(Ok),
        polled => polled,
    })
    .await
}

/// Ends a connection as soon as that loses no request.
async fn drain<C: Future<Output = Result<(), E>>, E>(
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
    activity: &Activity,
    accepted: Instant,
) -> Result<(), E> {
    let told = Instant::now();
    activity.close_with_next_response();
    // Let the event loop turn once, so that hyper reads the bytes that have arrived: timers fire after the events of a turn.
    tokio::select! {
        biased;
        served = connection.as_mut() => return served,
        () = sleep(EVENT_LOOP_TURN) => {}
    }
    let mut idle_since = told;
    while let Some(time) = next_check(activity, accepted, idle_since) {
        let mut timer = pin!(sleep_until(time));
        let served = poll_fn(|cx| {
            let was_idle = activity.is_idle();
            match connection.as_mut().poll(cx) {
                Poll::Ready(served) => Poll::Ready(Some(served)),
                // The connection turns out to be HTTP/2. Its graceful shutdown need not wait.
                Poll::Pending if activity.is_http2() => Poll::Ready(None),
                // A response has ended. It began before the worker was told to end, so without `Connection: close`.
                Poll::Pending if !was_idle && activity.is_idle() => {
                    idle_since = Instant::now();
                    Poll::Ready(None)
                }
                Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
            }
        });
        if let Some(served) = served.await {
            return served;
        }
    }
    // The connection may be busy with a request that has just arrived.
    if let Poll::Ready(served) = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await {
        return served;
    }
    if !activity.is_http2() && (!activity.has_had_request() || activity.has_partial_head()) {
        // There is nothing to finish: the client has been too slow.
        return Ok(());
    }
    activity.end_body_if_idle();
    graceful_shutdown(connection.as_mut());
    let serving = activity.serving();
    let until = serving.worker.status().before_deadline(told + LONGEST);
    match timeout_at(until, connection.as_mut()).await {
        Ok(served) => served,
        Err(_) if activity.owes_only_an_answer() => Ok(()),
        Err(_) => connection.await,
    }
}

/// Returns when to check again whether the client has sent a request, or `None` if it has no more time to send one.
/// `idle_since` is when the worker was told to end, or when the last response ended, whichever is later.
fn next_check(activity: &Activity, accepted: Instant, idle_since: Instant) -> Option<Instant> {
    let (serving, now) = (activity.serving(), Instant::now());
    let http = &serving.http;
    let until = if activity.is_http2() {
        // GOAWAY loses nothing: it names the last stream that is served.
        now
    } else if !activity.has_had_request() {
        accepted + http.header_timeout
    } else if activity.has_partial_head() {
        idle_since + http.header_timeout
    } else if activity.is_idle() {
        idle_since + http.idle_grace
    } else {
        now + LONGEST
    };
    let until = if activity.has_partial_head() { until } else { serving.worker.status().before_deadline(until) };
    Some(until).filter(|until| *until > now)
}
