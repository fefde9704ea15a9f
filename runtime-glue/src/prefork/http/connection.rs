//! One connection, from its first byte to its last.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::{Body, Incoming as IncomingBody};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::worker::WorkerHandle;
use super::track::{Activity, TrackedIo, TrackedService};
use super::{Http, Protocols};
use crate::Peer;

/// The shortest time that a tokio timer has. In a runtime with threads a task that yields may well be the next one to run.
const EVENT_LOOP_TURN: Duration = Duration::from_millis(1);

/// What to do with a connection of a worker that has to end.
#[derive(Debug)]
enum NextStep {
    /// It may still send a request: look again then.
    WaitUntil(Instant),
    /// Its time is over.
    Finish,
}

pub(super) async fn serve<I, S, B>(
    http: &Http,
    io: I,
    peer: Option<Peer>,
    service: S,
    worker: &WorkerHandle,
) -> Result<(), Box<dyn Error + Send + Sync>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<IncomingBody>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let activity = Arc::new(Activity::new(worker.clone()));
    let io = TokioIo::new(TrackedIo::new(io, Arc::clone(&activity)));
    let service = TrackedService { service, activity: Arc::clone(&activity), peer };
    match &http.protocols {
        Protocols::Http1(builder) => {
            let connection = builder.serve_connection(io, service).with_upgrades();
            drive(http, connection, |connection| connection.graceful_shutdown(), &activity, worker, false).await?;
        }
        Protocols::Both(builder) => {
            let connection = builder.serve_connection_with_upgrades(io, service);
            drive(http, connection, |connection| connection.graceful_shutdown(), &activity, worker, true).await?;
        }
    }
    Ok(())
}

/// Runs a connection to its end. `looks_first`: hyper-util looks for the protocol, without a timeout.
async fn drive<C: Future<Output = Result<(), E>>, E>(
    http: &Http,
    connection: C,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
    activity: &Activity,
    worker: &WorkerHandle,
    looks_first: bool,
) -> Result<(), E> {
    let accepted = Instant::now();
    let mut connection = pin!(connection);
    let mut first_byte = pin!(sleep_until(accepted + http.header_timeout));
    let mut awaits_first_byte = looks_first;
    let mut shutdown = pin!(worker.shutdown());
    loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => return served,
            () = shutdown.as_mut() => break,
            () = first_byte.as_mut(), if awaits_first_byte => {
                if !activity.has_read() {
                    return Ok(());
                }
                awaits_first_byte = false;
            }
        }
    }

    let told = Instant::now();
    activity.close_with_next_response();
    // One turn of the event loop first, so that bytes which have arrived are read: a timer fires after the events that
    // were there.
    tokio::select! {
        biased;
        served = connection.as_mut() => return served,
        () = sleep(EVENT_LOOP_TURN) => {}
    }
    while let NextStep::WaitUntil(time) = next_step(http, activity, accepted, told) {
        tokio::select! {
            biased;
            served = connection.as_mut() => return served,
            () = sleep_until(time) => {}
        }
    }
    // It may be busy with a request that has just come.
    if let Poll::Ready(served) = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await {
        return served;
    }
    if !activity.has_read() {
        // There is nothing to finish, and hyper-util may not know the protocol yet.
        return Ok(());
    }
    graceful_shutdown(connection.as_mut());
    connection.await
}

fn next_step(http: &Http, activity: &Activity, accepted: Instant, told: Instant) -> NextStep {
    let now = Instant::now();
    let until = if activity.is_http2() {
        // GOAWAY loses nothing: it names the last stream that is served.
        now
    } else if !activity.has_had_request() {
        accepted + http.header_timeout
    } else if activity.has_partial_head() {
        told + http.header_timeout
    } else {
        told + http.idle_grace
    };
    if until <= now { NextStep::Finish } else { NextStep::WaitUntil(until) }
}
