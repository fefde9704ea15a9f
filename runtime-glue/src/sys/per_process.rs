//! A value that each process makes for itself.

use std::marker::PhantomData;
use std::{iter, ptr};

use super::sync::{AtomicPtr, AtomicUsize, Ordering, pause, this_thread};

/// Identifies a process: no two processes that are related by forks have the same key.
pub(crate) type ProcessKey = u64;

/// A value that each process makes once, on first use.
///
/// A child makes a value of its own, and leaks the inherited one: a thread of the parent may have been changing the
/// value, and the value's destructor may wait for that thread. Each process has a slot of its own. So a thread waits
/// only for threads of its own process, and never for a lock that a thread of the parent held.
pub(crate) struct PerProcess<T> {
    /// The slot of this process, or of the nearest ancestor that had one. Null if there is no slot.
    pub(super) newest: AtomicPtr<Slot<T>>,
    pub(super) _owns: PhantomData<T>,
}

pub(crate) struct Slot<T> {
    process: ProcessKey,
    /// The value, or null until it is made.
    value: AtomicPtr<T>,
    /// The thread that makes the value, or 0.
    maker: AtomicUsize,
    /// The slot of the next ancestor that had one, or null.
    inherited: *mut Slot<T>,
}

// SAFETY: one thread makes the value, all threads use it, and any thread may drop it. `T` allows all of this.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}

/// Why there is no value.
#[derive(Debug)]
pub(crate) enum NotMade<E> {
    /// The function that makes the value failed. The next call tries again.
    Failed(E),
    /// The function that makes the value asked for the same value.
    InsideItself,
}

impl<T> PerProcess<T> {
    /// Returns the value of this process, if there is one.
    pub(crate) fn get(&self, process: ProcessKey) -> Option<&T> {
        let slot = self.slot(process)?;
        // SAFETY: the pointer is null or from `Box::into_raw`, and its target is never freed.
        unsafe { slot.value.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the value of this process, and makes it if necessary. Asks `process` for the key again after `make`, which may
    /// fork.
    pub(crate) fn get_or_try_make<E>(
        &self,
        process: impl Fn() -> ProcessKey,
        make: impl Fn() -> Result<T, E>,
    ) -> Result<&T, NotMade<E>> {
        let mut round = 0;
        loop {
            let key = process();
            if let Some(value) = self.get(key) {
                return Ok(value);
            }
            let Some(slot) = self.slot(key) else {
                self.add_slot(key);
                continue;
            };
            match slot.maker.compare_exchange(0, this_thread(), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    let _making = Making(&slot.maker);
                    // Another thread may have made the value meanwhile.
                    if slot.value.load(Ordering::Acquire).is_null() {
                        let value = make().map_err(NotMade::Failed)?;
                        // If `make` has forked, the child stores the value in its copy of the parent's slot, and makes
                        // another value in the next round.
                        slot.value.store(Box::into_raw(Box::new(value)), Ordering::Release);
                    }
                }
                Err(maker) if maker == this_thread() => return Err(NotMade::InsideItself),
                Err(_) => {
                    pause(round);
                    round += 1;
                }
            }
        }
    }

    fn slot(&self, process: ProcessKey) -> Option<&Slot<T>> {
        // SAFETY: the pointer is null or from `Box::into_raw`, and its target is never freed.
        unsafe { self.newest.load(Ordering::Acquire).as_ref() }.filter(|slot| slot.process == process)
    }

    /// Adds a slot for this process, unless another thread has just done so.
    #[cold]
    fn add_slot(&self, process: ProcessKey) {
        let inherited = self.newest.load(Ordering::Acquire);
        // SAFETY: as in `slot`.
        if unsafe { inherited.as_ref() }.is_some_and(|slot| slot.process == process) {
            return;
        }
        let slot = Box::into_raw(Box::new(Slot {
            process,
            value: AtomicPtr::new(ptr::null_mut()),
            maker: AtomicUsize::new(0),
            inherited,
        }));
        if self.newest.compare_exchange(inherited, slot, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // SAFETY: the pointer is from `Box::into_raw`, and no other thread has it.
            drop(unsafe { Box::from_raw(slot) });
        }
    }

    /// Returns the values of this process's ancestors.
    pub(crate) fn inherited(&self, process: ProcessKey) -> impl Iterator<Item = &T> {
        // SAFETY: as in `slot`.
        let newest = unsafe { self.newest.load(Ordering::Acquire).as_ref() };
        // SAFETY: a slot links only slots that were `newest` before it, and these are never freed.
        let slots = iter::successors(newest, |slot| unsafe { slot.inherited.as_ref() });
        // SAFETY: as in `get`.
        slots
            .filter(move |slot| slot.process != process)
            .filter_map(|slot| unsafe { slot.value.load(Ordering::Acquire).as_ref() })
    }

    /// Forgets the value of this process, so that the next use makes another one. Returns the old value, which is leaked because
    /// other threads may have references to it.
    pub(crate) fn forget(&self, process: ProcessKey) -> Option<&T> {
        let value = self.slot(process)?.value.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: the pointer is null or from `Box::into_raw`, and its target is never freed.
        unsafe { value.as_ref() }
    }
}

/// Keeps the calling thread marked as the maker. Dropping this, even by a panic, removes the mark.
struct Making<'a>(&'a AtomicUsize);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}
