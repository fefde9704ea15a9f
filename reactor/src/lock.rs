use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync;

/// Returns the number of the calling thread: never 0, and the same in a child that the thread forks. A new thread of a child
/// gets an unused number. The address of its stack would not do, because the parent's threads may have used that stack.
pub fn this_thread() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    // 0: not numbered yet.
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        number.get()
    })
}

/// Guards a value, and records which thread holds the lock.
///
/// The child of a fork may find a lock held by a thread that exists only in the parent. Unlike a lock of the standard library,
/// a `Lock` has no queue of waiting threads to repair, so one store frees it. Also, a thread can tell whether it holds the lock
/// itself, such as in a signal handler that forks.
pub(crate) struct Lock<T> {
    /// The thread that holds the lock, as [`this_thread`] returns it; 0: none.
    owner: AtomicUsize,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a guard, and only one thread has a guard.
unsafe impl<T: Send> Sync for Lock<T> {}

/// Gives access to the value until it is dropped.
pub(crate) struct Guard<T: 'static> {
    lock: &'static Lock<T>,
    /// Whether dropping the guard frees the lock; `false` for a second guard of the same thread.
    frees: bool,
    /// The lock belongs to the thread that has taken it.
    _not_send: PhantomData<*const ()>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Lock<T> {
        Lock { owner: AtomicUsize::new(0), value: UnsafeCell::new(value) }
    }

    /// Waits until the lock is free, and takes it.
    pub(crate) fn lock(&'static self) -> Guard<T> {
        let mut round = 0;
        while self.owner.compare_exchange(0, this_thread(), Ordering::Acquire, Ordering::Relaxed).is_err() {
            sync::pause(round);
            round += 1;
        }
        Guard { lock: self, frees: true, _not_send: PhantomData }
    }

    /// Whether the calling thread has the lock.
    pub(crate) fn is_mine(&self) -> bool {
        self.owner.load(Ordering::Relaxed) == this_thread()
    }

    /// Returns another guard to the thread that has the lock.
    ///
    /// # Safety
    ///
    /// The calling thread must have the lock, and must not use anything borrowed from the first guard while it uses this
    /// one.
    pub(crate) unsafe fn again(&'static self) -> Guard<T> {
        Guard { lock: self, frees: false, _not_send: PhantomData }
    }

    /// Frees the lock in a child if another thread of the parent had it, and returns `false` then. Leaks the value, which that
    /// thread may have left half changed, and replaces it by `value`. A lock that the calling thread has stays locked.
    ///
    /// # Safety
    ///
    /// The thread that had the lock must not exist, and no other thread may use the lock meanwhile.
    pub(crate) unsafe fn free_if_orphaned(&self, value: T) -> bool {
        let owner = self.owner.load(Ordering::Relaxed);
        if owner == 0 || owner == this_thread() {
            return true;
        }
        // SAFETY: no thread that has a guard exists, by the caller's promise.
        unsafe { ptr::write(self.value.get(), value) };
        self.owner.store(0, Ordering::Release);
        false
    }
}

impl<T> Deref for Guard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the thread that has this guard has the lock.
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

    #[test]
    fn an_orphaned_lock_is_freed() {
        static HELD: Lock<u32> = Lock::new(1);
        let guard = HELD.lock();
        assert!(HELD.is_mine());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(!HELD.is_mine());
                // Acts like a child that this thread has forked, in which the other thread does not exist. SAFETY: the other
                // thread waits for this one, and does not use the value afterwards.
                assert!(!unsafe { HELD.free_if_orphaned(2) });
                assert_eq!(*HELD.lock(), 2);
            });
        });
        drop(guard);
    }
}
