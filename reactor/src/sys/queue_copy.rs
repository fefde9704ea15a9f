//! The operations of a fork on a kernel queue.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use super::Queue;
use crate::{Interest, Token};

/// A child's kernel queue, not yet complete.
///
/// In a planned fork the parent says what the child gets, and the child makes the last system calls. In an unplanned fork the
/// child does both. Dropping a copy before a planned fork leaves everything as it was.
pub(crate) trait QueueCopy: Sized {
    /// Starts the child's copy of `queue`. Both processes close `spares` after the fork.
    ///
    /// Unless the fork `is_planned`, this is the child. It may have closed the descriptor of its queue, and opened another
    /// file there. If the kernel copied the queue, other threads of the parent may have changed it between that copy and
    /// the copy of the memory.
    fn new(queue: &Queue, spares: &mut Vec<OwnedFd>, is_planned: bool) -> io::Result<Self>;

    /// Gives the child this registration, which the parent has.
    fn inherit(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// Gives the child this registration, which the parent has muted.
    fn inherit_muted(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// Keeps this registration from the child.
    fn leave_out(&mut self, fd: RawFd, interest: Interest);

    /// Gives the child this registration of a descriptor that refers to another object in the child.
    fn add_in_child(&mut self, fd: RawFd, token: Token, interest: Interest);

    /// Gives the child a waker of its own. Where wakers have descriptors, the fork replaces and adds those instead.
    fn renew_waker(&mut self, token: Token);

    /// Drops the steps for a descriptor that is about to be closed.
    fn forget(&mut self, fd: RawFd);

    /// Child: makes `queue` refer to the child's queue, at the same descriptor unless another file is open there.
    /// Async-signal-safe; the error is an errno.
    fn put_in_place(&mut self, queue: &Queue) -> Result<(), i32>;

    /// Child, once every replaced descriptor is in place: completes the registrations. `wakes`: a wake is pending that the
    /// kernel must report. Async-signal-safe; the error is an errno.
    fn complete(&mut self, queue: &Queue, wakes: bool) -> Result<(), i32>;

    /// Child, after that: returns the registered descriptors that are not open in the child.
    fn missing(&self) -> impl Iterator<Item = RawFd>;
}
