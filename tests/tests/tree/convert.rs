//! Conversions between the reactor's types and those of the messages.

use forkio_reactor::Interest;
use forkio_reactor::fork::{ForkPolicy, SourceKind};

use crate::message::{Event, Kind, Policy, Readiness, Wanted};

pub(crate) fn event(event: &forkio_reactor::event::Event) -> Event {
    let readiness = Readiness {
        readable: event.is_readable(),
        writable: event.is_writable(),
        read_closed: event.is_read_closed(),
        write_closed: event.is_write_closed(),
        error: event.is_error(),
    };
    Event { token: event.token().0, readiness }
}

pub(crate) fn interest(wanted: Wanted) -> Interest {
    match wanted {
        Wanted::Readable => Interest::READABLE,
        Wanted::Writable => Interest::WRITABLE,
        Wanted::Both => Interest::READABLE | Interest::WRITABLE,
    }
}

pub(crate) fn to_policy(policy: Policy) -> ForkPolicy {
    match policy {
        Policy::Inherit => ForkPolicy::Inherit,
        Policy::NoFork => ForkPolicy::NoFork,
        Policy::Sever => ForkPolicy::Sever,
        Policy::Renew => ForkPolicy::Renew,
    }
}

pub(crate) fn from_policy(policy: ForkPolicy) -> Policy {
    match policy {
        ForkPolicy::Inherit => Policy::Inherit,
        ForkPolicy::NoFork => Policy::NoFork,
        ForkPolicy::Sever => Policy::Sever,
        ForkPolicy::Renew => Policy::Renew,
        other => unreachable!("the model has no {other:?}"),
    }
}

pub(crate) fn to_kind(kind: Kind) -> SourceKind {
    match kind {
        Kind::Listener => SourceKind::Listener,
        Kind::Datagram => SourceKind::Datagram,
        Kind::Stream => SourceKind::Stream,
        Kind::Pipe => SourceKind::Pipe,
        Kind::Pair => SourceKind::Pair,
        Kind::Waker => SourceKind::Waker,
        Kind::Queue => SourceKind::Queue,
        Kind::Timer => SourceKind::Timer,
        Kind::Other => SourceKind::Other,
    }
}

pub(crate) fn from_kind(kind: SourceKind) -> Kind {
    match kind {
        SourceKind::Listener => Kind::Listener,
        SourceKind::Datagram => Kind::Datagram,
        SourceKind::Stream => Kind::Stream,
        SourceKind::Pipe => Kind::Pipe,
        SourceKind::Pair => Kind::Pair,
        SourceKind::Waker => Kind::Waker,
        SourceKind::Queue => Kind::Queue,
        SourceKind::Timer => Kind::Timer,
        _ => Kind::Other,
    }
}
