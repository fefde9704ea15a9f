//! The activity of a connection: requests, responses, and bytes that have arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::Poll;

use hyper::body::Body;

use super::super::status::RequestStart;
use super::connection::Serving;

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4). No HTTP/1 request begins with them.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The value of `Activity::preface` if the connection did not begin with [`PREFACE`].
const HTTP1: usize = usize::MAX;

/// The end of a head.
const EMPTY_LINE: u32 = u32::from_be_bytes(*b"\r\n\r\n");

/// The value of `Activity::last_body` while hyper is not about to write the last body.
const NOT_LAST: usize = usize::MAX;

/// The state of one connection. The task of the connection writes it; with HTTP/2, the tasks of its streams do too.
#[derive(Debug)]
pub(super) struct Activity {
    serving: Arc<Serving>,
    /// The last bytes that have been read, or [`EMPTY_LINE`] before the first byte and at the known end of a body. They show
    /// whether a head is complete, unless a body may still follow.
    last_read: AtomicU32,
    /// How many of the next bytes may belong to the body of the last HTTP/1 request, even after the response. This is an
    /// upper bound: if one read had several heads, only the bytes after the first are deducted. `usize::MAX` if the length is
    /// unknown.
    body_left: AtomicUsize,
    /// How many bytes came after the head of the next HTTP/1 request, in the same read. 0 if that is not known.
    after_head: AtomicUsize,
    /// How often bytes have been read.
    reads: AtomicUsize,
    /// How often bytes have been read that may belong to the body of a request.
    body_reads: AtomicUsize,
    /// How many bytes of HTTP/2's preface have been read; [`HTTP1`] if the connection began with other bytes.
    preface: AtomicUsize,
    /// How many requests have begun.
    requests: AtomicUsize,
    /// How many requests have ended: hyper has taken all of the response, or has dropped the request.
    ended: AtomicUsize,
    /// Whether the transport takes no more bytes at the moment.
    is_blocked: AtomicBool,
    /// Whether each HTTP/1 response gets `Connection: close`, except 101 (Switching Protocols).
    closes: AtomicBool,
    /// Whether the stream, or with HTTP/2 one of its streams, was handed over to the application.
    is_upgraded: AtomicBool,
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
            last_read: AtomicU32::new(EMPTY_LINE),
            body_left: AtomicUsize::new(0),
            after_head: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            body_reads: AtomicUsize::new(0),
            preface: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            is_blocked: AtomicBool::new(false),
            closes: AtomicBool::new(closes),
            is_upgraded: AtomicBool::new(false),
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

    fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Ordering::Relaxed)
    }

    /// Notes that hyper hands the stream over to the application after this response.
    pub(super) fn upgrade(&self) {
        self.is_upgraded.store(true, Ordering::Relaxed);
        self.body_left.store(0, Ordering::Relaxed);
    }

    pub(super) fn has_had_request(&self) -> bool {
        self.requests() != 0
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn is_in_flight(&self) -> bool {
        self.requests() != self.ended.load(Ordering::Relaxed)
    }

    /// Whether every request has been answered, and the transport has taken the responses.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_in_flight() && !self.is_blocked.load(Ordering::Relaxed)
    }

    /// Returns a number that grows with each request, and while the body of the last HTTP/1 request arrives.
    pub(super) fn progress(&self) -> usize {
        self.requests() + self.body_reads.load(Ordering::Relaxed)
    }

    /// Returns a number that grows with each read of bytes.
    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Whether the client has vanished: it has sent nothing, not even the answer to a ping, since [`reads`](Activity::reads)
    /// returned `reads`. While it still reads a response, it may not have got the ping.
    pub(super) fn is_abandoned(&self, reads: usize) -> bool {
        self.is_http2() && self.reads() == reads && self.is_idle()
    }

    /// Whether only the client's missing answer to a ping keeps the connection open. Call it after a graceful shutdown.
    pub(super) fn owes_only_an_answer(&self) -> bool {
        self.is_http2() && self.is_idle() && !self.is_upgraded()
    }

    pub(super) fn may_read_body(&self) -> bool {
        self.body_left.load(Ordering::Relaxed) != 0
    }

    /// Whether the client may still send something although the server has ended its side: acknowledgements (HTTP/2), the rest
    /// of a body, or the rest of a request that hyper has refused.
    pub(super) fn may_read_more(&self) -> bool {
        self.is_http2() || self.may_read_body() || self.has_partial_head()
    }

    /// If the connection is idle, notes the end of the last request's body. Call it before hyper closes the connection: hyper
    /// closes it only after that body.
    pub(super) fn end_body_if_idle(&self) {
        if self.is_idle() {
            if self.may_read_body() {
                self.last_read.store(EMPTY_LINE, Ordering::Relaxed);
            }
            self.body_left.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the client owes the rest of the head of an HTTP/1 request. False while the client still reads a response.
    pub(super) fn has_partial_head(&self) -> bool {
        let is_partial = !ends_with_empty_line(self.last_read.load(Ordering::Relaxed));
        is_partial && self.is_idle() && !self.may_read_body() && !self.is_http2() && !self.is_upgraded()
    }

    /// Whether the next HTTP/1 response must get `Connection: close`.
    pub(super) fn closes(&self) -> bool {
        self.closes.load(Ordering::Relaxed)
    }

    pub(super) fn close_with_next_response(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: &[u8]) {
        if self.is_upgraded() && !self.is_http2() {
            return;
        }
        if self.is_protocol_unknown() {
            let before = self.preface.load(Ordering::Relaxed);
            let expected = &PREFACE[before..];
            let compared = expected.len().min(bytes.len());
            let is_preface = bytes[..compared] == expected[..compared];
            self.preface.store(if is_preface { before + compared } else { HTTP1 }, Ordering::Relaxed);
        }
        // Only the task of the connection reads.
        self.reads.store(self.reads() + 1, Ordering::Relaxed);
        let body_left = self.body_left.load(Ordering::Relaxed);
        let before = self.last_read.load(Ordering::Relaxed);
        let mut last = before;
        let mut rest = bytes;
        if body_left != 0 {
            self.body_reads.store(self.body_reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            if body_left != usize::MAX {
                self.body_left.store(body_left.saturating_sub(bytes.len()), Ordering::Relaxed);
            }
            // Even if all bytes may belong to the body, look for the end of a head in them. `body_left` is an upper bound, so
            // they may be the next head.
            if let Some(after_body) = bytes.get(body_left..) {
                (last, rest) = (EMPTY_LINE, after_body);
            }
        }
        let rest = &rest[rest.len().saturating_sub(size_of::<u32>())..];
        last = rest.iter().fold(last, |last, byte| last << 8 | u32::from(*byte));
        self.last_read.store(last, Ordering::Relaxed);
        if body_left == 0 && !ends_with_empty_line(last) && !self.is_http2() {
            self.after_head.store(after_head(before, bytes), Ordering::Relaxed);
        }
    }

    /// Notes that a request begins. `body`: the length of its body, `usize::MAX` if it is unknown.
    pub(super) fn begin(&self, body: usize) -> Option<RequestStart> {
        // Only the task of the connection begins requests.
        self.requests.store(self.requests() + 1, Ordering::Relaxed);
        let after_head = self.after_head.load(Ordering::Relaxed);
        let is_known = body != usize::MAX;
        self.body_left.store(if is_known { body.saturating_sub(after_head) } else { body }, Ordering::Relaxed);
        if after_head != 0 {
            // The bytes after the body of this request belong to later requests.
            self.after_head.store(0, Ordering::Relaxed);
            // Some clients send an empty line after a body.
            if after_head.checked_sub(body).is_some_and(|rest| rest <= b"\r\n".len()) {
                self.last_read.store(EMPTY_LINE, Ordering::Relaxed);
            }
        }
        self.serving.worker.begin_request()
    }

    /// Notes the length of a body after which hyper closes the connection, if the length is known.
    pub(super) fn note_last_body(&self, body: &impl Body) {
        if let Some(length) = body.size_hint().exact().and_then(|length| usize::try_from(length).ok()) {
            self.last_body.store(length, Ordering::Relaxed);
        }
    }

    /// Whether these bytes are the whole last response, head and body. Only the first write of a response can contain all of
    /// it, so this also resets `last_body`.
    pub(super) fn is_all_of_last_response(&self, bytes: &[u8]) -> bool {
        let body = self.last_body.load(Ordering::Relaxed);
        if body == NOT_LAST {
            return false;
        }
        self.last_body.store(NOT_LAST, Ordering::Relaxed);
        is_whole(bytes, body)
    }

    pub(super) fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_write<T>(&self, written: Poll<T>) -> Poll<T> {
        let is_blocked = written.is_pending();
        if self.is_blocked.load(Ordering::Relaxed) != is_blocked {
            self.is_blocked.store(is_blocked, Ordering::Relaxed);
        }
        written
    }
}

/// Whether the last of these bytes are an empty line, which ends a head. As in hyper, a line may end without `\r`.
fn ends_with_empty_line(last: u32) -> bool {
    let last = last.to_be_bytes();
    last.ends_with(b"\n\r\n") || last.ends_with(b"\n\n")
}

/// Returns how many of `bytes` come after the first head that ends in them. `last`: the last bytes before them.
fn after_head(mut last: u32, bytes: &[u8]) -> usize {
    // As in hyper, empty lines may come before a head.
    let bytes = if ends_with_empty_line(last) { bytes.trim_ascii_start() } else { bytes };
    let is_end = |byte: &u8| {
        last = last << 8 | u32::from(*byte);
        ends_with_empty_line(last)
    };
    bytes.iter().position(is_end).map_or(0, |end| bytes.len() - end - 1)
}

/// Whether `bytes`, the beginning of a response, contain all of it. `body` is the length of the response's body.
fn is_whole(bytes: &[u8], body: usize) -> bool {
    // The only empty line of a head is the one at its end.
    bytes.len().checked_sub(body).is_some_and(|head| bytes[..head].ends_with(b"\r\n\r\n"))
}

#[cfg(test)]
mod tests {
    use super::{EMPTY_LINE, after_head, is_whole};

    #[test]
    fn bytes_after_a_head_are_counted() {
        let head = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(after_head(EMPTY_LINE, &[&head[..], b"OK"].concat()), 2);
        assert_eq!(after_head(EMPTY_LINE, &[b"\r\n", &head[..], b"OK"].concat()), 2);
        assert_eq!(after_head(EMPTY_LINE, &[&head[..], b"OK", head, b"KO"].concat()), head.len() + 4);
        assert_eq!(after_head(u32::from_be_bytes(*b" 2\r\n"), b"\r\nOK"), 2);
        assert_eq!(after_head(EMPTY_LINE, b"GET / HT"), 0);
    }

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
