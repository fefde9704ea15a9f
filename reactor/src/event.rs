//! Readiness events and the sources they come from.

use std::{fmt, io, slice};

use crate::{Interest, Registry, Token, sys};

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

/// Room for the events that [`Poll::poll`](crate::Poll::poll) returns, made once and used for every poll.
///
/// The capacity is fixed. It limits the events of one poll; the rest comes with the next poll.
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// let mut poll = forkio_reactor::Poll::new()?;
/// let mut events = forkio_reactor::Events::with_capacity(1024);
/// poll.poll(&mut events, Some(std::time::Duration::ZERO))?;
/// for event in &events {
///     println!("ready: {:?}", event.token());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Events {
    pub(crate) inner: sys::Events,
}

impl Events {
    /// Makes room for `capacity` events.
    ///
    /// On epoll a poll with room for no event fails with [`InvalidInput`](std::io::ErrorKind::InvalidInput).
    ///
    /// # Panics
    ///
    /// If `capacity` events take more than `isize::MAX` bytes.
    pub fn with_capacity(capacity: usize) -> Events {
        Events { inner: sys::Events::with_capacity(capacity) }
    }

    /// Returns how many events there is room for.
    pub fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// Whether the last poll returned no event.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Iterates over the events of the last poll.
    pub fn iter(&self) -> Iter<'_> {
        Iter { inner: self.inner.iter() }
    }

    /// Forgets the events. You need not call this method, because every poll does the same first.
    pub fn clear(&mut self) {
        self.inner.clear();
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = &'a Event;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// Iterates over [`Events`]; made by [`Events::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    inner: slice::Iter<'a, Event>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Event;

    fn next(&mut self) -> Option<&'a Event> {
        self.inner.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }

    fn count(self) -> usize {
        self.inner.count()
    }
}

/// A value that can be registered with a [`Registry`].
///
/// Programs call the methods of [`Registry`], which call the methods of this trait. For a type that contains a source,
/// implement the trait by passing the calls on to that source. Register a bare descriptor as a `unix::SourceFd`.
///
/// # Fork
///
/// Deregister a source before dropping it. epoll ends a registration only when the *last* duplicate of its descriptor is
/// closed, and a forked child may have a duplicate.
///
/// # Examples
///
#[cfg_attr(all(feature = "os-poll", feature = "net"), doc = "```")]
#[cfg_attr(not(all(feature = "os-poll", feature = "net")), doc = "```ignore")]
/// use forkio_reactor::event::Source;
/// use forkio_reactor::net::UdpSocket;
/// use forkio_reactor::{Interest, Poll, Registry, Token};
/// use std::io;
///
/// struct Resolver {
///     socket: UdpSocket,
/// }
///
/// impl Source for Resolver {
///     fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
///         self.socket.register(registry, token, interests)
///     }
///
///     fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
///         self.socket.reregister(registry, token, interests)
///     }
///
///     fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
///         self.socket.deregister(registry)
///     }
/// }
///
/// let poll = Poll::new()?;
/// let mut resolver = Resolver { socket: UdpSocket::bind("127.0.0.1:0".parse().unwrap())? };
/// poll.registry().register(&mut resolver, Token(0), Interest::READABLE)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Source {
    /// Registers the source; called by [`Registry::register`], with the same errors.
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()>;

    /// Changes the source's registration; called by [`Registry::reregister`], with the same errors.
    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()>;

    /// Ends the source's registration; called by [`Registry::deregister`], with the same errors.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;
}

impl<T: Source + ?Sized> Source for Box<T> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        (**self).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        (**self).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        (**self).deregister(registry)
    }
}
