//! Reads the events of epoll_wait(2).

use std::fmt;

use libc::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP};
use rustix::event::epoll::EventFlags;

use super::Event;
use crate::Token;

pub(crate) fn token(event: &Event) -> Token {
    Token(event.0.u64 as usize)
}

pub(crate) fn wake(token: Token) -> Event {
    Event(libc::epoll_event { events: EPOLLIN as u32, u64: token.0 as u64 })
}

pub(crate) fn is_wake(event: &Event, token: Token) -> bool {
    self::token(event) == token && event.0.events == EPOLLIN as u32
}

pub(crate) fn is_readable(event: &Event) -> bool {
    has(event, EPOLLIN) || has(event, EPOLLPRI)
}

pub(crate) fn is_writable(event: &Event) -> bool {
    has(event, EPOLLOUT)
}

pub(crate) fn is_error(event: &Event) -> bool {
    has(event, EPOLLERR)
}

pub(crate) fn is_read_closed(event: &Event) -> bool {
    has(event, EPOLLHUP) || (has(event, EPOLLIN) && has(event, EPOLLRDHUP))
}

/// Whether both halves are closed, or the reading end of a pipe is closed: EPOLLERR, alone or with EPOLLOUT.
pub(crate) fn is_write_closed(event: &Event) -> bool {
    has(event, EPOLLHUP) || (has(event, EPOLLOUT) && has(event, EPOLLERR)) || event.0.events == EPOLLERR as u32
}

pub(crate) fn is_priority(event: &Event) -> bool {
    has(event, EPOLLPRI)
}

/// Returns `false`: Linux has no readiness for asynchronous I/O.
pub(crate) fn is_aio(_: &Event) -> bool {
    false
}
pub(crate) use is_aio as is_lio;

fn has(event: &Event, flag: libc::c_int) -> bool {
    event.0.events & flag as u32 != 0
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The braces make a copy, because the fields of a packed structure cannot be borrowed.
        f.debug_struct("epoll_event")
            .field("events", &EventFlags::from_bits_retain(self.0.events))
            .field("u64", &{ self.0.u64 })
            .finish()
    }
}
