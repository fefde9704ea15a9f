//! The primitives of modules that loom checks. A loom test compiles such a module beside another module `sync`, which
//! has loom's types.

use std::hint;
use std::thread;
use std::time::Duration;

pub(super) use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

pub(crate) use forkio_reactor::fork::glue::this_thread;

/// Lets the awaited thread run. There is no queue of waiters, so a child that is forked meanwhile has nothing to repair.
pub(super) fn pause(round: u32) {
    match round {
        0..16 => hint::spin_loop(),
        16..64 => thread::yield_now(),
        _ => thread::sleep(Duration::from_micros(100)),
    }
}
