use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use crate::Token;
use crate::event::Event;
use crate::source_kind::SourceKind;
use crate::sys::{self, descriptor};
use crate::wake_state::WakeState;

/// The part of a selector that is polled: a kernel queue, the state of its wakes, and the one waker that it may have.
#[derive(Debug)]
pub(crate) struct WakeableQueue {
    pub(crate) queue: sys::Queue,
    pub(crate) waker: WakerSlot,
    pub(crate) wake: WakeState,
}

impl Default for WakeableQueue {
    fn default() -> WakeableQueue {
        WakeableQueue { queue: sys::Queue::vacant(), waker: WakerSlot::new(), wake: WakeState::new() }
    }
}

impl WakeableQueue {
    /// Returns the token to pass to [`Queue::holds`](sys::Queue::holds) or `Queue::still_has` for a registration with this token.
    pub(crate) fn probe(&self, token: Token) -> Token {
        // With an exact queue (epoll), any token works, but a poll may get an event with it. One of the waker does no harm.
        self.waker.get().filter(|_| sys::Queue::IS_EXACT).map_or(token, |(waker, _)| waker)
    }

    /// In the child of an unplanned fork, forgets the queue if its descriptor does not refer to the queue any more. The
    /// child may have closed the descriptor, or the parent may have opened the queue while the kernel copied the process. A
    /// queue without a waker is recognised only by its kind. Does nothing if `MAY_BE_ABSENT_AFTER_FORK`:
    /// `ChildQueue::new` then checks the descriptor.
    pub(crate) fn forget_queue_if_lost(&self) {
        if sys::Queue::MAY_BE_ABSENT_AFTER_FORK {
            return;
        }
        let fd = self.queue.fd();
        let has_waker = self.waker.get().is_some_and(|(_, waker)| waker.registered >= 0);
        let is_own = || sys::is_still_own(fd, SourceKind::Queue).is_ok_and(|is| is);
        if !(if has_waker { is_own() } else { descriptor::is_epoll(fd) }) {
            self.queue.forget();
        }
    }

    /// Waits for events, and adds the waker's event if a wake is pending. Every poll asks the kernel, as in mio. tokio's paused
    /// clock relies on that: the clock advances once a poll has returned only the wake.
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
    /// pending, and the kernel gets its event: sources that are always ready must not hold the wake back.
    #[cold]
    fn add_wake(&self, events: &mut sys::Events) {
        let is_missing = |token| !events.iter().any(|event| sys::event::is_wake(&event.0, token));
        if let Some((token, _)) = self.waker.get().filter(|(token, _)| is_missing(*token)) {
            if events.len() == events.capacity() {
                return self.signal_pending();
            }
            events.push(Event(sys::event::wake(token)));
        }
        self.wake.take();
    }

    /// Makes the selector's waker. If the selector has one, this fails. Debug builds then panic, like those of mio.
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
        // Take the wake before `vacate`: after `vacate`, another thread can make the next waker, whose wakes must stay.
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

/// The place where the poller, forks and [`expose`](WakeableQueue::expose) find a selector's waker.
#[derive(Debug)]
pub(crate) struct WakerSlot {
    in_use: AtomicBool,
    token: AtomicUsize,
    registered: AtomicI32,
    sender: AtomicI32,
}

/// The descriptors of a waker: the one that its queue watches, and the one that wakes are sent on. A waker that is an event of
/// its queue has [`NONE`](WakerDescriptors::NONE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WakerDescriptors {
    pub(crate) registered: RawFd,
    pub(crate) sender: RawFd,
}

impl WakerDescriptors {
    pub(crate) const NONE: WakerDescriptors = WakerDescriptors { registered: -1, sender: -1 };
}

impl WakerSlot {
    pub(crate) const fn new() -> WakerSlot {
        WakerSlot {
            in_use: AtomicBool::new(false),
            token: AtomicUsize::new(0),
            registered: AtomicI32::new(-1),
            sender: AtomicI32::new(-1),
        }
    }

    /// Claims the slot. `false`: the selector has a waker.
    pub(crate) fn occupy(&self, token: Token) -> bool {
        let is_free = self.in_use.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if is_free {
            self.token.store(token.0, Ordering::Relaxed);
        }
        is_free
    }

    pub(crate) fn set_descriptors(&self, descriptors: WakerDescriptors) {
        self.registered.store(descriptors.registered, Ordering::Relaxed);
        self.sender.store(descriptors.sender, Ordering::Relaxed);
    }

    pub(crate) fn vacate(&self) {
        self.set_descriptors(WakerDescriptors::NONE);
        self.in_use.store(false, Ordering::Release);
    }

    #[inline(always)]
    pub(crate) fn token(&self) -> Token {
        Token(self.token.load(Ordering::Relaxed))
    }

    pub(crate) fn get(&self) -> Option<(Token, WakerDescriptors)> {
        self.in_use.load(Ordering::Acquire).then(|| {
            let registered = self.registered.load(Ordering::Relaxed);
            let sender = self.sender.load(Ordering::Relaxed);
            (self.token(), WakerDescriptors { registered, sender })
        })
    }
}
