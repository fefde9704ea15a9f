//! The access log: an event of `tracing` for each request, with the target `access`.
//!
//! [`Entry`] makes the event, `layer.rs` writes a line for it, and `line.rs` has the formats. Other layers of `tracing` get the
//! same fields. Without `--access-log` there is no event, and requests have no extra cost.

mod layer;
mod line;

use std::pin::Pin;
use std::process;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use clap::ValueEnum;
use forkio::Peer;
use forkio::prefork::Worker;
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue, REFERER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri, Version};
use tracing::Value;

pub(crate) use self::layer::{AccessLayer, Output};

pub(crate) const TARGET: &str = "access";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Apache's common log format: peer, time, request, status, bytes
    Common,
    /// The same as common, with referer and user agent
    Combined,
    /// An object with all fields
    Json,
}

/// The worker that answers a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    index: usize,
    pid: u32,
    generation: u64,
}

impl Identity {
    pub(crate) fn of(worker: &Worker) -> Identity {
        Identity { index: worker.index(), pid: process::id(), generation: worker.generation() }
    }
}

/// The fields that the log has for a request. Dropping the value logs the request: hyper has then taken the whole response,
/// or the connection has ended.
#[derive(Debug)]
pub(crate) struct Entry {
    begin: Instant,
    worker: Identity,
    peer: Option<Peer>,
    method: Method,
    uri: Uri,
    version: Version,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    /// `None` if there is no response.
    status: Option<StatusCode>,
    /// How many bytes of the response's body were handed to hyper.
    bytes: u64,
}

impl Entry {
    pub(crate) fn new(request: &Request<Incoming>, worker: Identity) -> Box<Entry> {
        let header = |name: HeaderName| request.headers().get(name).cloned();
        Box::new(Entry {
            begin: Instant::now(),
            worker,
            peer: request.extensions().get().copied(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            referer: header(REFERER),
            user_agent: header(USER_AGENT),
            status: None,
            bytes: 0,
        })
    }

    /// Returns the path and query of the request, or the authority for CONNECT, which has no path.
    fn path(&self) -> &str {
        match (self.uri.path_and_query(), self.uri.authority()) {
            (Some(path), _) => path.as_str(),
            (None, Some(authority)) => authority.as_str(),
            (None, None) => "",
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let referer = self.referer.as_ref().map(Text::of);
        let user_agent = self.user_agent.as_ref().map(Text::of);
        // A field without a value is not recorded.
        tracing::info!(
            target: TARGET,
            peer = self.peer.map(tracing::field::display),
            method = self.method.as_str(),
            path = self.path(),
            version = tracing::field::debug(self.version),
            status = self.status.map(|status| status.as_u16()),
            bytes = self.bytes,
            referer = referer.as_ref().map(Text::value),
            user_agent = user_agent.as_ref().map(Text::value),
            duration = self.begin.elapsed().as_secs_f64(),
            worker = self.worker.index,
            pid = self.worker.pid,
            generation = self.worker.generation,
        );
    }
}

/// The value of a header, which need not be UTF-8.
enum Text<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Text<'a> {
    fn of(header: &'a HeaderValue) -> Text<'a> {
        let bytes = header.as_bytes();
        std::str::from_utf8(bytes).map_or(Text::Bytes(bytes), Text::Text)
    }

    fn value(&self) -> &dyn Value {
        match self {
            Text::Text(text) => text,
            Text::Bytes(bytes) => bytes,
        }
    }
}

/// The body of a response, which counts its bytes if the request is logged.
#[derive(Debug)]
pub(crate) struct Logged {
    body: Full<Bytes>,
    entry: Option<Box<Entry>>,
}

impl Logged {
    pub(crate) fn new(body: Full<Bytes>, status: StatusCode, mut entry: Option<Box<Entry>>) -> Logged {
        if let Some(entry) = &mut entry {
            entry.status = Some(status);
        }
        Logged { body, entry }
    }
}

impl Body for Logged {
    type Data = Bytes;
    type Error = <Full<Bytes> as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(entry), Some(Ok(frame))) = (&mut self.entry, &frame) {
            entry.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
