//! The empty list of objects that only the child can make: on this system the parent can make every object before the fork.

use std::iter;
use std::os::fd::RawFd;

#[derive(Debug)]
pub(crate) struct Remakes;

#[derive(Debug)]
pub(crate) struct RemakesLock;

impl Remakes {
    /// Whether there may be such objects.
    pub(crate) const EXIST: bool = false;

    pub(crate) const fn new() -> Remakes {
        Remakes
    }

    pub(crate) fn lock() -> RemakesLock {
        RemakesLock
    }

    /// Returns `true`: there is no lock.
    ///
    /// # Safety
    ///
    /// The function is unsafe only because its counterpart in the kqueue backend is.
    pub(crate) unsafe fn free_lock() -> bool {
        true
    }

    pub(crate) fn prepare(&mut self) {}

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        iter::empty()
    }

    pub(crate) fn contains(&self, _: RawFd) -> bool {
        false
    }

    pub(crate) fn forget(&mut self, _: RawFd) {}

    pub(crate) fn remake(&self) -> impl Iterator<Item = (RawFd, i32)> {
        iter::empty()
    }
}
