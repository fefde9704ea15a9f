//! The atomics that model-checked modules use. A loom test includes such a module under a parent whose `sync` names
//! loom's types instead.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[cfg(feature = "cponfork")]
pub(crate) use crate::sys::process::is_single_threaded;

/// Gives way to the thread that is being waited for.
#[cfg(feature = "cponfork")]
pub(crate) fn pause(round: u32) {
    // A gate is shut while a process forks: microseconds to milliseconds. Sleeping in small steps keeps no queue of
    // waiters, so a fork that happens meanwhile leaves nothing to repair in the child.
    match round {
        0..16 => std::hint::spin_loop(),
        16..64 => std::thread::yield_now(),
        _ => std::thread::sleep(std::time::Duration::from_micros(100)),
    }
}
