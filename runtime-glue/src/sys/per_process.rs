//! A value that each process makes for itself.

use std::marker::PhantomData;
use std::{iter, ptr};

use super::sync::{AtomicPtr, AtomicUsize, Ordering, pause, this_thread};

/// Which process: of two that are related by forks no two are the same.
pub(crate) type ProcessKey = u64;

/// A value that each process makes on first use, once, whichever thread comes first.
///
/// A child of a fork makes one of its own, and leaks what it has inherited: it may be in the middle of anything, and
/// dropping it may wait for threads that are not there. For that no lock is needed that another thread may have held at
/// the fork: each process has a slot of its own, which names it, and who waits, waits for a thread of the same process.
pub(crate) struct PerProcess<T> {
    /// The slot of this process, or of the nearest ancestor that had one; null: there is none.
    pub(super) newest: AtomicPtr<Slot<T>>,
    pub(super) _owns: PhantomData<T>,
}

pub(crate) struct Slot<T> {
    process: ProcessKey,
    /// Null until it is made.
    value: AtomicPtr<T>,
    /// The thread that makes it; 0: none.
    maker: AtomicUsize,
    /// The slot of the next ancestor that had one, or null.
    inherited: *mut Slot<T>,
}

// SAFETY: the value may be made by one thread, used by all and dropped by another one.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}

/// Why there is no value.
#[derive(Debug)]
pub(crate) enum NotMade<E> {
    /// Making it failed. The next one to ask tries again.
    Failed(E),
    /// The thread that asks is making it.
    InsideItself,
}

impl<T> PerProcess<T> {
    /// The value of this process, if it is made.
    pub(crate) fn get(&self, process: ProcessKey) -> Option<&T> {
        let slot = self.slot(process)?;
        // SAFETY: null or from `Box::into_raw`, and freed with `self` at the earliest.
        unsafe { slot.value.load(Ordering::Acquire).as_ref() }
    }

    /// The value of this process. `process` says which one that is: it is asked again in case `make` forks.
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
                    // Another thread may have made it since this one looked.
                    if slot.value.load(Ordering::Acquire).is_null() {
                        let value = make().map_err(NotMade::Failed)?;
                        // In a child that `make` has forked this is the parent's slot still. There the next round makes
                        // another one.
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

    /// The slot of this process.
    fn slot(&self, process: ProcessKey) -> Option<&Slot<T>> {
        // SAFETY: null or from `Box::into_raw`, and freed with `self` at the earliest.
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
            // SAFETY: from `Box::into_raw`, and nobody else has seen it.
            drop(unsafe { Box::from_raw(slot) });
        }
    }

    /// The values of this process's ancestors.
    pub(crate) fn inherited(&self, process: ProcessKey) -> impl Iterator<Item = &T> {
        // SAFETY: as in `slot`, and so are the slots it leads to.
        let newest = unsafe { self.newest.load(Ordering::Acquire).as_ref() };
        // SAFETY: as above.
        let slots = iter::successors(newest, |slot| unsafe { slot.inherited.as_ref() });
        // SAFETY: as in `get`.
        slots
            .filter(move |slot| slot.process != process)
            .filter_map(|slot| unsafe { slot.value.load(Ordering::Acquire).as_ref() })
    }

    /// Takes the value of this process. An inherited one stays where it is.
    pub(crate) fn take(&mut self, process: ProcessKey) -> Option<T> {
        let slot = self.slot(process)?;
        let value = slot.value.swap(ptr::null_mut(), Ordering::Acquire);
        // SAFETY: null or from `Box::into_raw`; nobody has a reference, because `self` is borrowed mutably.
        (!value.is_null()).then(|| *unsafe { Box::from_raw(value) })
    }
}

/// The thread is making the value, until it is dropped, also by a panic.
struct Making<'a>(&'a AtomicUsize);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}
