//! What a connection is doing, observed from both sides of hyper: the bytes it reads and the requests it hands on.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::Span;
use tracing::instrument::{Instrument, Instrumented};

use super::super::status::Started;
use super::super::worker::WorkerHandle;
use crate::Peer;

/// The state of one connection. All of it is used by the connection's own task, except for the streams of HTTP/2.
#[derive(Debug)]
pub(super) struct Activity {
    worker: WorkerHandle,
    /// Bytes have been read since the last request began or ended: the head of a request may be incomplete.
    has_unparsed: AtomicBool,
    /// A byte has been read at all.
    has_read: AtomicBool,
    is_http2: AtomicBool,
    requests: AtomicUsize,
    in_flight: AtomicUsize,
    /// Responses end the connection.
    closes: AtomicBool,
}

impl Activity {
    pub(super) fn new(worker: WorkerHandle) -> Activity {
        Activity {
            worker,
            has_unparsed: AtomicBool::new(false),
            has_read: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            closes: AtomicBool::new(false),
        }
    }

    pub(super) fn has_read(&self) -> bool {
        self.has_read.load(Ordering::Relaxed)
    }

    pub(super) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// A request has begun on this connection.
    pub(super) fn has_had_request(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// The head of a request has arrived in part.
    pub(super) fn has_partial_head(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && self.has_unparsed.load(Ordering::Relaxed)
    }

    pub(super) fn close_with_next_response(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    fn read(&self, bytes: &[u8]) {
        if !self.has_read.swap(true, Ordering::Relaxed) {
            // HTTP/2's preface begins with "PRI ", which is no method of HTTP/1.
            self.is_http2.store(bytes.starts_with(b"PRI"), Ordering::Relaxed);
        }
        self.has_unparsed.store(true, Ordering::Relaxed);
    }

    fn begin(&self) -> Started {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.has_unparsed.store(false, Ordering::Relaxed);
        self.worker.begin_request()
    }

    fn end(&self, started: Started) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.has_unparsed.store(false, Ordering::Relaxed);
        self.worker.end_request(started);
    }
}

/// The transport of a connection, with its reads observed.
#[derive(Debug)]
pub(super) struct TrackedIo<I> {
    io: I,
    activity: Arc<Activity>,
}

impl<I> TrackedIo<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>) -> TrackedIo<I> {
        TrackedIo { io, activity }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for TrackedIo<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            self.activity.read(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for TrackedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The application's service, with its requests observed and counted.
#[derive(Debug)]
pub(super) struct TrackedService<S> {
    pub(super) service: S,
    pub(super) activity: Arc<Activity>,
    /// Added to each request.
    pub(super) peer: Option<Peer>,
}

impl<S, R, B> Service<Request<R>> for TrackedService<S>
where
    S: Service<Request<R>, Response = Response<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TrackedResponse<S::Future>;

    fn call(&self, mut request: Request<R>) -> TrackedResponse<S::Future> {
        if let Some(peer) = self.peer {
            peer.insert_into(&mut request);
        }
        let is_http1 = request.version() < Version::HTTP_2;
        let in_flight = InFlight { started: self.activity.begin(), activity: Arc::clone(&self.activity) };
        // A stream of HTTP/2 is a task of hyper's.
        let span = if is_http1 { Span::none() } else { self.activity.worker.span_of_tasks() };
        TrackedResponse { response: self.service.call(request).instrument(span), in_flight, is_http1 }
    }
}

/// A request that has not been answered yet.
#[derive(Debug)]
struct InFlight {
    started: Started,
    activity: Arc<Activity>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.end(self.started);
    }
}

pin_project! {
    /// The response, as the application makes it.
    pub(super) struct TrackedResponse<F> {
        #[pin]
        response: Instrumented<F>,
        in_flight: InFlight,
        is_http1: bool,
    }
}

impl<F, B, E> Future for TrackedResponse<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut response = ready!(this.response.poll(cx));
        match &mut response {
            Ok(response)
                if *this.is_http1
                    && this.in_flight.activity.closes.load(Ordering::Relaxed)
                    && response.status() != StatusCode::SWITCHING_PROTOCOLS =>
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        Poll::Ready(response)
    }
}
