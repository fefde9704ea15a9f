//! A kernel queue together with its waker: the part of a selector that is polled.

use std::io;
use std::time::Duration;

use crate::wake_state::WakeState;
use crate::waker_slot::WakerSlot;
use crate::{Token, sys};

/// A kernel queue, the state of its wakes, and the one waker that it may have.
#[derive(Debug)]
pub(crate) struct WakeableQueue {
    pub(crate) queue: sys::Queue,
    pub(crate) waker: WakerSlot,
    pub(crate) wake: WakeState,
}

impl WakeableQueue {
    pub(crate) fn vacant() -> WakeableQueue {
        WakeableQueue { queue: sys::Queue::vacant(), waker: WakerSlot::new(), wake: WakeState::new() }
    }

    /// Waits for events, and adds the waker's event if a wake is pending.
    ///
    /// Every poll asks the kernel, as in mio. tokio's paused clock relies on that: the clock advances once a poll has returned
    /// only the wake.
    #[inline]
    pub(crate) fn poll(&self, events: &mut sys::Events, timeout: Option<Duration>) -> io::Result<()> {
        if timeout != Some(Duration::ZERO) && self.wake.begin_blocking() {
            let result = self.queue.wait(events, timeout);
            self.wake.end_blocking();
            result?;
        } else {
            self.queue.wait(events, Some(Duration::ZERO))?;
        }
        if self.wake.is_notified() {
            self.add_wake(events);
        }
        Ok(())
    }

    /// Adds the event of a pending wake, unless the kernel has returned it already. If `events` is full, the wake stays
    /// pending, and the kernel gets its event too: sources that are always ready must not hold the wake back.
    #[cold]
    fn add_wake(&self, events: &mut sys::Events) {
        let is_missing = |token| !events.iter().any(|event| sys::event::is_wake(event, token));
        if let Some((token, _)) = self.waker.get().filter(|(token, _)| is_missing(*token)) {
            if events.len() == events.capacity() {
                return self.signal_pending();
            }
            events.push(sys::event::wake(token));
        }
        self.wake.take();
    }

    /// Makes the selector's waker.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if the selector has a waker; otherwise those of the system calls.
    ///
    /// # Panics
    ///
    /// In debug builds, like mio, if the selector has a waker.
    pub(crate) fn add_waker(&self, token: Token) -> io::Result<sys::WakeSignal> {
        if !self.waker.occupy(token) {
            let text = "Only a single `Waker` can be active per `Poll` instance";
            if cfg!(debug_assertions) {
                panic!("{text}");
            }
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        let signal = sys::WakeSignal::new(&self.queue, token).inspect_err(|_| self.waker.vacate())?;
        self.waker.set_descriptors(signal.descriptors());
        Ok(signal)
    }

    /// Ends the waker that `signal` belongs to. A wake that is pending is dropped with it.
    pub(crate) fn remove_waker(&self, signal: &sys::WakeSignal) {
        signal.remove(&self.queue);
        // Take the wake before `vacate`. After that, another thread can make the next waker, whose wakes must stay.
        if self.wake.is_notified() {
            self.wake.take();
        }
        self.waker.vacate();
    }

    #[inline]
    pub(crate) fn wake(&self, signal: &sys::WakeSignal) -> io::Result<()> {
        if self.wake.notify() { signal.signal(&self.queue, self.waker.token()) } else { Ok(()) }
    }

    /// From now on, every wake signals the kernel object, because the program takes the queue's descriptor.
    #[cold]
    pub(crate) fn expose(&self) {
        if self.wake.expose() {
            self.signal_pending();
        }
    }

    /// Gives the kernel the event of a pending wake.
    fn signal_pending(&self) {
        if let Some((token, descriptors)) = self.waker.get() {
            // The call fails only for a waker that another thread is just dropping.
            let _ = sys::WakeSignal::signal_at(descriptors, &self.queue, token);
        }
    }
}
