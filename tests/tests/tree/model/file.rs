//! Open files, and when they are ready.

use std::collections::VecDeque;

use super::FileId;
use crate::message::{Kind, Readiness, Wanted};

/// An open file description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) kind: FileKind,
    /// The bytes, datagrams of one byte, or connections that can be read.
    pub(crate) incoming: VecDeque<u8>,
    /// Whether the other end sends no more.
    pub(super) shut: bool,
    /// Whether the other end is closed.
    pub(super) closed_by_peer: bool,
    /// Whether the other end was closed with unread bytes.
    pub(super) reset: bool,
    /// The value of a counter, or the expirations of a timer.
    pub(super) count: u64,
}

/// The kind of an open file description. `outside` is an index into the driver's peers and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    TcpListener { outside: usize },
    UnixListener { outside: usize },
    TcpStream { outside: usize },
    UnixStream { outside: usize },
    Udp { outside: usize },
    StreamEnd { other: FileId },
    DatagramEnd { other: FileId },
    PipeReader { other: FileId },
    PipeWriter { other: FileId },
    Eventfd,
    Timerfd,
    Waker,
    Dead,
}

const IN: u8 = 1;
const OUT: u8 = 2;
const END: u8 = 4;
const HUP: u8 = 8;
const ERR: u8 = 16;

impl File {
    pub(super) fn new(kind: FileKind) -> File {
        File { kind, incoming: VecDeque::new(), shut: false, closed_by_peer: false, reset: false, count: 0 }
    }

    /// Whether the network takes time to deliver to the file.
    pub(crate) fn is_network(&self) -> bool {
        matches!(self.kind, FileKind::TcpListener { .. } | FileKind::TcpStream { .. } | FileKind::Udp { .. })
    }

    /// Whether changes of the file become visible only after some time.
    pub(crate) fn is_late(&self) -> bool {
        self.is_network() || self.kind == FileKind::Timerfd
    }

    pub(crate) fn is_stream_end(&self) -> bool {
        matches!(self.kind, FileKind::StreamEnd { .. })
    }

    /// The index into the driver's peers and addresses.
    pub(crate) fn outside(&self) -> Option<usize> {
        match self.kind {
            FileKind::TcpListener { outside }
            | FileKind::UnixListener { outside }
            | FileKind::TcpStream { outside }
            | FileKind::UnixStream { outside }
            | FileKind::Udp { outside } => Some(outside),
            _ => None,
        }
    }

    /// The kind of source that the reactor finds for a bare descriptor of the file.
    pub(super) fn source_kind(&self) -> Kind {
        match self.kind {
            FileKind::TcpListener { .. } | FileKind::UnixListener { .. } => Kind::Listener,
            FileKind::TcpStream { .. } | FileKind::UnixStream { .. } | FileKind::StreamEnd { .. } | FileKind::Dead => {
                Kind::Stream
            }
            FileKind::Udp { .. } | FileKind::DatagramEnd { .. } => Kind::Datagram,
            FileKind::PipeReader { .. } | FileKind::PipeWriter { .. } => Kind::Pipe,
            FileKind::Eventfd | FileKind::Waker => Kind::Other,
            FileKind::Timerfd => Kind::Timer,
        }
    }

    /// The readiness that poll(2) returns.
    fn level(&self) -> u8 {
        let readable = if self.incoming.is_empty() { 0 } else { IN };
        match self.kind {
            FileKind::TcpListener { .. } | FileKind::UnixListener { .. } | FileKind::DatagramEnd { .. } => readable,
            FileKind::TcpStream { .. } | FileKind::UnixStream { .. } | FileKind::StreamEnd { .. } => {
                let end = if self.shut || self.closed_by_peer { IN | END } else { 0 };
                let closed = if self.closed_by_peer { HUP } else { 0 };
                let error = if self.reset { ERR } else { 0 };
                readable | OUT | end | closed | error
            }
            FileKind::Udp { .. } => readable | OUT,
            FileKind::PipeReader { .. } => readable | if self.closed_by_peer { HUP } else { 0 },
            FileKind::PipeWriter { .. } => OUT | if self.closed_by_peer { ERR } else { 0 },
            FileKind::Eventfd => OUT | if self.count > 0 { IN } else { 0 },
            FileKind::Timerfd | FileKind::Waker => {
                if self.count > 0 {
                    IN
                } else {
                    0
                }
            }
            FileKind::Dead => IN | OUT | END | HUP,
        }
    }

    /// The readiness that matters for an interest.
    pub(super) fn level_for(&self, wanted: Wanted) -> u8 {
        let wanted = match wanted {
            Wanted::Readable => IN | END,
            Wanted::Writable => OUT,
            Wanted::Both => IN | END | OUT,
        };
        self.level() & (wanted | HUP | ERR)
    }
}

/// The readiness in an event.
pub(super) fn readiness(level: u8) -> Readiness {
    let has = |bits| level & bits == bits;
    Readiness {
        readable: has(IN),
        writable: has(OUT),
        read_closed: has(HUP) || has(IN | END),
        write_closed: has(HUP) || has(OUT | ERR) || level == ERR,
        error: has(ERR),
    }
}

impl Wanted {
    pub(crate) fn is_readable(self) -> bool {
        self != Wanted::Writable
    }

    pub(crate) fn is_writable(self) -> bool {
        self != Wanted::Readable
    }
}
