use std::fmt;

use crate::{Token, sys};

/// The readiness of one source, as returned by [`Poll::poll`](crate::Poll::poll).
///
/// Only [readable](Event::is_readable) and [writable](Event::is_writable) are certain on every system. The rest are
/// hints that may be missing; a program must also work if it learns of an error or of the end of a stream from the
/// operation itself. Any readiness may be spurious.
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
pub struct Event {
    inner: sys::Event,
}

impl Event {
    /// The token that the source was registered with.
    pub fn token(&self) -> Token {
        sys::event::token(&self.inner)
    }

    /// Whether the source is readable: data, a connection to accept, the end of the stream or an error. Priority data
    /// also makes it readable.
    pub fn is_readable(&self) -> bool {
        sys::event::is_readable(&self.inner)
    }

    /// Whether the source is writable: there is room, or a connection attempt has ended.
    pub fn is_writable(&self) -> bool {
        sys::event::is_writable(&self.inner)
    }

    /// Whether the source is in an error state. The event is then usually readable or writable too, and that operation
    /// returns the error. A pipe whose reading end is closed may show the error alone.
    pub fn is_error(&self) -> bool {
        sys::event::is_error(&self.inner)
    }

    /// Whether the reading half is closed: the peer has shut down or closed its writing half, or this side has shut down
    /// its reading half. Data may still be unread. May be missing, but is never a false alarm.
    pub fn is_read_closed(&self) -> bool {
        sys::event::is_read_closed(&self.inner)
    }

    /// Whether the writing half is closed: the connection is closed both ways, or the reading end of a pipe is closed. epoll
    /// does not report a shutdown of only this side's writing half. May be missing, but is never a false alarm.
    pub fn is_write_closed(&self) -> bool {
        sys::event::is_write_closed(&self.inner)
    }

    /// Whether there is priority data, such as TCP's out-of-band data.
    pub fn is_priority(&self) -> bool {
        sys::event::is_priority(&self.inner)
    }

    /// Whether an `aio(4)` request has completed.
    pub fn is_aio(&self) -> bool {
        sys::event::is_aio(&self.inner)
    }

    /// Whether a `lio_listio(2)` request has completed.
    pub fn is_lio(&self) -> bool {
        sys::event::is_lio(&self.inner)
    }
}

/// Prints token and readiness; with `{:#?}` also the fields of the system's own event. The output may change.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Details<'a>(&'a sys::Event);

        impl fmt::Debug for Details<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                sys::event::debug_details(f, self.0)
            }
        }

        let alternate = f.alternate();
        let mut fields = f.debug_struct("Event");
        fields
            .field("token", &self.token())
            .field("readable", &self.is_readable())
            .field("writable", &self.is_writable())
            .field("error", &self.is_error())
            .field("read_closed", &self.is_read_closed())
            .field("write_closed", &self.is_write_closed())
            .field("priority", &self.is_priority())
            .field("aio", &self.is_aio())
            .field("lio", &self.is_lio());
        if alternate {
            fields.field("details", &Details(&self.inner));
        }
        fields.finish()
    }
}
