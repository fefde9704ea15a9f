//! The registrations of one selector, as its process sees them.

use std::io;
use std::os::fd::RawFd;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use super::gate::{Gate, Inside};
use super::generation;
use super::table::{About, Entry, Table};
use super::world::{refuse_inside_a_fork, world_to_change};
use crate::sys::{self, descriptor};
use crate::{Interest, Token};

/// A selector's registration table, the gate that keeps it still during a fork, and its poison.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(super) table: Table,
    pub(super) gate: Gate,
    /// The error that kept the child's queue from being completed; 0: none.
    poison: AtomicI32,
    /// The process whose queue it is, from the first registration on: a plain `fork(2)` gives its child the table, and the
    /// parent's queue.
    owner: AtomicU32,
    /// Children do without the selector.
    retired: AtomicBool,
}

/// In place of poison: this is a child, and there is something to do before the first poll.
#[cfg(feature = "atfork")]
const FIRST_POLL: i32 = -1;

/// In the middle of a registration, until dropped.
pub(crate) struct Entered<'a> {
    _inside: Inside<'a>,
    // Declared last: a fork in a signal handler must not find the gate occupied by an unmarked thread.
    #[cfg(feature = "atfork")]
    _registering: super::atfork::Registering,
}

impl Default for Registered {
    fn default() -> Registered {
        #[cfg(feature = "atfork")]
        let poison = if super::atfork::awaits_first_poll() { FIRST_POLL } else { 0 };
        #[cfg(not(feature = "atfork"))]
        let poison = 0;
        Registered {
            table: Table::new(),
            gate: Gate::new(),
            poison: AtomicI32::new(poison),
            owner: AtomicU32::new(0),
            retired: AtomicBool::new(false),
        }
    }
}

impl Registered {
    /// The place of `fd` in the table, if a registration can be made there without particular care.
    #[inline(always)]
    pub(crate) fn vacancy(&self, fd: RawFd) -> Option<&Entry> {
        self.table.plain(fd).filter(|entry| entry.is_vacant())
    }

    /// The place of `fd` in the table, if the registration there can be changed or ended without particular care.
    #[inline(always)]
    pub(crate) fn plain(&self, fd: RawFd) -> Option<&Entry> {
        self.table.plain(fd).filter(|entry| entry.is_plain() && (sys::Queue::IS_EXACT || !entry.is_bare()))
    }

    #[cold]
    pub(crate) fn register(&self, queue: &sys::Queue, fd: RawFd, token: Token, about: About) -> io::Result<()> {
        let mut inside = self.enter()?;
        // Nobody looks at the table outside the gate: another thread may be making room in it.
        if self.owner.load(Ordering::Relaxed) == 0 || self.table.get(fd).is_none() {
            drop(inside);
            self.take_in(fd)?;
            inside = self.enter()?;
        }
        let _inside = inside;
        self.check_poison()?;
        // None for a number that is not open, which the kernel refuses.
        let entry = self.table.get(fd);
        if entry.is_some_and(Entry::is_withheld) {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        if !sys::Queue::IS_EXACT && self.has(queue, fd)? {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        queue.add(fd, token, about.interest())?;
        if let Some(entry) = entry {
            entry.set(token, about);
        }
        Ok(())
    }

    #[cold]
    pub(crate) fn reregister(&self, queue: &sys::Queue, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let _inside = self.enter()?;
        self.check_poison()?;
        if !sys::Queue::IS_EXACT && !self.has(queue, fd)? {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
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

    #[cold]
    pub(crate) fn deregister(&self, queue: &sys::Queue, fd: RawFd) -> io::Result<()> {
        let _inside = self.enter()?;
        let about = self.table.get(fd).and_then(|entry| {
            let about = entry.about()?;
            entry.clear();
            Some(about)
        });
        match about {
            // The kernel does not have it: the parent muted it, or the fork left it out. To its owner it was there.
            Some(about) if about.is_muted() || about.is_dropped(generation()) => Ok(()),
            // Its number may still stand for the parent's queue.
            _ if self.is_poisoned() => Ok(()),
            // Its owner has it open, so the kernel has taken the registration back.
            Some(about) if !sys::Queue::IS_EXACT && !about.is_bare() => match queue.delete(fd) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
            _ => queue.delete(fd),
        }
    }

    /// Makes room for `fd` in the table of this process.
    fn take_in(&self, fd: RawFd) -> io::Result<()> {
        refuse_inside_a_fork("registering")?;
        // Keeps forks out, and whoever looks at the table without being inside the gate.
        let _world = world_to_change();
        self.shut();
        let _ = self.owner.compare_exchange(0, process::id(), Ordering::Relaxed, Ordering::Relaxed);
        // A number that is not open will be refused, and may be any.
        if descriptor::is_open(fd) {
            // SAFETY: the gate is shut and the world locked.
            unsafe { self.table.grow(fd) };
        }
        self.open();
        Ok(())
    }

    /// Keeps registrations still. The world is locked, so this is one at a time.
    pub(super) fn shut(&self) {
        self.gate.shut();
        // SAFETY: nobody is inside the gate, and the world is locked.
        unsafe { self.table.set_plain(false) };
    }

    /// As [`shut`](Registered::shut), but looks `rounds` times at most. `false`: somebody is still inside the gate.
    #[cfg(feature = "atfork")]
    pub(super) fn shut_within(&self, rounds: u32) -> bool {
        let is_shut = self.gate.shut_within(rounds);
        if is_shut {
            // SAFETY: nobody is inside the gate, and the world is locked.
            unsafe { self.table.set_plain(false) };
        }
        is_shut
    }

    /// Ends a [`shut`](Registered::shut).
    pub(super) fn open(&self) {
        let is_plain = self.owner.load(Ordering::Relaxed) != 0 && !self.is_poisoned() && !is_a_fork_to_be_told();
        // SAFETY: as in `shut`.
        unsafe { self.table.set_plain(is_plain) };
        self.gate.open();
    }

    /// Whether `fd` is registered, where the kernel does not say so when it is added or changed. What owners say is
    /// certain; a bare descriptor may have been closed and be something else.
    #[cold]
    fn has(&self, queue: &sys::Queue, fd: RawFd) -> io::Result<bool> {
        match self.table.get(fd).and_then(Entry::get) {
            Some((_, about)) if about.is_dropped(generation()) => Ok(false),
            Some((token, about)) if about.is_bare() && !about.is_muted() => queue.holds(fd, token, about.interest()),
            entry => Ok(entry.is_some()),
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
        self.open();
        self.gate.reset();
    }

    /// Changes the live registration of `fd`, if there is one, and says whether there was. The world is locked.
    pub(super) fn change(&self, fd: RawFd, change: impl FnOnce(Token, About) -> io::Result<About>) -> io::Result<bool> {
        if self.gate.is_shut() {
            // By the thread that has the world, which is this one.
            refuse_inside_a_fork("changing a registration")?;
        }
        // Alone: the descriptor's owner, who may be another thread, must not close it and have the number again meanwhile.
        self.shut();
        let changed = self.change_alone(fd, change);
        self.open();
        changed
    }

    fn change_alone(&self, fd: RawFd, change: impl FnOnce(Token, About) -> io::Result<About>) -> io::Result<bool> {
        let live = self.table.get(fd).and_then(|entry| {
            let (token, about) = entry.get()?;
            (!about.is_dropped(generation())).then_some((entry, token, about))
        });
        let Some((entry, token, about)) = live else { return Ok(false) };
        // Its number may still stand for the parent's queue.
        self.check_poison()?;
        entry.set(token, change(token, about)?);
        Ok(true)
    }

    pub(crate) fn check_poison(&self) -> io::Result<()> {
        match self.poison.load(Ordering::Relaxed) {
            ..=0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// To be called before each poll; gives the timeout to poll with.
    #[inline]
    pub(crate) fn before_poll(&self, timeout: Option<Duration>) -> io::Result<Option<Duration>> {
        match self.poison.load(Ordering::Relaxed) {
            0 => Ok(timeout),
            _ => self.before_unusual_poll(timeout),
        }
    }

    #[cold]
    fn before_unusual_poll(&self, timeout: Option<Duration>) -> io::Result<Option<Duration>> {
        #[cfg(feature = "atfork")]
        if self.poison.compare_exchange(FIRST_POLL, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            super::atfork::first_poll();
            // What it has done may be what the caller waits for.
            return Ok(Some(Duration::ZERO));
        }
        self.check_poison().map(|()| timeout)
    }

    /// In the child: there is something to do before the first poll. Poison takes precedence.
    #[cfg(feature = "atfork")]
    pub(super) fn await_first_poll(&self) {
        let _ = self.poison.compare_exchange(0, FIRST_POLL, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// From now on every poll fails with `errno`.
    pub(crate) fn poison(&self, errno: i32) {
        // The first error is the one to know. Only the child of a fork comes here, where no other thread is.
        if !self.is_poisoned() {
            self.poison.store(errno, Ordering::Relaxed);
        }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.load(Ordering::Relaxed) > 0
    }

    /// Whether `fd` is in the table. Async-signal-safe.
    pub(super) fn has_entry(&self, fd: RawFd) -> bool {
        self.table.get(fd).is_some_and(|entry| entry.about().is_some())
    }

    /// Children do without the selector, from the next fork on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) -> io::Result<Entered<'_>> {
        #[cfg(feature = "atfork")]
        let registering = super::atfork::Registering::begin();
        let inside = match self.gate.try_enter() {
            Some(inside) => inside,
            None => self.enter_after_fork()?,
        };
        Ok(Entered {
            _inside: inside,
            #[cfg(feature = "atfork")]
            _registering: registering,
        })
    }

    #[cold]
    fn enter_after_fork(&self) -> io::Result<Inside<'_>> {
        loop {
            // It would wait for itself.
            refuse_inside_a_fork("registering")?;
            // The end of a fork, or of a plan that was made ahead of one.
            drop(world_to_change());
            if let Some(inside) = self.gate.try_enter() {
                return Ok(inside);
            }
        }
    }
}

/// Whether a signal handler may fork in the middle of a registration, and has to be told of it: the plain way does not.
fn is_a_fork_to_be_told() -> bool {
    #[cfg(feature = "atfork")]
    {
        super::world::HAS_HANDLERS.load(Ordering::Relaxed)
    }
    #[cfg(not(feature = "atfork"))]
    {
        false
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
