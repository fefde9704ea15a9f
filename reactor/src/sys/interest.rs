//! The parts of the public API that depend on the system: some interests, and the layout of an event.

use std::slice;

use crate::event::Event;
use crate::sys;

impl crate::Interest {
    /// Priority readiness, such as that of out-of-band data on a TCP socket (`EPOLLPRI`). Linux and Android only.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub const PRIORITY: Self = Self::from_bits(crate::interest::PRIORITY).unwrap();

    /// The completion of an `aio(4)` request (`EVFILT_AIO`). FreeBSD, DragonFly and Apple systems only.
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
    pub const AIO: Self = Self::from_bits(crate::interest::AIO).unwrap();

    /// The completion of a `lio_listio(2)` request (`EVFILT_LIO`). FreeBSD only.
    #[cfg(target_os = "freebsd")]
    pub const LIO: Self = Self::from_bits(crate::interest::LIO).unwrap();
}

impl Event {
    /// Returns the public view of the events that a queue has returned.
    pub(crate) fn view(events: &[sys::Event]) -> &[Event] {
        // SAFETY: `Event` is `repr(transparent)` around `sys::Event`, so the two slices have the same layout and hold
        // the same values; the result borrows `events`.
        unsafe { slice::from_raw_parts(events.as_ptr().cast(), events.len()) }
    }
}
