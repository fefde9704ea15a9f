//! What threads share in model-checked modules. A loom test includes such a module under a parent whose `sync` names
//! loom's types instead.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

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

/// `std::cell::UnsafeCell`, with accessors by which loom tells looking from changing.
#[cfg(feature = "cponfork")]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(feature = "cponfork")]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        look(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        change(self.0.get())
    }
}

/// What a registration table begins with: 4 KiB, so that a process of a few hundred descriptors touches one page. (Loom's
/// begins with one entry.)
#[cfg(feature = "cponfork")]
pub(crate) const FIRST_ENTRIES: usize = 256;

/// As many values whose bytes are zero, in memory that is not touched until they are. Loom's have more bytes than their
/// value, and are made one by one.
///
/// # Safety
///
/// Zero bytes must be the value that `one_by_one` makes.
#[cfg(feature = "cponfork")]
pub(crate) unsafe fn zeroed<T>(length: usize, _one_by_one: impl Fn() -> T) -> Box<[T]> {
    // SAFETY: the caller's promise.
    unsafe { Box::<[T]>::new_zeroed_slice(length).assume_init() }
}
