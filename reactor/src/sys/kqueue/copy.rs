//! Copies a kqueue on fork. The kernel makes the copy if it can; otherwise the child adds each registration again.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::kernel;
use super::{
    ADD, DELETE, Event, IGNORED_BY_ADD, Queue, WakeSignal, apply, is_queue, is_write_of_a_queue, knotes, wanted,
};
use crate::sys::{QueueCopy, descriptor};
use crate::{Interest, Token};

/// Whether the kernel copies queues on fork (`KQUEUE_CPONFORK`), known once there is a queue: the same for all queues of a
/// system.
static COPYING: AtomicBool = AtomicBool::new(true);

/// Opens a new queue, which the kernel copies on fork if it can.
pub(super) fn create() -> io::Result<RawFd> {
    if is_copying() {
        match kernel::kqueuex(kernel::KQUEUE_CLOEXEC | kernel::KQUEUE_CPONFORK) {
            None => {}
            // FreeBSD 14 has the function without the flag.
            Some(Err(error)) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Some(queue) => return queue,
        }
        COPYING.store(false, Ordering::Relaxed);
    }
    kernel::kqueue()
}

pub(super) fn is_copying() -> bool {
    COPYING.load(Ordering::Relaxed)
}

/// Gives a new queue the descriptor `fd`, unless another file has that descriptor. Returns the queue's descriptor.
/// Async-signal-safe.
pub(super) fn put_at(fd: RawFd, fresh: io::Result<RawFd>) -> Result<RawFd, i32> {
    let fresh = fresh.map_err(errno)?;
    // Another file may have taken the descriptor since the fork, such as one that another library's fork handler opened.
    if fresh == fd || descriptor::is_open(fd) {
        return Ok(fresh);
    }
    let result = descriptor::replace(fresh, fd);
    descriptor::close(fresh);
    result.map(|()| fd)
}

pub(super) fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EINVAL)
}

/// The child's steps to get its queue: one list of changes, made by one system call.
///
/// In a planned fork, a kernel that copies the queue copies every knote of a descriptor, keeps active ones active, and keeps
/// udata. The list repairs the rest. It deletes the knotes that the child must not have. It adds those that the kernel does
/// not copy (`EVFILT_USER`, muted ones), and those that watch the parent's object: a nested queue, or an object that the child
/// replaces. We have checked this on FreeBSD 15.1-RELEASE-p1.
///
/// If the kernel drops the queue, the child opens a queue at the same descriptor, and the list fills it. The child of an
/// unplanned fork does the same, because the parent's threads may change the queue while the fork copies the process.
#[derive(Debug)]
pub(crate) struct ChildQueue {
    /// Whether the fork is planned. If not, this is the child, and its queue is open.
    is_planned: bool,
    changes: Vec<Event>,
    /// The descriptors whose knotes the kernel copies. The child lacks those that are close-on-fork, and the program's own
    /// kqueues.
    copied: Vec<RawFd>,
}

impl ChildQueue {
    /// Whether the child relies on the kernel's copy.
    fn is_copied(&self) -> bool {
        self.is_planned && is_copying()
    }

    /// Adds the changes of one registration to the list. Fails only for a negative descriptor, which no table contains.
    fn change(&mut self, fd: RawFd, token: Token, interest: Interest, flags: kernel::Flags) -> io::Result<()> {
        self.changes.extend_from_slice(wanted(&mut knotes(fd, token, flags)?, interest));
        Ok(())
    }
}

impl QueueCopy for ChildQueue {
    /// The kernel may copy the parent's queue.
    const BEGINS_EMPTY: bool = false;

    fn new(queue: &Queue, _: &mut Vec<OwnedFd>, is_planned: bool) -> io::Result<ChildQueue> {
        if !is_planned {
            // Open the queue at once, before other fresh objects take the descriptor that the kernel left unused.
            if is_copying() && is_queue(queue.fd()) {
                descriptor::close(queue.fd());
            }
            queue.set(put_at(queue.fd(), create()).map_err(io::Error::from_raw_os_error)?);
        }
        Ok(ChildQueue { is_planned, changes: Vec::new(), copied: Vec::new() })
    }

    fn inherit(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        if !self.is_copied() {
            return self.change(fd, token, interest, ADD);
        }
        self.copied.push(fd);
        Ok(())
    }

    fn inherit_muted(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.change(fd, token, interest, ADD)
    }

    fn leave_out(&mut self, fd: RawFd, interest: Interest) {
        if self.is_copied() {
            let _ = self.change(fd, Token(0), interest, DELETE);
        }
    }

    fn add_in_child(&mut self, fd: RawFd, token: Token, interest: Interest) {
        // The copy of a nested queue's knote watches the parent's queue, and adding it again does not change that:
        // delete it first.
        self.leave_out(fd, interest);
        let _ = self.change(fd, token, interest, ADD);
    }

    fn forget(&mut self, fd: RawFd) {
        let is_of = |event: &Event| event.0.ident as RawFd == fd && event.0.filter != kernel::EVFILT_USER;
        self.changes.retain(|event| !is_of(event));
        self.copied.retain(|copied| *copied != fd);
    }

    fn renew_waker(&mut self, token: Token) {
        self.changes.extend(WakeSignal::renewing_changes(token));
    }

    fn put_in_place(&mut self, queue: &Queue) -> Result<(), i32> {
        if self.is_copied() {
            // At the limit of queues (RLIMIT_KQUEUES) a child silently lacks the copy, and cannot open a queue either.
            if !is_queue(queue.fd()) {
                return Err(libc::ENOMEM);
            }
            queue.adopt();
        } else if self.is_planned {
            queue.set(put_at(queue.fd(), create())?);
        }
        Ok(())
    }

    fn complete(&mut self, queue: &Queue, wakes: bool) -> Result<(), i32> {
        WakeSignal::set_pending(&mut self.changes, wakes);
        apply(queue.usable_fd(), &mut self.changes).map_err(errno)?;
        let failed = |change: &&Event| !IGNORED.contains(&change.errno()) && !is_write_of_a_queue(change);
        self.changes.iter().find(failed).map_or(Ok(()), |change| Err(change.errno()))
    }

    fn missing(&self) -> impl Iterator<Item = RawFd> {
        let not_added = self.changes.iter().filter(|change| change.errno() == libc::EBADF);
        let not_copied = self.copied.iter().copied().filter(|fd| !descriptor::is_open(*fd));
        not_added.map(|change| change.0.ident as RawFd).chain(not_copied)
    }
}

/// The results to ignore: success, [`IGNORED_BY_ADD`], and the errors of deleting a missing knote, and of adding a descriptor
/// that the child lacks. Such a descriptor was closed without notice, or is close-on-fork.
const IGNORED: [i32; 4] = [0, IGNORED_BY_ADD, libc::ENOENT, libc::EBADF];
