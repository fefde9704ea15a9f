//! [`Waker`].

use std::io;
use std::sync::Arc;

use crate::selector::WakeSlot;
use crate::{Registry, Token, sys};

/// Wakes a [`Poll`](crate::Poll), also from another thread.
///
/// A wake makes [`Poll::poll`](crate::Poll::poll) return with a [readable](crate::event::Event::is_readable) event that
/// carries the waker's token. Share it between threads in an [`Arc`]. Events are only certain to be delivered while the
/// `Waker` is alive.
///
/// # Wakes are coalesced
///
/// While a wake is pending, that is until the poll that returns its event, further wakes make no system call. None is
/// lost: what a thread wrote before its `wake` is visible to the poller after the event. This asks that events are taken
/// by [`Poll::poll`](crate::Poll::poll) only: a program that reads the queue's descriptor by other means would take the
/// event of a wake and leave the waker believing that it is pending.
///
/// # Fork
///
/// Waker and wake are private to a process: the child gets a fresh kernel object under the same number, and a wake that
/// was pending at the fork is pending in both. Neither can wake the other. Give a waker a token of its own: an event of a
/// source that shares it counts as the waker's.
///
/// # Platforms
///
/// Linux: [eventfd(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html), which is never read: each write is an
/// edge of its own.
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::{Events, Poll, Token, Waker};
/// use std::sync::Arc;
///
/// # fn main() -> std::io::Result<()> {
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
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Waker {
    slot: Arc<WakeSlot>,
    signal: sys::WakeSignal,
}

impl Waker {
    /// Creates a waker for the selector of `registry`.
    ///
    /// # Errors
    ///
    /// Those of `eventfd(2)` (no descriptor left) and of [`Registry::register`].
    pub fn new(registry: &Registry, token: Token) -> io::Result<Waker> {
        let slot = registry.selector().occupy_wake_slot(token);
        match sys::WakeSignal::new(registry, &slot, token) {
            Ok(signal) => Ok(Waker { slot, signal }),
            Err(error) => {
                slot.vacate();
                Err(error)
            }
        }
    }

    /// Wakes the [`Poll`](crate::Poll): the current call of [`Poll::poll`](crate::Poll::poll), or the next one,
    /// returns at once.
    ///
    /// # Errors
    ///
    /// Those of `write(2)` on the eventfd; none is expected.
    pub fn wake(&self) -> io::Result<()> {
        if self.slot.flag.raise() { self.signal.send().inspect_err(|_| self.slot.flag.lower()) } else { Ok(()) }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.signal.retire(&self.slot);
        self.slot.vacate();
    }
}
