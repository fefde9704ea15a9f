use std::fmt;

use crate::sync::{AtomicBool, Ordering, fence_between};

/// The flags by which wakers and the poller of one selector tell each other their state.
///
/// `notified` is set from a wake until the poll that returns its event. The wake needs a system call only if the poller is, or
/// may be, blocked in the kernel: otherwise the poller sees the flag before it blocks. Waker and poller each write one flag and
/// then read the other's, in sequentially consistent order. So a wake is never lost: the waker sees that the poller blocks, or
/// the poller sees the wake.
///
/// Wakers write to this state often, and other threads read its neighbours. So padding on both sides gives it cache lines of
/// its own. `repr(align)` would have the same effect, but an aligned allocation takes longer.
#[repr(C)]
pub(crate) struct WakeState {
    _before: [u8; TWO_CACHE_LINES],
    notified: AtomicBool,
    polling: AtomicBool,
    /// The program has taken the queue's descriptor, and may wait for it by other means than a poll.
    exposed: AtomicBool,
    _after: [u8; TWO_CACHE_LINES],
}

/// The size of two cache lines, because a processor may fetch them in pairs.
const TWO_CACHE_LINES: usize = 128;

impl WakeState {
    pub(crate) fn new() -> WakeState {
        WakeState {
            _before: [0; TWO_CACHE_LINES],
            notified: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            exposed: AtomicBool::new(false),
            _after: [0; TWO_CACHE_LINES],
        }
    }

    /// Waker: notes a wake. Returns whether the waker must signal the kernel object too. All that the calling thread wrote
    /// before is visible to the poller after [`take`](WakeState::take).
    #[inline]
    pub(crate) fn notify(&self) -> bool {
        let was_notified = self.notified.swap(true, Ordering::SeqCst);
        fence_between();
        // Other code may have taken the kernel's event, so a wake that is pending already is signalled again.
        self.exposed.load(Ordering::SeqCst) || (!was_notified && self.polling.load(Ordering::SeqCst))
    }

    /// Poller: announces that it blocks. If a wake is pending, withdraws the announcement and returns `false`.
    #[inline]
    pub(crate) fn begin_blocking(&self) -> bool {
        self.polling.store(true, Ordering::SeqCst);
        fence_between();
        if self.notified.load(Ordering::SeqCst) {
            self.end_blocking();
            return false;
        }
        true
    }

    /// Poller: notes that it has returned from the kernel.
    #[inline]
    pub(crate) fn end_blocking(&self) {
        // A waker that does not see this yet makes one system call that is not needed.
        self.polling.store(false, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }

    /// Poller: takes the pending wake, to return its event.
    #[inline]
    pub(crate) fn take(&self) {
        // This is a read-modify-write, so that the poller sees the writes of every waker that found the flag set.
        self.notified.swap(false, Ordering::AcqRel);
    }

    /// Makes every later wake signal the kernel object. Returns whether the caller must signal a pending wake now.
    pub(crate) fn expose(&self) -> bool {
        !self.exposed.swap(true, Ordering::SeqCst) && {
            fence_between();
            self.notified.load(Ordering::SeqCst)
        }
    }

    /// Child of a fork: notes that no thread polls, even if a thread of the parent did. Returns whether the child must
    /// signal a pending wake at its own kernel object. Async-signal-safe.
    pub(crate) fn after_fork(&self) -> bool {
        // Writes only if a thread polled: the kernel must copy each page that a child writes to.
        if self.polling.load(Ordering::Relaxed) {
            self.polling.store(false, Ordering::Relaxed);
        }
        self.exposed.load(Ordering::Relaxed) && self.is_notified()
    }

    /// Keeps later wakes from signalling the kernel object, which may belong to another process. Async-signal-safe.
    pub(crate) fn silence(&self) {
        self.polling.store(false, Ordering::Relaxed);
        self.exposed.store(false, Ordering::Relaxed);
    }

    /// Resets the state, for the next selector that uses it.
    pub(crate) fn reset(&self) {
        self.silence();
        self.notified.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for WakeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WakeState { notified, polling, exposed, .. } = self;
        let mut flags = f.debug_struct("WakeState");
        flags.field("notified", notified).field("polling", polling).field("exposed", exposed).finish_non_exhaustive()
    }
}
