//! Changes to registrations: mark the table entry, make the system call, complete the entry.
//!
//! A change takes no lock and needs no read-modify-write instruction: the mark is a store, and [the gate](super::gate) tells
//! whether a fork may be reading the table. Unusual registrations, such as muted ones, take another path after the mark.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::entry::{Entry, EntryInfo};
use super::plan::Plan;
use super::process_state::{PROCESS, ProcessState, generation, is_forking_here, refuse_inside_fork};
use super::reconcile::{self, lock, lock_to_change};
use super::selector_core::SelectorCore;
use crate::lock::Guard;
use crate::sys::{self, QueueCopy, descriptor};
use crate::{Interest, Token};

impl SelectorCore {
    #[inline(always)]
    pub(crate) fn register(&self, fd: RawFd, token: Token, info: EntryInfo) -> io::Result<()> {
        let Some(entry) = self.table.get_to_add(fd) else { return self.register_first(fd, token, info) };
        let before = begin(entry, "registering")?;
        let added = if before.is_vacant() {
            self.kernel.queue.add(fd, token, info.interest())
        } else {
            self.add_again(fd, token, info, before)
        };
        added.map_err(|error| self.undo(entry, before, error))?;
        entry.set_token(token);
        entry.finish(info);
        Ok(())
    }

    /// Registers a descriptor for which the table has no room yet.
    #[cold]
    fn register_first(&self, fd: RawFd, token: Token, info: EntryInfo) -> io::Result<()> {
        reconcile::ensure();
        self.check_poison()?;
        // A descriptor that is not open may be any number. Making room for a large one would allocate a huge chunk.
        if !descriptor::is_open(fd) || self.table.make_room(fd).is_none() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.register(fd, token, info)
    }

    /// Adds a registration of a descriptor that the table lists as registered. Fails with EEXIST if it still is.
    #[cold]
    fn add_again(&self, fd: RawFd, token: Token, info: EntryInfo, before: EntryInfo) -> io::Result<()> {
        let is_there = if before.is_muted() {
            // A muted registration is not in the kernel's queue, but its owner expects it to exist. A bare descriptor may
            // refer to another file by now.
            !before.is_bare() && !before.is_absent(generation())
        } else if sys::Queue::IS_EXACT || before.is_absent(generation()) {
            // `add` below refuses a second registration if the queue is exact. A fork has left out an absent registration.
            false
        } else {
            // The descriptor may have been closed without notice, and refer to another file now.
            let token = self.table.get(fd).and_then(Entry::get).map_or(token, |(token, _)| token);
            self.kernel.queue.holds(fd, token)?
        };
        if is_there {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.kernel.queue.add(fd, token, info.interest())
    }

    #[inline(always)]
    pub(crate) fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let Some(entry) = self.table.get(fd) else { return Err(self.not_registered()) };
        let before = begin(entry, "reregistering")?;
        // An exact queue refuses to change a registration that is gone, and a typed source keeps its descriptor open.
        let changed = if before.is_plain() && (sys::Queue::IS_EXACT || !before.is_bare()) {
            self.kernel.queue.modify(fd, token, interest)
        } else {
            self.modify_unusual(fd, token, interest, before)
        };
        changed.map_err(|error| self.undo(entry, before, error))?;
        entry.set_token(token);
        entry.finish(before.with_interest(interest));
        Ok(())
    }

    #[cold]
    fn modify_unusual(&self, fd: RawFd, token: Token, interest: Interest, before: EntryInfo) -> io::Result<()> {
        let not_found = || Err(io::Error::from_raw_os_error(libc::ENOENT));
        let token_before = self.table.get(fd).and_then(Entry::get).map_or(token, |(token, _)| token);
        if before.is_absent(generation()) {
            return not_found();
        }
        if before.is_muted() {
            return Ok(());
        }
        if before.is_exclusive() {
            return self.replace(fd, (token_before, before.kernel_interest()), (token, interest.exclusive()));
        }
        let queue = &self.kernel.queue;
        if !sys::Queue::IS_EXACT && (before.is_vacant() || (before.is_bare() && !queue.holds(fd, token_before)?)) {
            return not_found();
        }
        queue.modify(fd, token, interest)
    }

    #[inline(always)]
    pub(crate) fn deregister(&self, fd: RawFd) -> io::Result<()> {
        let Some(entry) = self.table.get(fd) else { return Err(self.not_registered()) };
        let before = begin(entry, "deregistering")?;
        let deleted = self.delete(fd, before);
        // Even if the call failed, the kernel does not have the registration afterwards.
        entry.finish(EntryInfo::VACANT);
        deleted.or_else(|error| if self.is_poisoned() { Ok(()) } else { Err(error) })
    }

    #[inline(always)]
    fn delete(&self, fd: RawFd, before: EntryInfo) -> io::Result<()> {
        // This process has muted the registration, or a fork left it out. The kernel does not have it, but its owner
        // expects to deregister it successfully.
        if !before.is_plain() && (before.is_muted() || before.is_absent(generation())) {
            return Ok(());
        }
        // The owner still has the descriptor open. If the kernel does not find the registration, the kernel has dropped it.
        let may_be_gone = !sys::Queue::IS_EXACT && !before.is_vacant() && !before.is_bare();
        match self.kernel.queue.delete(fd) {
            Err(error) if may_be_gone && error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Ends the registration of a descriptor that its owner is about to close.
    ///
    /// The kernel ends the registration itself, at the latest when the last duplicate of the descriptor is closed.
    #[inline(always)]
    pub(crate) fn close(&self, fd: RawFd) {
        let Some(entry) = self.table.get(fd) else { return };
        let Ok(before) = begin(entry, "") else { return self.close_inside_fork(fd, entry) };
        // Another thread may fork before the descriptor is closed. A kernel that copies queues would copy the registration.
        let is_copied = !sys::ChildQueue::BEGINS_EMPTY && sys::Queue::is_there_after_fork();
        if (is_copied || PROCESS.has_relatives.load(Ordering::Relaxed)) && !before.is_muted() {
            // An error means that the descriptor is not registered, so there is nothing to delete.
            let _ = self.kernel.queue.delete(fd);
        }
        entry.finish(EntryInfo::VACANT);
    }

    /// Does the same as [`close`](Self::close) for a thread that is between prepare and the end of its own fork.
    #[cold]
    fn close_inside_fork(&self, fd: RawFd, entry: &Entry) {
        lock().plan.forget(fd);
        let _ = self.kernel.queue.delete(fd);
        entry.vacate();
    }

    /// Replaces a registration with another one, because the kernel cannot modify it: epoll_ctl(2) accepts `EPOLLEXCLUSIVE`
    /// only with `EPOLL_CTL_ADD`. On an error, the old registration stays, unless the error says that it is gone.
    pub(super) fn replace(&self, fd: RawFd, before: (Token, Interest), after: (Token, Interest)) -> io::Result<()> {
        let queue = &self.kernel.queue;
        queue.delete(fd)?;
        queue.add(fd, after.0, after.1).or_else(|error| {
            queue.add(fd, before.0, before.1).map_err(|again| {
                let text = format!("descriptor {fd} is not registered any more: {error}; restoring it failed: {again}");
                io::Error::new(io::ErrorKind::NotFound, text)
            })?;
            Err(error)
        })
    }

    /// Ends a change that has failed.
    #[cold]
    fn undo(&self, entry: &Entry, before: EntryInfo, error: io::Error) -> io::Error {
        let is_gone = error.kind() == io::ErrorKind::NotFound && !before.is_absent(generation());
        entry.finish(if is_gone { EntryInfo::VACANT } else { before });
        self.cause(error)
    }

    #[cold]
    fn not_registered(&self) -> io::Error {
        reconcile::ensure();
        self.cause(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// Marks an entry as being changed, and returns its state before. Waits for the end of a fork that is under way.
#[inline(always)]
pub(super) fn begin(entry: &Entry, doing: &str) -> io::Result<EntryInfo> {
    entry.begin().map_or_else(|| begin_after_fork(entry, doing), Ok)
}

/// Marks an entry once no fork is under way. Fails if this thread is between prepare and the end of a fork: the thread would
/// wait for itself.
#[cold]
fn begin_after_fork(entry: &Entry, doing: &str) -> io::Result<EntryInfo> {
    loop {
        reconcile::ensure();
        refuse_inside_fork(doing)?;
        // Try this before locking: in the child of a fork made by a signal handler, this thread may hold the lock already.
        if let Some(before) = entry.begin() {
            return Ok(before);
        }
        // Waits for the end of a fork, and discards a plan that was made in advance.
        drop(lock_to_change());
    }
}

/// Locks the state for closing an object, once no fork of another thread is under way. Between prepare and the end of this
/// thread's own fork, `forget` drops the object from the plan.
pub(super) fn lock_to_close(forget: impl FnOnce(&mut Plan)) -> Guard<ProcessState> {
    let mut state = lock();
    if is_forking_here() {
        forget(&mut state.plan);
    } else {
        state.give_up_plan();
    }
    state
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_fork_before_close_copies_no_registration() {
        let core = SelectorCore::default();
        core.kernel.queue.open().unwrap();
        let (socket, _other) = UnixStream::pair().unwrap();
        let (fd, token, interest) = (socket.as_raw_fd(), Token(1), Interest::READABLE);
        core.register(fd, token, EntryInfo::new(interest, None, None)).unwrap();
        core.close(fd);
        // The child's epoll instance is not a copy.
        let is_copied = !sys::ChildQueue::BEGINS_EMPTY && sys::Queue::is_there_after_fork();
        assert!(!(is_copied && core.kernel.queue.holds(fd, token).unwrap()));
        core.kernel.queue.close();
    }
}
