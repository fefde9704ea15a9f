//! What a worker does: accept, serve, drain.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use forkio::{Acceptor, Counted, Listener, Shutdown, Worker};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::routes::{Preloaded, Site};

/// A longer head of a request gets the status 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// How long to leave the queue of connections alone when one could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The shortest time that a tokio timer has. In a runtime with threads a task that yields may well be the next one to run.
const EVENT_LOOP_TURN: Duration = Duration::from_millis(1);

/// Serves on all listeners of the worker until it is told to stop, and then for as long as requests are in flight, up to
/// the drain timeout.
pub(crate) async fn serve(mut worker: Worker, preloaded: Preloaded, header_timeout: Duration) -> Result<(), CutOff> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_header_size(MAX_HEADER_BYTES);
    let site = Site::new(preloaded, worker.connections());
    let server = Arc::new(Server { http, site, drain: worker.drain_timeout() });

    let mut accepting = JoinSet::new();
    for listener in worker.take_listeners() {
        if let Listener::Tcp(listener) = listener {
            accepting.spawn(Arc::clone(&server).accept(worker.acceptor(listener), worker.shutdown()));
        }
    }
    match accepting.join_all().await.into_iter().sum() {
        0 => Ok(()),
        connections => Err(CutOff { connections, drain: server.drain }),
    }
}

/// Requests were still in flight when the time to drain was over.
#[derive(Debug)]
pub(crate) struct CutOff {
    connections: usize,
    drain: Duration,
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cut off {} connections that were busy {:?} after the signal to stop", self.connections, self.drain)
    }
}

impl Error for CutOff {}

struct Server {
    http: http1::Builder,
    site: Site,
    drain: Duration,
}

impl Server {
    /// Accepts and serves connections until the shutdown, then drains them. Returns how many it had to cut off.
    async fn accept(self: Arc<Self>, mut acceptor: Acceptor<TcpListener>, shutdown: Shutdown) -> usize {
        let mut connections = JoinSet::new();
        let mut stop = pin!(shutdown.clone());
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = acceptor.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(Arc::clone(&self).connection(stream, shutdown.clone()));
                    }
                    // The client has given up already.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    // No descriptors or memory are left. Ending connections give some back; to ask again at once
                    // would only burn the CPU that they need for it.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        acceptor.pause();
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => report(ended),
            }
        }

        for (stream, _) in acceptor.close() {
            connections.spawn(Arc::clone(&self).connection(stream, shutdown.clone()));
        }
        let drained = timeout(self.drain, async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        });
        match drained.await {
            Ok(()) => 0,
            // Dropping the set drops the connections.
            Err(_) => connections.len(),
        }
    }

    async fn connection(self: Arc<Self>, stream: Counted<TcpStream>, shutdown: Shutdown) {
        let service = service_fn(|request| async { Ok::<_, Infallible>(self.site.answer(request).await) });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));

        let served = tokio::select! {
            biased;
            served = connection.as_mut() => served,
            () = shutdown => {
                // hyper closes a connection that it has read nothing from as idle. One turn of the event loop first, so
                // that it finds a request which has arrived: a timer fires after the events that were there.
                sleep(EVENT_LOOP_TURN).await;
                match poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await {
                    Poll::Ready(served) => served,
                    Poll::Pending => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended early");
        }
    }
}

/// A panic ends only its own connection, but not unseen.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}
