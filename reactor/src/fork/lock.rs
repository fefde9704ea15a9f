//! A lock that knows who has it.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sync;

thread_local! {
    static MARK: u8 = const { 0 };
}

/// The calling thread, as the address of something of its own; never 0, and the same in the child of its fork.
pub(super) fn this_thread() -> usize {
    MARK.with(|mark| ptr::from_ref(mark).addr())
}

/// Guards a value; its state is the thread that has it.
///
/// Not a lock of the standard library. A fork's child may find it in the hands of a thread that does not exist there: one
/// store frees it, with no queue of waiters to repair. And a signal handler that forks can tell whether the thread which
/// it has interrupted holds it, and would wait for itself.
pub(super) struct Lock<T> {
    /// [`this_thread`] of whoever has it; 0: nobody.
    owner: AtomicUsize,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a guard, and only one thread has a guard.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The right to the value, until dropped.
pub(super) struct Guard<T: 'static> {
    lock: &'static Lock<T>,
    /// Frees the lock when dropped; `false` where the thread has it already.
    frees: bool,
    /// The lock is its thread's.
    _not_send: PhantomData<*const ()>,
}

impl<T> Lock<T> {
    pub(super) const fn new(value: T) -> Lock<T> {
        Lock { owner: AtomicUsize::new(0), value: UnsafeCell::new(value) }
    }

    /// Waits until nobody has the lock, and takes it.
    pub(super) fn lock(&'static self) -> Guard<T> {
        let mut round = 0;
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            sync::pause(round);
            round += 1;
        }
    }

    /// As [`lock`](Lock::lock), but looks `rounds` times at most.
    #[cfg(feature = "atfork")]
    pub(super) fn lock_within(&'static self, rounds: u32) -> Option<Guard<T>> {
        (0..rounds).find_map(|round| {
            let guard = self.try_lock();
            if guard.is_none() {
                sync::pause(round);
            }
            guard
        })
    }

    fn try_lock(&'static self) -> Option<Guard<T>> {
        let taken = self.owner.compare_exchange(0, this_thread(), Ordering::Acquire, Ordering::Relaxed);
        // Not made unless it is taken: dropping it frees the lock.
        taken.is_ok().then(|| Guard { lock: self, frees: true, _not_send: PhantomData })
    }

    /// Whether nobody has the lock.
    #[cfg(feature = "atfork")]
    pub(super) fn is_free(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == 0
    }

    /// Whether the calling thread has the lock.
    #[cfg(feature = "atfork")]
    pub(super) fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == this_thread()
    }

    /// Another guard for the thread that has the lock.
    ///
    /// # Safety
    ///
    /// The calling thread has the lock, and nothing borrowed from the first guard is in use while this one is.
    pub(super) unsafe fn again(&'static self, frees: bool) -> Guard<T> {
        Guard { lock: self, frees, _not_send: PhantomData }
    }

    /// Frees the lock in a child whose parent's other thread had it; what that thread may have left half done is replaced
    /// by `value`, and leaked. A lock that the calling thread has stays its own.
    ///
    /// # Safety
    ///
    /// The process has no other thread.
    #[cfg(feature = "atfork")]
    pub(super) unsafe fn free_if_orphaned(&self, value: T) {
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != 0 && owner != this_thread() {
            // SAFETY: nobody is here to use it.
            unsafe { ptr::write(self.value.get(), value) };
            self.owner.store(0, Ordering::Relaxed);
        } else {
            std::mem::forget(value);
        }
    }
}

impl<T> Deref for Guard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the thread has the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        if self.frees {
            self.lock.owner.store(0, Ordering::Release);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Guard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time() {
        static COUNT: Lock<u32> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *COUNT.lock() += 1));
            }
        });
        assert_eq!(*COUNT.lock(), 40_000);
    }

    #[cfg(feature = "atfork")]
    #[test]
    fn patience_ends() {
        static HELD: Lock<u32> = Lock::new(1);
        let guard = HELD.lock();
        assert!(HELD.is_mine());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!HELD.is_mine() && HELD.lock_within(100).is_none());
                // As the child of a fork by this thread would, where the other one does not exist.
                // SAFETY: the other thread waits for this one, and leaves the value alone after it.
                unsafe { HELD.free_if_orphaned(2) };
                assert_eq!(*HELD.lock_within(1).expect("a free lock"), 2);
            });
        });
        drop(guard);
    }
}
