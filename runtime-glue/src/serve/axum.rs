//! The listener of a worker for `axum::serve` (feature `axum`).

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener as AxumListener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

use super::Peer;
use crate::prefork::{Counted, Incoming, Listener, Worker};

impl Worker {
    /// Takes the next listener, for `axum::serve` (feature `axum`).
    ///
    /// `axum::serve` does not count requests. When the worker must end, `axum::serve` closes idle connections at once, without
    /// the [grace time](crate::prefork::http::Http::idle_grace). It waits for the other connections without a limit, so the
    /// supervisor kills the worker if one outlives the [shutdown timeout](crate::prefork::Prefork::shutdown_timeout). Use
    /// [`Server`](crate::Server) unless you need `axum::serve` itself.
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound) if all listeners have been taken, and the errors of getsockname(2).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    /// use forkio::prefork::Worker;
    ///
    /// async fn work(mut worker: Worker) -> std::io::Result<()> {
    ///     let app = Router::new().route("/", get(|| async { "Hello!" }));
    ///     let listener = worker.listener()?;
    ///     let closed = listener.closed();
    ///     axum::serve(listener, app).with_graceful_shutdown(closed).await
    /// }
    /// ```
    pub fn listener(&mut self) -> io::Result<WorkerListener> {
        let listener = self
            .take_listener()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "all listeners of the worker have been taken"))?;
        let (local, queue) = match listener {
            Listener::Tcp(listener) => (Peer::Tcp(listener.local_addr()?), Queue::Tcp(self.incoming(listener))),
            Listener::Unix(listener) => (Peer::Unix, Queue::Unix(self.incoming(listener))),
        };
        Ok(WorkerListener { queue, local, closed: watch::Sender::new(false) })
    }
}

/// A listener of a worker, for `axum::serve`: [`Worker::listener`] (feature `axum`).
pub struct WorkerListener {
    queue: Queue,
    local: Peer,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
enum Queue {
    Tcp(Incoming<TcpListener>),
    Unix(Incoming<UnixListener>),
}

impl WorkerListener {
    /// Resolves when the worker must end and will accept no more connections. Pass the future to `with_graceful_shutdown`:
    /// axum then first serves the connections that wait in the queue.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.closed.subscribe();
        async move {
            // An error means that the listener has been dropped.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }
}

impl AxumListener for WorkerListener {
    type Io = WorkerStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (WorkerStream, Peer) {
        let accepted = match &mut self.queue {
            Queue::Tcp(incoming) => {
                incoming.accept().await.map(|(stream, peer)| (WorkerStream::Tcp(stream), Peer::Tcp(peer)))
            }
            Queue::Unix(incoming) => {
                incoming.accept().await.map(|(stream, _)| (WorkerStream::Unix(stream), Peer::Unix))
            }
        };
        match accepted {
            Some(accepted) => accepted,
            None => {
                self.closed.send_replace(true);
                pending().await
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(self.local)
    }
}

impl fmt::Debug for WorkerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerListener").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Makes `into_make_service_with_connect_info::<Peer>()` work with `axum::serve`.
impl Connected<IncomingStream<'_, WorkerListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, WorkerListener>) -> Peer {
        *stream.remote_addr()
    }
}

/// A connection that a [`WorkerListener`] has accepted. It counts as open until it is dropped.
#[derive(Debug)]
#[non_exhaustive]
pub enum WorkerStream {
    /// TCP.
    Tcp(Counted<TcpStream>),
    /// A Unix stream socket.
    Unix(Counted<UnixStream>),
}

macro_rules! delegate {
    ($stream:expr, $method:ident($($argument:expr),*)) => {
        match $stream.get_mut() {
            WorkerStream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            WorkerStream::Unix(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for WorkerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for WorkerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            WorkerStream::Tcp(stream) => stream.is_write_vectored(),
            WorkerStream::Unix(stream) => stream.is_write_vectored(),
        }
    }
}
