//! The flag that coalesces wakes.

use super::sync::{AtomicBool, Ordering};

/// Whether a wake is under way that the poller has not seen yet.
///
/// Who raises it writes to the kernel object; everybody after that need not, until the poller has received the event
/// and lowered the flag. Both are read-modify-writes, so that what a waker wrote before raising is visible to the
/// poller that lowers after it, also when the waker found the flag up and made no system call.
#[derive(Debug)]
pub(crate) struct WakeFlag(AtomicBool);

impl WakeFlag {
    pub(crate) fn new() -> WakeFlag {
        WakeFlag(AtomicBool::new(false))
    }

    /// Asks for a wake. `true`: the caller must signal the kernel object.
    pub(crate) fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The poller has the event: the next wake signals again. To be called before the poller's caller goes on to look
    /// at what it was woken for.
    pub(crate) fn lower(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
