//! Copy on fork of a kqueue: by the kernel where it can, by replay elsewhere.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};

use super::kernel::{self, EVFILT_USER, NOTE_TRIGGER};
use super::{ADD, DELETE, Event, IGNORED_BY_ADD, Queue, WakeSignal, apply, knotes, wanted};
use crate::selector::WakeSlots;
use crate::{Interest, Token};

/// Whether the kernel copies queues on fork (`KQUEUE_CPONFORK`): the same for all queues of a system.
static COPYING: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// A new queue, which the kernel copies on fork if it can.
pub(super) fn create() -> io::Result<RawFd> {
    if COPYING.load(Ordering::Relaxed) != NO {
        match kernel::kqueuex(kernel::KQUEUE_CLOEXEC | kernel::KQUEUE_CPONFORK) {
            Some(Ok(fd)) => {
                COPYING.store(YES, Ordering::Relaxed);
                return Ok(fd);
            }
            // FreeBSD 14 has the function without the flag; a program may have the function without the system call.
            Some(Err(error)) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                return Err(error);
            }
            _ => COPYING.store(NO, Ordering::Relaxed),
        }
    }
    kernel::kqueue()
}

/// A new queue at a number that is unused. Async-signal-safe.
pub(super) fn open_at(number: RawFd) -> Result<(), i32> {
    let fresh = kernel::kqueue().map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))?;
    if fresh == number {
        return Ok(());
    }
    let result = kernel::replace(fresh, number);
    kernel::close(fresh);
    result
}

/// Whether the kernel copies queues on fork.
pub(crate) fn is_copying() -> bool {
    COPYING.load(Ordering::Relaxed) == YES
}

impl Queue {
    /// The number is this process's own: it stands for the child's queue, or for what takes its place.
    pub(crate) fn take_over(&self) {
        self.owner.store(process::id(), Ordering::Relaxed);
    }

    /// Child of a fork that was not prepared: the number stands for a queue of its own, or for none.
    #[cfg(feature = "atfork")]
    pub(crate) fn detach(&self) {
        if is_copying() {
            self.take_over();
        }
    }
}

/// What the child does to have its queue: one list of changes, made by one system call.
///
/// Where the kernel copies the queue, the list deletes what the child is not to have. What it inherits is added again all
/// the same: that makes no duplicate, and does not depend on which events the kernel copies (kqueue(2) says that those of
/// descriptors "opened with the `O_CLOEXEC` flag" are not). At worst it is reported once more.
///
/// Where the kernel drops the queue, the child opens one at the same number, and the list fills it.
#[derive(Debug)]
pub(crate) struct QueueCopy {
    changes: Vec<Event>,
}

impl crate::fork::QueueCopy for QueueCopy {
    fn new(_: &Queue, _: &mut Vec<OwnedFd>) -> io::Result<QueueCopy> {
        Ok(QueueCopy { changes: Vec::new() })
    }

    fn inherit(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.changes.extend_from_slice(wanted(&mut knotes(fd, token, ADD)?, interest));
        Ok(())
    }

    fn leave_out(&mut self, fd: RawFd, interest: Interest) {
        if is_copying()
            && let Ok(mut knotes) = knotes(fd, Token(0), DELETE)
        {
            self.changes.extend_from_slice(wanted(&mut knotes, interest));
        }
    }

    fn add_in_child(&mut self, fd: RawFd, token: Token, interest: Interest) {
        // A number that is in a table is none that could be refused.
        let _ = self.inherit(fd, token, interest);
    }

    /// All is added in the child: to what the number stands for there.
    fn recall(&mut self, _: RawFd) -> io::Result<bool> {
        Ok(false)
    }

    fn renew_wakers(&mut self, wakers: &WakeSlots) {
        if WakeSignal::IS_EVENT {
            let events = wakers.all().map(|(number, token)| Event::new(number as usize, EVFILT_USER, ADD, token));
            self.changes.extend(events);
        }
    }

    fn put_in_place(&mut self, queue: &Queue) -> Result<(), i32> {
        if !is_copying() {
            open_at(queue.fd)?;
        }
        queue.take_over();
        Ok(())
    }

    fn complete(&mut self, queue: &Queue, wakers: &WakeSlots) -> Result<(), i32> {
        for change in self.changes.iter_mut().filter(|change| change.0.filter == EVFILT_USER) {
            // The flag as it was at the fork: who raised it may be a thread that does not exist here.
            if wakers.find(change.0.ident as u32).is_some_and(|(slot, _)| slot.flag.is_raised()) {
                change.0.fflags = NOTE_TRIGGER;
            }
        }
        apply(queue.fd, &mut self.changes).map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))?;
        match self.changes.iter().map(Event::errno).find(|errno| !IGNORED.contains(errno)) {
            None => Ok(()),
            Some(errno) => Err(errno),
        }
    }

    fn missing(&self) -> impl Iterator<Item = RawFd> {
        self.changes.iter().filter(|change| change.errno() == libc::EBADF).map(|change| change.0.ident as RawFd)
    }
}

/// Deleting what is not there, and adding what the child does not have: it was closed behind its owner's back, or is
/// close-on-fork.
const IGNORED: [i32; 4] = [0, IGNORED_BY_ADD, libc::ENOENT, libc::EBADF];
