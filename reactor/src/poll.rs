use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;
use std::{fmt, io};

use crate::event::{Events, Source};
use crate::fork::Selector;
use crate::{Interest, Token};

/// Logs. Compiles to nothing without the feature `log`.
macro_rules! trace {
    ($($arg:tt)*) => {{
        #[cfg(feature = "log")]
        log::trace!($($arg)*);
    }};
}

/// Waits for readiness of the sources registered with it.
///
/// One `Poll` is one selector: one kernel queue, such as an epoll instance. Register sources through its [`Registry`], with a
/// [`Token`] and an [`Interest`]. [`Poll::poll`] then returns events that carry the token.
///
/// # Readiness is edge-triggered
///
/// An event says that something changed. After an event, repeat the operation until it fails with
/// [`WouldBlock`](io::ErrorKind::WouldBlock): only then is another event certain to come. An event may also be
/// spurious: if the operation fails with `WouldBlock` at once, wait again.
///
/// # Fork
///
/// With the feature `cponfork` the child of any fork has its own copy of the queue at the same descriptor: at once
/// after a fork made by the module `fork`, otherwise when it first uses a selector. Without the feature, parent and
/// child share an epoll instance, and each sees what the other registers, deregisters or polls. A kqueue is missing in
/// the child, unless the kernel copies it (FreeBSD 15).
///
/// # Platforms
///
/// Linux: [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html). FreeBSD, macOS, NetBSD, OpenBSD and DragonFly:
/// [kqueue(2)](https://man.freebsd.org/cgi/man.cgi?query=kqueue&sektion=2).
///
/// # Examples
///
/// See also the [guide](crate::guide).
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::{Events, Poll, Token, Waker};
///
/// let mut poll = Poll::new()?;
/// let waker = Waker::new(poll.registry(), Token(7))?;
/// waker.wake()?;
/// let mut events = Events::with_capacity(8);
/// poll.poll(&mut events, None)?;
/// assert!(events.iter().any(|event| event.token() == Token(7)));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Poll {
    registry: Registry,
}

/// Registers sources with the [`Poll`] it belongs to.
///
/// Methods take `&self` and may be called from any thread, even while another thread is in [`Poll::poll`]. With the
/// feature `cponfork`, those that change a registration fail on a thread that is between `fork::prepare` and the end of
/// that fork, and wait on other threads.
pub struct Registry {
    pub(crate) selector: Selector,
}

impl Poll {
    /// Creates a selector: a kernel queue, close-on-exec.
    ///
    /// # Errors
    ///
    /// Those of `epoll_create1(2)` or `kqueue(2)`: no descriptor or no memory left. With the feature `cponfork`, also an error
    /// if this thread is between `fork::prepare` and the end of that fork.
    #[cfg(feature = "os-poll")]
    pub fn new() -> io::Result<Poll> {
        Ok(Poll { registry: Registry { selector: Selector::new()? } })
    }

    /// Returns the [`Registry`] to register sources with.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Waits until at least one source is ready or `timeout` has passed, and fills `events`.
    ///
    /// `None` waits without limit; `Some(Duration::ZERO)` does not wait. Any other timeout is rounded up to the queue's
    /// granularity, on epoll a millisecond. `events` is cleared first and receives at most [`Events::capacity`] events; the
    /// rest comes with the next call. A timeout that passes gives `Ok(())` and no events.
    ///
    /// # Errors
    ///
    /// Those of `epoll_wait(2)` or `kevent(2)`, not retried: [`Interrupted`](io::ErrorKind::Interrupted) when a signal
    /// handler ran. In a forked child whose queue could not be completed, every poll returns the cause, because some events
    /// would be missing.
    pub fn poll(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        self.registry.selector.poll(&mut events.inner, timeout)
    }
}

impl AsRawFd for Poll {
    fn as_raw_fd(&self) -> RawFd {
        self.registry.as_raw_fd()
    }
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll").finish()
    }
}

impl Registry {
    /// Registers `source`: from now on its readiness for `interests` gives events with `token`.
    ///
    /// A source that is ready already gives an event with the next poll. Deregister it before dropping it: see [`Source`].
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the source is registered, with this registry or another one. (A
    /// bare descriptor may be registered with several registries. On Linux, a release build without the feature `cponfork`
    /// does not notice another registry, like mio.) Otherwise those of `epoll_ctl(2)` or `kevent(2)`: no memory, no epoll
    /// watch (`/proc/sys/fs/epoll/max_user_watches`), or an object that cannot be polled, such as a regular file.
    pub fn register<S: Source + ?Sized>(&self, source: &mut S, token: Token, interests: Interest) -> io::Result<()> {
        trace!("registering event source with poller: token={token:?}, interests={interests:?}");
        source.register(self, token, interests)
    }

    /// Replaces token and interest of a registered `source`. A source that is ready gives another event.
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound) if the source is not registered;
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if it is registered with another registry and
    /// [`register`](Registry::register) would notice that; otherwise those of `epoll_ctl(2)` or `kevent(2)`.
    pub fn reregister<S: Source + ?Sized>(&self, source: &mut S, token: Token, interests: Interest) -> io::Result<()> {
        trace!("reregistering event source with poller: token={token:?}, interests={interests:?}");
        source.reregister(self, token, interests)
    }

    /// Ends the registration of `source`. Events that a poll has returned already may still carry its token.
    ///
    /// # Errors
    ///
    /// [`NotFound`](io::ErrorKind::NotFound) if the source is not registered with this registry; otherwise those of
    /// `epoll_ctl(2)` or `kevent(2)`.
    pub fn deregister<S: Source + ?Sized>(&self, source: &mut S) -> io::Result<()> {
        trace!("deregistering event source from poller");
        source.deregister(self)
    }

    /// Returns another handle to the same selector. It costs no descriptor.
    ///
    /// # Errors
    ///
    /// There are none today. The signature is mio's.
    pub fn try_clone(&self) -> io::Result<Registry> {
        Ok(Registry { selector: self.selector.clone() })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish()
    }
}

impl AsFd for Registry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.selector.expose()
    }
}

impl AsRawFd for Registry {
    fn as_raw_fd(&self) -> RawFd {
        self.selector.expose().as_raw_fd()
    }
}
