use std::fmt;

use crate::{Token, sys};

/// The readiness of one source, as returned by [`Poll::poll`](crate::Poll::poll).
///
/// Only [readable](Event::is_readable) and [writable](Event::is_writable) are certain on every system. The rest are
/// hints that may be missing: a program must also work if only the operation itself reports an error or the end of a
/// stream. Any readiness may be spurious.
///
/// # Platforms
///
/// | method | epoll: one of | kqueue: one of |
/// |---|---|---|
/// | `is_readable` | `EPOLLIN`, `EPOLLPRI` | `EVFILT_READ`, `EVFILT_USER` |
/// | `is_writable` | `EPOLLOUT` | `EVFILT_WRITE` |
/// | `is_error` | `EPOLLERR` | `EV_ERROR`, `EV_EOF` with an error in `fflags` |
/// | `is_read_closed` | `EPOLLHUP`, `EPOLLIN` with `EPOLLRDHUP` | `EVFILT_READ` with `EV_EOF` |
/// | `is_write_closed` | `EPOLLHUP`, `EPOLLOUT` with `EPOLLERR`, `EPOLLERR` alone | `EVFILT_WRITE` with `EV_EOF` |
/// | `is_priority` | `EPOLLPRI` | never |
/// | `is_aio` | never | `EVFILT_AIO` |
/// | `is_lio` | never | `EVFILT_LIO` (FreeBSD) |
#[derive(Clone)]
#[repr(transparent)]
pub struct Event(pub(crate) sys::Event);

impl Event {
    /// Returns the token that the source was registered with.
    pub fn token(&self) -> Token {
        sys::event::token(&self.0)
    }
}

/// Implements methods that ask for a readiness, and lists them for `Debug`.
macro_rules! readiness {
    ($($(#[$doc:meta])+ $method:ident $name:literal;)+) => {
        impl Event {$(
            $(#[$doc])+
            pub fn $method(&self) -> bool {
                sys::event::$method(&self.0)
            }
        )+}

        const READINESS: &[(&str, fn(&Event) -> bool)] = &[$(($name, Event::$method)),+];
    };
}

readiness! {
    /// Whether the source is readable: data, a connection to accept, the end of the stream or an error. Priority data
    /// also makes it readable.
    is_readable "readable";

    /// Whether the source is writable: there is room, or a connection attempt has ended.
    is_writable "writable";

    /// Whether the source is in an error state. The event is then usually readable or writable too, and that operation
    /// returns the error. A pipe whose reading end is closed may show the error alone.
    is_error "error";

    /// Whether the reading half is closed: the peer has shut down or closed its writing half, or this side has shut down
    /// its reading half. Data may still be unread. May be missing, but is never a false alarm.
    is_read_closed "read_closed";

    /// Whether the writing half is closed: the connection is closed both ways, or the reading end of a pipe is closed. epoll
    /// does not report a shutdown of only this side's writing half. May be missing, but is never a false alarm.
    is_write_closed "write_closed";

    /// Whether there is priority data, such as TCP's out-of-band data.
    is_priority "priority";

    /// Whether an `aio(4)` request has completed.
    is_aio "aio";

    /// Whether a `lio_listio(2)` request has completed.
    is_lio "lio";
}

/// Prints token and readiness; with `{:#?}` also the fields of the system's own event. The output may change.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alternate = f.alternate();
        let mut fields = f.debug_struct("Event");
        fields.field("token", &self.token());
        for (name, is_ready) in READINESS {
            fields.field(name, &is_ready(self));
        }
        if alternate {
            fields.field("details", &self.0);
        }
        fields.finish()
    }
}
