//! The atomics and waits of the modules that loom checks. A loom test includes such a module under a parent whose `sync` has
//! loom's types instead.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Does nothing. Call it between a sequentially consistent store and a sequentially consistent load of another variable. Such
/// operations need no fence, but loom treats them as acquire and release. So loom's version of this function makes a fence.
#[inline(always)]
pub(crate) fn fence_between() {}

/// Waits briefly for another thread, longer in later rounds.
pub(crate) fn pause(round: u32) {
    // A fork takes microseconds to milliseconds. Sleeping in small steps needs no queue of waiting threads, which would have
    // to be repaired in a child.
    match round {
        0..16 => std::hint::spin_loop(),
        16..64 => std::thread::yield_now(),
        _ => std::thread::sleep(std::time::Duration::from_micros(100)),
    }
}
