//! Handles of selectors, the registrations of sources, and the records of sources that forks need.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::entry::{Entry, EntryInfo};
use super::policy::ForkPolicy;
use super::process_state::{generation, next_id};
use super::reconcile::{self, lock_to_add, lock_to_change};
use super::registering::lock_to_close;
use super::selector_core::SelectorCore;
use crate::source_kind::SourceKind;
use crate::timer_state::TimerState;
use crate::wakeable_queue::WakerDescriptors;
use crate::{Interest, Registry, Token, event, misuse, sys};

/// A handle of a selector. All handles of one selector share one descriptor, so a fork handles that descriptor once.
#[derive(Debug)]
pub(crate) struct Selector {
    core: &'static SelectorCore,
    /// The policy of the registrations that are made through this handle.
    policy: Option<ForkPolicy>,
}

impl Selector {
    pub(crate) fn new() -> io::Result<Selector> {
        let mut state = lock_to_add("making a selector")?;
        let core = state.take_core();
        core.kernel.queue.open().inspect_err(|_| state.free_cores.push(core))?;
        core.begin(next_id());
        Ok(Selector { core, policy: None })
    }

    #[inline]
    pub(crate) fn poll(&self, events: &mut sys::Events, timeout: Option<Duration>) -> io::Result<()> {
        reconcile::ensure();
        let timeout = if reconcile::is_first_poll_due() { reconcile::first_poll()? } else { timeout };
        // A poisoned selector has no queue, so the poll fails.
        self.core.kernel.poll(events, timeout).map_err(|error| self.core.cause(error))
    }

    /// Registers a bare descriptor.
    pub(crate) fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.core.register(fd, token, EntryInfo::new(interest, None, self.policy))
    }

    pub(crate) fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.core.reregister(fd, token, interest)
    }

    pub(crate) fn deregister(&self, fd: RawFd) -> io::Result<()> {
        self.core.deregister(fd)
    }

    pub(crate) fn new_waker(&self, token: Token) -> io::Result<SelectorWaker> {
        let _state = lock_to_add("making a waker")?;
        self.core.check_poison()?;
        let signal = self.core.kernel.add_waker(token)?;
        // The waker may have the descriptor of a bare registration that was closed without being deregistered.
        self.core.table.get(signal.descriptors().registered).into_iter().for_each(Entry::vacate);
        Ok(SelectorWaker { core: self.core, signal })
    }

    /// Returns the queue's descriptor, so that the program can wait for it by other means.
    pub(crate) fn expose(&self) -> BorrowedFd<'_> {
        reconcile::ensure();
        // The waker of a poisoned selector may be the parent's, so wakes must not signal it.
        if !self.core.is_poisoned() {
            self.core.kernel.expose();
        }
        self.core.kernel.queue.as_fd()
    }
}

impl Clone for Selector {
    fn clone(&self) -> Selector {
        self.core.handles.fetch_add(1, Ordering::Relaxed);
        Selector { core: self.core, policy: self.policy }
    }
}

impl Drop for Selector {
    fn drop(&mut self) {
        if self.core.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut state = lock_to_close(|plan| plan.forget_selector(self.core));
            self.core.end();
            if self.core.kernel.waker.get().is_none() {
                state.free_cores.push(self.core);
            }
        }
    }
}

impl Registry {
    /// Registers `source` like [`register`](Registry::register), with a fork policy of its own in place of the default
    /// of its kind. No fork sees the registration without the policy. [`fork::set_policy`](super::set_policy) changes
    /// it later.
    ///
    /// # Examples
    ///
    #[cfg_attr(feature = "net", doc = "```")]
    #[cfg_attr(not(feature = "net"), doc = "```ignore")]
    /// use forkio_reactor::fork::ForkPolicy;
    /// use forkio_reactor::net::UdpSocket;
    /// use forkio_reactor::{Interest, Poll, Token};
    ///
    /// let poll = Poll::new()?;
    /// let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
    /// // The child keeps the descriptor and gets no events for it.
    /// poll.registry().register_with_policy(&mut socket, Token(1), Interest::READABLE, ForkPolicy::NoFork)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn register_with_policy<S: event::Source + ?Sized>(
        &self,
        source: &mut S,
        token: Token,
        interests: Interest,
        policy: ForkPolicy,
    ) -> io::Result<()> {
        // The policy travels in the registry, so that it reaches every descriptor of a composite source.
        let mut registry = self.try_clone()?;
        registry.selector.policy = Some(policy);
        registry.register(source, token, interests)
    }
}

/// A selector's waker. It does not keep the selector open. But no other selector gets the core while the waker exists, because a
/// thread may be in the middle of a wake.
#[derive(Debug)]
pub(crate) struct SelectorWaker {
    core: &'static SelectorCore,
    signal: sys::WakeSignal,
}

impl SelectorWaker {
    #[inline]
    pub(crate) fn wake(&self) -> io::Result<()> {
        reconcile::ensure();
        if self.core.exists() { self.core.kernel.wake(&self.signal) } else { Ok(()) }
    }
}

impl Drop for SelectorWaker {
    fn drop(&mut self) {
        let WakerDescriptors { registered, sender } = self.signal.descriptors();
        let mut state = lock_to_close(|plan| [registered, sender].into_iter().for_each(|fd| plan.forget(fd)));
        self.core.kernel.remove_waker(&self.signal);
        if !self.core.exists() {
            state.free_cores.push(self.core);
        }
    }
}

/// The registration of a descriptor: a field of the source that owns the descriptor. Dropping the field tells the registration
/// table that the descriptor is about to be closed.
#[derive(Debug)]
pub(crate) struct SourceRegistration {
    /// The core and the id of the selector.
    at: Option<(&'static SelectorCore, u64)>,
    fd: RawFd,
    kind: SourceKind,
    /// Whether the process state has a record of the source: a timer, or an end of a stream socket pair.
    has_record: bool,
}

/// The number of writes through unregistered ends of stream socket pairs.
pub(super) static UNREGISTERED_WRITES: AtomicUsize = AtomicUsize::new(0);

impl SourceRegistration {
    pub(crate) fn new(fd: RawFd, kind: SourceKind, has_record: bool) -> SourceRegistration {
        SourceRegistration { at: None, fd, kind, has_record }
    }

    /// Returns the selector's core, if the selector still exists.
    #[inline(always)]
    fn core(&self) -> Option<&'static SelectorCore> {
        self.at.filter(|(core, id)| core.id() == *id).map(|(core, _)| core)
    }

    #[inline(always)]
    pub(crate) fn register(&mut self, selector: &Selector, token: Token, interest: Interest) -> io::Result<()> {
        if self.at.is_some() {
            self.check_unregistered(selector)?;
        }
        let core = selector.core;
        core.register(self.fd, token, EntryInfo::new(interest, Some(self.kind), selector.policy))?;
        self.at = Some((core, core.id()));
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn reregister(&mut self, selector: &Selector, token: Token, interest: Interest) -> io::Result<()> {
        if !self.is_registered_with(selector) {
            let is_elsewhere = self.core().is_some();
            return Err(if is_elsewhere { misuse::registered_elsewhere() } else { misuse::not_registered() });
        }
        selector.core.reregister(self.fd, token, interest)
    }

    #[inline(always)]
    pub(crate) fn deregister(&mut self, selector: &Selector) -> io::Result<()> {
        if !self.is_registered_with(selector) {
            return Err(misuse::not_registered());
        }
        let result = selector.core.deregister(self.fd);
        // A registration that stays because a fork is under way must still end when the source is dropped.
        if result.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true) {
            self.at = None;
        }
        result
    }

    /// Makes the registration bare: its owner gives the descriptor away, open and registered. From then on other code may
    /// close the descriptor without notice.
    pub(crate) fn release(self) {
        let core = self.core();
        if core.is_some() || self.has_record {
            let mut state = lock_to_close(|plan| plan.forget(self.fd));
            state.records.release(self.fd);
            if let Some(entry) = core.and_then(|core| core.table.get(self.fd)) {
                entry.set_info(entry.info().as_bare());
            }
        }
        std::mem::forget(self);
    }

    /// Counts a write through the source, if that is an unregistered end of a stream socket pair. Async-signal-safe.
    #[inline(always)]
    pub(crate) fn note_write(&self) {
        if self.at.is_none() && self.has_record {
            UNREGISTERED_WRITES.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[cold]
    fn check_unregistered(&self, selector: &Selector) -> io::Result<()> {
        reconcile::ensure();
        let entry = self.core().and_then(|core| core.table.get(self.fd));
        let has_been_left_out = entry.is_some_and(|entry| entry.info().is_absent(generation()));
        if self.core().is_none() || (self.is_registered_with(selector) && has_been_left_out) {
            return Ok(());
        }
        Err(misuse::already_registered())
    }

    #[inline(always)]
    fn is_registered_with(&self, selector: &Selector) -> bool {
        self.core().is_some_and(|core| std::ptr::eq(core, selector.core))
    }
}

impl Drop for SourceRegistration {
    #[inline(always)]
    fn drop(&mut self) {
        if sys::Remake::EXISTS {
            // The source may be on the list of objects that a child makes again, and a thread of the parent may have locked
            // that list.
            reconcile::ensure();
        }
        if let Some(core) = self.core() {
            core.close(self.fd);
        }
        if self.has_record {
            lock_to_close(|plan| plan.forget(self.fd)).records.forget(self.fd);
        }
    }
}

/// Makes a source that children may have to make again. No planned fork sees the source half made. Fails while this thread
/// forks: the child would have to make the source.
pub(crate) fn while_no_fork<T>(doing: &str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    reconcile::ensure();
    let _state = sys::Remake::EXISTS.then(|| lock_to_add(doing)).transpose()?;
    act()
}

/// Notes that `a` and `b` are the two ends of one pair: renewing one means renewing both.
pub(crate) fn add_pair(a: RawFd, b: RawFd) -> io::Result<()> {
    lock_to_change().records.add_pair([a, b])
}

/// Makes a timer, and notes it with its state: each child gets a timer of its own.
pub(crate) fn add_timer<T: AsRawFd>(make: impl FnOnce() -> io::Result<T>, timer: &Arc<TimerState>) -> io::Result<T> {
    let mut state = lock_to_add("making a timer")?;
    let source = make()?;
    state.records.record(source.as_raw_fd()).timer = Some(Arc::clone(timer));
    Ok(source)
}
