//! The registrations of one selector, as its process sees them.

use std::io;
use std::os::fd::RawFd;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::gate::{Gate, Inside};
use super::policy::{ForkPolicy, SourceKind};
use super::table::{About, Entry, FdTable};
use super::{generation, sync};
use crate::{Interest, Token, sys};

/// A selector's registration table, the gate that keeps it still during a fork, and its poison.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(super) table: FdTable<Entry>,
    pub(super) gate: Gate,
    /// The error that kept the child's queue from being completed; 0: none.
    poison: AtomicI32,
    /// The process whose queue it is, from the first registration on: a plain `fork(2)` gives its child the table, and the
    /// parent's queue.
    owner: AtomicU32,
    /// Children do without the selector.
    retired: AtomicBool,
}

impl Default for Registered {
    fn default() -> Registered {
        Registered {
            table: FdTable::new(),
            gate: Gate::new(),
            poison: AtomicI32::new(0),
            owner: AtomicU32::new(0),
            retired: AtomicBool::new(false),
        }
    }
}

impl Registered {
    pub(crate) fn register(
        &self,
        queue: &sys::Queue,
        fd: RawFd,
        token: Token,
        interest: Interest,
        kind: Option<SourceKind>,
        policy: Option<ForkPolicy>,
    ) -> io::Result<()> {
        let _inside = self.enter()?;
        self.check_poison()?;
        if self.owner.load(Ordering::Relaxed) == 0 {
            self.owner.store(process::id(), Ordering::Relaxed);
        }
        // None for a negative number, which the kernel refuses.
        let entry = self.table.get_or_make(fd);
        if entry.is_some_and(Entry::is_withheld) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        queue.add(fd, token, interest)?;
        if let Some(entry) = entry {
            entry.set(token, About::new(interest, kind, policy));
        }
        Ok(())
    }

    pub(crate) fn reregister(&self, queue: &sys::Queue, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let _inside = self.enter()?;
        self.check_poison()?;
        let entry = self.table.get(fd).and_then(|entry| Some((entry, entry.about()?)));
        match entry {
            Some((_, about)) if about.is_muted() => {}
            Some((entry, about)) if about.is_exclusive() => {
                let before = entry.get().map_or(token, |(before, _)| before);
                replace(queue, fd, (before, about.kernel_interest()), (token, interest.exclusive()))?;
            }
            _ => queue.modify(fd, token, interest)?,
        }
        if let Some((entry, about)) = entry {
            entry.set(token, about.with_interest(interest));
        }
        Ok(())
    }

    pub(crate) fn deregister(&self, queue: &sys::Queue, fd: RawFd) -> io::Result<()> {
        let _inside = self.enter()?;
        let about = self.table.get(fd).and_then(|entry| {
            let about = entry.about()?;
            // Whatever the kernel says below, it does not have the number afterwards.
            entry.clear();
            Some(about)
        });
        match about {
            // The kernel does not have it: the parent muted it, or the fork left it out. To its owner it was there.
            Some(about) if about.is_muted() || about.is_dropped(generation()) => Ok(()),
            // Its number may still stand for the parent's queue.
            _ if self.is_poisoned() => Ok(()),
            _ => queue.delete(fd),
        }
    }

    /// The registered `fd` is about to be closed.
    pub(super) fn close(&self, queue: &sys::Queue, fd: RawFd) {
        if self.owner.load(Ordering::Relaxed) == process::id() {
            // Not registered is as good.
            let _ = self.deregister(queue, fd);
        } else if let Some(entry) = self.table.get(fd) {
            // The queue is another process's, which may go on with it.
            entry.clear();
        }
    }

    /// The owner of `fd` gives it away.
    pub(super) fn give_away(&self, fd: RawFd) {
        if let Some((entry, (token, about))) = self.table.get(fd).and_then(|entry| Some((entry, entry.get()?))) {
            entry.set(token, about.as_bare());
        }
    }

    /// The child's side of a fork is done: this is `owner`'s selector now.
    pub(super) fn take_over(&self, owner: u32) {
        self.owner.store(owner, Ordering::Relaxed);
        self.gate.reset();
    }

    /// Changes the live registration of `fd`, if there is one, and says whether there was.
    pub(super) fn change(&self, fd: RawFd, change: impl FnOnce(Token, About) -> io::Result<About>) -> io::Result<bool> {
        let _inside = self.enter()?;
        let live = self.table.get(fd).and_then(|entry| {
            let (token, about) = entry.get()?;
            (!about.is_dropped(generation())).then_some((entry, token, about))
        });
        let Some((entry, token, about)) = live else { return Ok(false) };
        entry.set(token, change(token, about)?);
        Ok(true)
    }

    pub(crate) fn check_poison(&self) -> io::Result<()> {
        match self.poison.load(Ordering::Relaxed) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// From now on every poll fails with `errno`.
    pub(super) fn poison(&self, errno: i32) {
        // The first error is the one to know.
        let _ = self.poison.compare_exchange(0, errno, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.load(Ordering::Relaxed) != 0
    }

    /// Children do without the selector, from the next fork on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    fn enter(&self) -> io::Result<Inside<'_>> {
        match self.gate.try_enter() {
            Some(inside) => Ok(inside),
            None => self.enter_after_fork(),
        }
    }

    #[cold]
    fn enter_after_fork(&self) -> io::Result<Inside<'_>> {
        let mut round = 0;
        loop {
            if super::is_forking_here() {
                // It would wait for itself.
                return Err(io::Error::other(
                    "this thread is between prepare and commit or abort of a fork: end the fork before registering",
                ));
            }
            sync::pause(round);
            round += 1;
            if let Some(inside) = self.gate.try_enter() {
                return Ok(inside);
            }
        }
    }
}

/// Puts one registration in the place of another where the kernel does not change it: epoll_ctl(2) has `EPOLLEXCLUSIVE`
/// only with `EPOLL_CTL_ADD`. On an error the old one stays.
pub(super) fn replace(
    queue: &sys::Queue,
    fd: RawFd,
    before: (Token, Interest),
    after: (Token, Interest),
) -> io::Result<()> {
    queue.delete(fd)?;
    queue.add(fd, after.0, after.1).inspect_err(|_| {
        // The kernel has just had room for it.
        let _ = queue.add(fd, before.0, before.1);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The child finds the gate shut, with a thread inside or at it that does not exist there.
    #[test]
    fn taking_over_opens_the_gate_whoever_was_counted() {
        let registered = Registered::default();
        std::mem::forget(registered.gate.enter_counted());
        registered.gate.begin_shut();
        assert!(registered.gate.try_enter().is_none());
        registered.take_over(process::id());
        assert!(registered.gate.try_enter().is_some());
        // Nobody is left to be waited for.
        registered.gate.shut();
        registered.gate.open();
    }
}
