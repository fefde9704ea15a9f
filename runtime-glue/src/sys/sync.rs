//! The primitives of modules that loom checks. A loom test includes such a module under a parent whose `sync` has loom's types
//! instead.

use std::hint;
use std::ptr;
use std::thread;
use std::time::Duration;

pub(super) use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Lets the awaited thread run. There is no queue of waiters, so a child that is forked meanwhile has nothing to repair.
pub(super) fn pause(round: u32) {
    match round {
        0..16 => hint::spin_loop(),
        16..64 => thread::yield_now(),
        _ => thread::sleep(Duration::from_micros(100)),
    }
}

/// Identifies the calling thread: never 0, and unique among living threads. The child's only thread has the value that it had
/// in the parent.
pub(crate) fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| ptr::from_ref(mark).addr())
}
