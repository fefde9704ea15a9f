//! Observes the requests that hyper passes on, and their responses.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Buf, Bytes, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tracing::Span;
use tracing::instrument::{Instrument, Instrumented};

use super::super::status::RequestStart;
use super::activity::Activity;
use crate::Peer;

/// The application's service, with its requests observed and counted.
#[derive(Debug)]
pub(super) struct TrackedService<S> {
    pub(super) service: S,
    pub(super) activity: Arc<Activity>,
    /// The client's address, which is added to each request.
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
        let is_connect = request.method() == Method::CONNECT;
        let length = || request.body().size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let body_left = if has_body && is_http1 { length().unwrap_or(usize::MAX) } else { 0 };
        let started = self.activity.begin(body_left);
        let in_flight = InFlight { started, activity: Arc::clone(&self.activity) };
        // hyper runs each HTTP/2 stream in a task of its own, which is not in the worker's span.
        let span = if is_http1 { Span::none() } else { self.activity.serving().worker.span_of_tasks() };
        TrackedResponse {
            response: self.service.call(request).instrument(span),
            in_flight: Some(in_flight),
            is_http1,
            is_last,
            is_connect,
            may_continue,
        }
    }
}

/// A request whose response is not complete yet.
#[derive(Debug)]
struct InFlight {
    activity: Arc<Activity>,
    started: Option<RequestStart>,
}

impl InFlight {
    /// Notes that the response has begun, or that there will be no response.
    fn answer(&mut self) {
        self.activity.serving().worker.end_request(self.started.take());
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
        is_connect: bool,
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
                let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                if is_switched || (*this.is_connect && response.status().is_success()) {
                    in_flight.activity.upgrade();
                }
                if *this.is_http1 && in_flight.activity.closes() && !is_switched {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    *this.is_last = true;
                }
                if *this.is_last && !*this.may_continue {
                    in_flight.activity.note_last_body(response.body());
                }
            }
            let (in_flight, in_frames) =
                if *this.is_http1 { (in_flight, None) } else { (None, in_flight.map(Arc::new)) };
            response.map(|body| TrackedBody { body, _in_flight: in_flight, in_frames })
        }))
    }
}

pin_project! {
    /// The body of a response. hyper drops the body once it has taken all of it.
    pub(super) struct TrackedBody<B> {
        #[pin]
        body: B,
        // The request, with HTTP/1.
        _in_flight: Option<InFlight>,
        // The request, with HTTP/2. Each part of the body keeps the request in flight, because hyper takes a part before
        // the client has room for the data.
        in_frames: Option<Arc<InFlight>>,
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = TrackedData<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedData<B::Data>>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let track = |data| TrackedData { data, _in_flight: this.in_frames.clone() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(track))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of the body of a response. hyper drops a part once it is written.
#[derive(Debug)]
pub(super) struct TrackedData<D> {
    data: D,
    _in_flight: Option<Arc<InFlight>>,
}

impl<D: Buf> Buf for TrackedData<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.data.copy_to_bytes(length)
    }
}
