//! The fork gate: no registration is half done while a fork is prepared.

use super::sync::{AtomicU32, Ordering, is_single_threaded, pause};

/// Set while a fork is under way, or prepared ahead; the bits below count the registrations that are being made.
const SHUT: u32 = 1 << 31;

/// Lets any number of registrations through, or one fork.
///
/// Not a lock of the standard library, because the child of a fork opens it again although threads that waited at it,
/// or were inside, do not exist there: one store, with no queue of waiters to repair.
#[derive(Debug)]
pub(crate) struct Gate(AtomicU32);

/// Inside the gate until dropped.
pub(crate) struct Inside<'a> {
    /// `None`: not counted, because there was nobody to be kept out.
    counted: Option<&'a Gate>,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate(AtomicU32::new(0))
    }

    /// Comes in, unless a fork has shut the gate.
    #[inline]
    pub(crate) fn try_enter(&self) -> Option<Inside<'_>> {
        if is_single_threaded() {
            // Who could fork meanwhile is this thread, and it is here; it may only find a fork of its own under way.
            return (self.0.load(Ordering::Relaxed) & SHUT == 0).then_some(Inside { counted: None });
        }
        self.enter_counted()
    }

    pub(super) fn enter_counted(&self) -> Option<Inside<'_>> {
        if self.0.fetch_add(1, Ordering::Acquire) & SHUT == 0 {
            Some(Inside { counted: Some(self) })
        } else {
            self.leave();
            None
        }
    }

    /// Keeps newcomers out and waits for those inside to leave. One at a time: the caller sees to that.
    pub(crate) fn shut(&self) {
        while !self.shut_within(u32::MAX) {}
    }

    /// As [`shut`](Gate::shut), but looks `rounds` times at most whether those inside have left. `false`: they have not.
    pub(crate) fn shut_within(&self, rounds: u32) -> bool {
        self.begin_shut();
        (0..rounds).any(|round| {
            let are_gone = self.0.load(Ordering::Acquire) == SHUT;
            if !are_gone {
                pause(round);
            }
            are_gone
        })
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.0.load(Ordering::Relaxed) & SHUT != 0
    }

    pub(super) fn begin_shut(&self) {
        self.0.fetch_or(SHUT, Ordering::Acquire);
    }

    #[inline]
    fn leave(&self) {
        let before = self.0.fetch_sub(1, Ordering::Release);
        if cfg!(feature = "atfork") && before & !SHUT == 0 {
            // It was counted in the parent: a signal handler has forked since, and this is the child.
            self.reset();
        }
    }

    /// The fork is over, in the parent.
    pub(crate) fn open(&self) {
        self.0.fetch_and(!SHUT, Ordering::Release);
    }

    /// The fork is over, in the child: of those who may have knocked meanwhile none is here.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(gate) = self.counted {
            gate.leave();
        }
    }
}
