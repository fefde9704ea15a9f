use std::io;

use crate::fork::SelectorWaker;
use crate::{Registry, Token};

/// Wakes a [`Poll`](crate::Poll), also from another thread.
///
/// A wake makes [`Poll::poll`](crate::Poll::poll) return with a [readable](crate::event::Event::is_readable) event that
/// carries the waker's token. A wake is certain to arrive only while the `Waker` is alive.
///
/// # Wakes without system calls
///
/// A wake makes a system call only if the poller is blocked in the kernel. Otherwise the poller finds the wake before it
/// blocks, and returns at once. Until a poll has returned the event of a wake, further wakes do nothing. No wake is lost: the
/// writes of a thread before its `wake` are visible to the poller after the event.
///
/// Once a program has taken the descriptor of a [`Poll`](crate::Poll), such as to nest it in another queue, every wake makes
/// that descriptor readable. This costs a system call.
///
/// # Fork
///
/// The waker is private to a process. The child gets a fresh kernel object. A wake that was pending at the fork is pending in
/// both processes. Neither process can wake the other.
///
/// # Platforms
///
/// Linux: [eventfd(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html). FreeBSD, macOS and DragonFly: `EVFILT_USER` of
/// [kqueue(2)](https://man.freebsd.org/cgi/man.cgi?query=kqueue&sektion=2). NetBSD and OpenBSD: a pipe.
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::{Events, Poll, Token, Waker};
/// use std::sync::Arc;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(2);
/// let waker = Arc::new(Waker::new(poll.registry(), Token(10))?);
///
/// let other = Arc::clone(&waker);
/// let thread = std::thread::spawn(move || other.wake());
///
/// poll.poll(&mut events, None)?;
/// let event = events.iter().next().unwrap();
/// assert!(event.is_readable() && event.token() == Token(10));
/// thread.join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Waker {
    inner: SelectorWaker,
}

impl Waker {
    /// Creates the waker of the selector of `registry`. A selector has at most one waker at a time.
    ///
    /// # Errors
    ///
    /// Those of making the kernel object (no descriptor left) and of registering it;
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists), in release builds, if the selector has a waker. With the feature
    /// `cponfork`, also an error if this thread is between `fork::prepare` and the end of that fork.
    ///
    /// # Panics
    ///
    /// In debug builds, as in mio, if the selector has a waker.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Waker> {
        Ok(Waker { inner: registry.selector.new_waker(token)? })
    }

    /// Wakes the [`Poll`](crate::Poll): the current call of [`Poll::poll`](crate::Poll::poll), or the next one,
    /// returns at once. Once the `Poll` and all clones of its `Registry` are dropped, this does nothing.
    ///
    /// # Errors
    ///
    /// Those of signalling the kernel object; none is expected.
    #[inline]
    pub fn wake(&self) -> io::Result<()> {
        self.inner.wake()
    }
}
