//! Lists of hooks that run at forks.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

pub(crate) struct Hooks<H>(Mutex<Vec<H>>);

impl<H> Hooks<H> {
    pub(crate) const fn new() -> Hooks<H> {
        Hooks(Mutex::new(Vec::new()))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<H>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a thread holds the lock. In a child, that may be a thread of the parent.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self.0.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Calls `run` with the hooks, without holding the lock: a hook may register another one for the next fork.
    pub(crate) fn run<T>(&self, run: impl FnOnce(&mut [H]) -> T) -> T {
        /// Puts the hooks back, even if one of them panics.
        struct Running<'a, H>(&'a Hooks<H>, Vec<H>);

        impl<H> Drop for Running<'_, H> {
            fn drop(&mut self) {
                let mut hooks = self.0.lock();
                self.1.append(&mut hooks);
                *hooks = mem::take(&mut self.1);
            }
        }

        let hooks = mem::take(&mut *self.lock());
        run(&mut Running(self, hooks).1)
    }
}
