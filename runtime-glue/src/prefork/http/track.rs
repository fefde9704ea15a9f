//! What a connection is doing, observed from both sides of hyper: the bytes that hyper reads and the requests that it passes
//! on.

use std::any::Any;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::Span;
use tracing::instrument::{Instrument, Instrumented};

use super::super::Counted;
use super::super::status::Started;
use super::connection::Serving;
use crate::{Peer, sys};

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4). No HTTP/1 request begins with them.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The value of `Activity::preface` if the connection did not begin with [`PREFACE`].
const HTTP1: usize = usize::MAX;

/// How many bytes a response may have to be copied and written at once.
const SHORT: usize = 2048;

/// The value of `Activity::last_body` while hyper is not about to write the last body.
const NOT_LAST: usize = usize::MAX;

/// The state of one connection. The task of the connection writes it; with HTTP/2, the tasks of its streams do too.
#[derive(Debug)]
pub(super) struct Activity {
    serving: Arc<Serving>,
    /// Bytes have been read since the last request began or ended: the head of a request may be incomplete.
    has_unparsed: AtomicBool,
    /// The last request has a body, so that the next bytes may belong to that, even after the response.
    has_body: AtomicBool,
    /// How often bytes have been read.
    reads: AtomicUsize,
    /// How many bytes of HTTP/2's preface have been read; [`HTTP1`] if something else has.
    preface: AtomicUsize,
    /// How many requests have begun.
    requests: AtomicUsize,
    /// How many requests have ended: hyper has taken all of the response, or has dropped the request.
    ended: AtomicUsize,
    /// The transport takes no more bytes at the moment.
    is_blocked: AtomicBool,
    /// Each HTTP/1 response gets `Connection: close`, except 101 (Switching Protocols).
    closes: AtomicBool,
    /// The length of the body that hyper is about to write, if it closes the connection right afterwards; otherwise
    /// [`NOT_LAST`].
    last_body: AtomicUsize,
}

impl Activity {
    pub(super) fn new(serving: Arc<Serving>) -> Activity {
        // As in nginx, the value zero turns keep-alive off.
        let closes = serving.http.keep_alive_timeout.is_zero();
        Activity {
            serving,
            has_unparsed: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            preface: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            is_blocked: AtomicBool::new(false),
            closes: AtomicBool::new(closes),
            last_body: AtomicUsize::new(NOT_LAST),
        }
    }

    pub(super) fn serving(&self) -> &Serving {
        &self.serving
    }

    /// Whether the bytes read so far may begin either protocol.
    pub(super) fn is_protocol_unknown(&self) -> bool {
        self.preface.load(Ordering::Relaxed) < PREFACE.len()
    }

    pub(super) fn is_http2(&self) -> bool {
        self.preface.load(Ordering::Relaxed) == PREFACE.len()
    }

    /// Whether a request has begun on this connection.
    pub(super) fn has_had_request(&self) -> bool {
        self.requests() != 0
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn is_in_flight(&self) -> bool {
        self.requests() != self.ended.load(Ordering::Relaxed)
    }

    /// Whether every request has been answered.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_in_flight() && !self.is_blocked.load(Ordering::Relaxed)
    }

    /// Returns a number that grows with each request, and while the body of the last HTTP/1 request arrives.
    pub(super) fn progress(&self) -> usize {
        let reads = if self.has_body.load(Ordering::Relaxed) { self.reads.load(Ordering::Relaxed) } else { 0 };
        self.requests() + reads
    }

    /// Whether the head of an HTTP/1 request has arrived in part.
    pub(super) fn has_partial_head(&self) -> bool {
        self.has_unparsed.load(Ordering::Relaxed)
            && !self.is_in_flight()
            && !self.has_body.load(Ordering::Relaxed)
            && !self.is_http2()
    }

    pub(super) fn close_with_next_response(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    fn read(&self, bytes: &[u8]) {
        if self.is_protocol_unknown() {
            let before = self.preface.load(Ordering::Relaxed);
            let expected = &PREFACE[before..];
            let compared = expected.len().min(bytes.len());
            let is_preface = bytes[..compared] == expected[..compared];
            self.preface.store(if is_preface { before + compared } else { HTTP1 }, Ordering::Relaxed);
        }
        self.has_unparsed.store(true, Ordering::Relaxed);
        // Only the task of the connection reads.
        self.reads.store(self.reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn begin(&self, has_body: bool) -> Option<Started> {
        // Only the task of the connection begins requests.
        self.requests.store(self.requests() + 1, Ordering::Relaxed);
        self.has_unparsed.store(false, Ordering::Relaxed);
        self.has_body.store(has_body, Ordering::Relaxed);
        self.serving.worker.begin_request()
    }

    /// Notes the length of this body, if it is known. hyper closes the connection right after the body.
    fn note_last_body(&self, body: &impl Body) {
        if let Some(length) = body.size_hint().exact().and_then(|length| usize::try_from(length).ok()) {
            self.last_body.store(length, Ordering::Relaxed);
        }
    }

    /// Whether these bytes are the whole last response, head and body. Only the first write of a response can be, so this also
    /// resets `last_body`.
    fn is_all_of_last_response(&self, bytes: &[u8]) -> bool {
        let body = self.last_body.load(Ordering::Relaxed);
        if body == NOT_LAST {
            return false;
        }
        self.last_body.store(NOT_LAST, Ordering::Relaxed);
        is_whole(bytes, body)
    }

    fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.has_unparsed.store(false, Ordering::Relaxed);
    }

    fn note_write<T>(&self, written: Poll<T>) -> Poll<T> {
        let is_blocked = written.is_pending();
        if self.is_blocked.load(Ordering::Relaxed) != is_blocked {
            self.is_blocked.store(is_blocked, Ordering::Relaxed);
        }
        written
    }
}

/// Whether `bytes`, the beginning of a response, contain all of it. `body` is the length of the response's body.
fn is_whole(bytes: &[u8], body: usize) -> bool {
    // The only empty line of a head is the one at its end.
    bytes.len().checked_sub(body).is_some_and(|head| bytes[..head].ends_with(b"\r\n\r\n"))
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

/// Writes the whole last response of a TCP connection, so that the kernel sends it together with the end of the stream: hyper
/// shuts the stream down next. Returns `None` if nothing was written: the caller must then write as usual.
fn write_last_response<I: 'static>(io: &I, bytes: &[u8]) -> Option<io::Result<usize>> {
    let stream = (io as &dyn Any).downcast_ref::<Counted<TcpStream>>()?;
    sys::send_before_end(stream, bytes)
}

impl<I: AsyncWrite + Unpin + 'static> AsyncWrite for TrackedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.activity.is_all_of_last_response(bytes) {
            if let Some(result) = write_last_response(&self.io, bytes) {
                return Poll::Ready(result);
            }
        }
        let TrackedIo { io, activity } = &mut *self;
        activity.note_write(Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TrackedIo { io, activity } = &mut *self;
        activity.note_write(Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper writes the head of a response and its body as two slices. `send(2)` costs less than `writev(2)` and a short
        // copy.
        if slices.iter().map(|slice| slice.len()).sum::<usize>() <= SHORT {
            let mut bytes = [MaybeUninit::uninit(); SHORT];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            slices.iter().for_each(|slice| buffer.put_slice(slice));
            return self.poll_write(cx, buffer.filled());
        }
        let TrackedIo { io, activity } = &mut *self;
        activity.note_write(Pin::new(io).poll_write_vectored(cx, slices))
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
    R: Body,
    B: Body,
{
    type Response = Response<TrackedBody<B>>;
    type Error = S::Error;
    type Future = TrackedResponse<S::Future>;

    fn call(&self, mut request: Request<R>) -> TrackedResponse<S::Future> {
        if let Some(peer) = self.peer {
            peer.insert_into(&mut request);
        }
        let is_http1 = request.version() < Version::HTTP_2;
        let is_last = is_http1
            && match request.headers().get(CONNECTION) {
                Some(value) => value.as_bytes().eq_ignore_ascii_case(b"close"),
                None => request.version() == Version::HTTP_10,
            };
        let has_body = !request.body().is_end_stream();
        let may_continue = has_body || request.extensions().get::<OnUpgrade>().is_some();
        let started = self.activity.begin(has_body && is_http1);
        let in_flight = InFlight { started, activity: Arc::clone(&self.activity) };
        // hyper runs each HTTP/2 stream in a task of its own, which is not in the worker's span.
        let span = if is_http1 { Span::none() } else { self.activity.serving.worker.span_of_tasks() };
        TrackedResponse {
            response: self.service.call(request).instrument(span),
            in_flight: Some(in_flight),
            is_http1,
            is_last,
            may_continue,
        }
    }
}

/// A request whose response is not complete yet.
#[derive(Debug)]
struct InFlight {
    activity: Arc<Activity>,
    started: Option<Started>,
}

impl InFlight {
    /// Notes that the response has begun, or that there will be none.
    fn answer(&mut self) {
        self.activity.serving.worker.end_request(self.started.take());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.answer();
        self.activity.end();
    }
}

pin_project! {
    /// The response, as the application makes it.
    pub(super) struct TrackedResponse<F> {
        #[pin]
        response: Instrumented<F>,
        // `None` once the response is made.
        in_flight: Option<InFlight>,
        is_http1: bool,
        // Whether hyper is known to close the connection after this response.
        is_last: bool,
        // Whether hyper may keep the connection after its last response: to read the rest of the request's body, or to hand the
        // stream over if the response is an upgrade.
        may_continue: bool,
    }
}

impl<F, B, E> Future for TrackedResponse<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<TrackedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.response.poll(cx));
        let mut in_flight = this.in_flight.take();
        Poll::Ready(result.map(|mut response| {
            if let Some(in_flight) = &mut in_flight {
                in_flight.answer();
                let closes = *this.is_http1 && in_flight.activity.closes.load(Ordering::Relaxed);
                if closes && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    *this.is_last = true;
                }
                if *this.is_last && !*this.may_continue {
                    in_flight.activity.note_last_body(response.body());
                }
            }
            response.map(|body| TrackedBody { body, _in_flight: in_flight })
        }))
    }
}

pin_project! {
    /// The body of a response. hyper drops it once it has taken all of it.
    pub(super) struct TrackedBody<B> {
        #[pin]
        body: B,
        _in_flight: Option<InFlight>,
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn a_response_is_whole_with_its_head_and_all_of_its_body() {
        assert!(is_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK", 2));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 0));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", 2));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nO", 2));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n", 2));
        assert!(!is_whole(b"OK", 2));
        assert!(!is_whole(b"", 2));
    }
}
