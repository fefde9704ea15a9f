use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::process;
use crate::{Interest, Token};

/// A kernel queue, or room for one. The other methods are in `epoll` and `kqueue`.
///
/// It is not an `OwnedFd`: a child of a fork may have to give its queue another descriptor, or have none.
#[derive(Debug)]
pub(crate) struct Queue {
    fd: AtomicI32,
    /// The argument of system calls: the descriptor, or [`NO_QUEUE`].
    usable_fd: AtomicI32,
    /// The process that owns the descriptor. Set and read only if `MAY_BE_ABSENT_AFTER_FORK`.
    pub(super) owner: AtomicU32,
}

/// A descriptor that is never open: system calls return EBADF.
const NO_QUEUE: RawFd = RawFd::MAX;

impl Queue {
    pub(crate) const fn vacant() -> Queue {
        Queue { fd: AtomicI32::new(NO_QUEUE), usable_fd: AtomicI32::new(NO_QUEUE), owner: AtomicU32::new(0) }
    }

    /// Makes this the queue at `fd`, which belongs to this process. Async-signal-safe.
    pub(crate) fn set(&self, fd: RawFd) {
        self.fd.store(fd, Ordering::Relaxed);
        self.usable_fd.store(fd, Ordering::Relaxed);
        self.adopt();
    }

    /// Forgets the queue, without closing it.
    pub(crate) fn forget(&self) {
        self.disown();
        self.fd.store(NO_QUEUE, Ordering::Relaxed);
    }

    pub(crate) fn is_vacant(&self) -> bool {
        self.fd() == NO_QUEUE
    }

    /// Notes that the descriptor belongs to this process. Async-signal-safe.
    pub(crate) fn adopt(&self) {
        if Queue::MAY_BE_ABSENT_AFTER_FORK {
            self.owner.store(process::id(), Ordering::Relaxed);
        }
    }

    /// Keeps later system calls from reaching the queue, which may belong to another process, or from reaching another file at
    /// its descriptor. Async-signal-safe.
    pub(crate) fn disown(&self) {
        self.usable_fd.store(NO_QUEUE, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.load(Ordering::Relaxed)
    }

    /// Returns the descriptor for system calls.
    #[inline(always)]
    pub(super) fn usable_fd(&self) -> RawFd {
        self.usable_fd.load(Ordering::Relaxed)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the queue is, in the process that it belongs to.
        unsafe { BorrowedFd::borrow_raw(self.fd()) }
    }
}

/// A child's kernel queue, not yet complete.
///
/// In a planned fork the parent chooses the child's registrations, and the child makes the last system calls. In an
/// unplanned fork the child does both.
pub(crate) trait QueueCopy: Sized {
    /// Whether the child's queue has only the registrations that the other methods give it.
    const BEGINS_EMPTY: bool;

    /// Starts the child's copy of `queue`. Both processes close `spares` after the fork.
    ///
    /// Unless the fork `is_planned`, the child makes this call. By then, the child may have another file at the queue's
    /// descriptor. Other threads of the parent may have changed the queue between the kernel's copies of queue and memory.
    fn new(queue: &Queue, spares: &mut Vec<OwnedFd>, is_planned: bool) -> io::Result<Self>;

    /// Gives the child this registration, which the parent has.
    fn inherit(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// Gives the child this registration, which the parent has muted.
    fn inherit_muted(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.inherit(fd, token, interest)
    }

    /// Keeps this registration from the child.
    fn leave_out(&mut self, _fd: RawFd, _interest: Interest) {}

    /// Gives the child this registration, which only the child can make.
    fn add_in_child(&mut self, fd: RawFd, token: Token, interest: Interest);

    /// Gives the child a waker of its own, if wakers are events of their queue. If wakers have descriptors, the fork replaces the
    /// objects at these descriptors instead.
    fn renew_waker(&mut self, _token: Token) {}

    /// Drops the steps for a descriptor that is about to be closed.
    fn forget(&mut self, fd: RawFd);

    /// Child: makes `queue` refer to the child's queue, at the same descriptor unless the child has lost it.
    /// Async-signal-safe; the error is an errno.
    fn put_in_place(&mut self, queue: &Queue) -> Result<(), i32>;

    /// Child, once every replaced descriptor is in place: completes the registrations. `wakes`: whether a wake is pending
    /// that the kernel must report. Async-signal-safe; the error is an errno.
    fn complete(&mut self, queue: &Queue, wakes: bool) -> Result<(), i32>;

    /// Child, after [`complete`](QueueCopy::complete): returns the registered descriptors that are not open in the child.
    fn missing(&self) -> impl Iterator<Item = RawFd> {
        std::iter::empty()
    }
}
