//! The parts of the public vocabulary that depend on the system: some interests, and the layout of an event.

use std::slice;

use crate::event::Event;
use crate::sys;

#[cfg(any(target_os = "linux", target_os = "android"))]
impl crate::Interest {
    /// Priority readiness, such as that of out-of-band data on a TCP socket (`EPOLLPRI`). Linux and Android only.
    pub const PRIORITY: Self = Self::from_bits(crate::interest::PRIORITY).unwrap();
}

#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
impl crate::Interest {
    /// The completion of an `aio(4)` request (`EVFILT_AIO`). FreeBSD, DragonFly and Apple systems only.
    pub const AIO: Self = Self::from_bits(crate::interest::AIO).unwrap();
}

#[cfg(target_os = "freebsd")]
impl crate::Interest {
    /// The completion of a `lio_listio(2)` request (`EVFILT_LIO`). FreeBSD only.
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
