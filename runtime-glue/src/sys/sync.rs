//! What model-checked modules synchronise with. A loom test includes such a module under a parent whose `sync` names loom's
//! types instead.

use std::hint;
use std::ptr;
use std::thread;
use std::time::Duration;

pub(super) use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Gives way to the thread that is being waited for. No queue of waiters, so there is nothing to repair in a child that is
/// forked meanwhile.
pub(super) fn pause(round: u32) {
    match round {
        0..16 => hint::spin_loop(),
        16..64 => thread::yield_now(),
        _ => thread::sleep(Duration::from_micros(100)),
    }
}

/// The calling thread: never 0, and no other living thread's.
pub(super) fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| ptr::from_ref(mark).addr())
}
