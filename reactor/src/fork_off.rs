//! Takes the place of the module `fork` without the feature `cponfork`: selectors have no registration table, and record
//! nothing for forks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::source_kind::SourceKind;
use crate::timer_state::TimerState;
use crate::wakeable_queue::WakeableQueue;
use crate::{Interest, Token, misuse, sys};

#[derive(Clone, Debug)]
pub(crate) struct Selector(Arc<OpenCore>);

/// The part of a selector that its handles and its waker share.
#[derive(Debug)]
struct Core {
    kernel: WakeableQueue,
    id: u64,
}

/// Closes the queue when the last handle is dropped. A waker does not keep the queue open.
#[derive(Debug)]
struct OpenCore(Arc<Core>);

impl Drop for OpenCore {
    fn drop(&mut self) {
        self.0.kernel.queue.close();
    }
}

impl Selector {
    pub(crate) fn new() -> io::Result<Selector> {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        let kernel = WakeableQueue::default();
        kernel.queue.open()?;
        let core = Core { kernel, id: LAST_ID.fetch_add(1, Ordering::Relaxed) + 1 };
        Ok(Selector(Arc::new(OpenCore(Arc::new(core)))))
    }

    #[inline(always)]
    fn core(&self) -> &Arc<Core> {
        &self.0.0
    }

    #[inline]
    pub(crate) fn poll(&self, events: &mut sys::Events, timeout: Option<Duration>) -> io::Result<()> {
        self.core().kernel.poll(events, timeout)
    }

    pub(crate) fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.core().kernel.queue.add(fd, token, interest)
    }

    pub(crate) fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.core().kernel.queue.modify(fd, token, interest)
    }

    pub(crate) fn deregister(&self, fd: RawFd) -> io::Result<()> {
        self.core().kernel.queue.delete(fd)
    }

    pub(crate) fn new_waker(&self, token: Token) -> io::Result<SelectorWaker> {
        let signal = self.core().kernel.add_waker(token)?;
        Ok(SelectorWaker { core: Arc::clone(self.core()), signal })
    }

    /// Returns the queue's descriptor, so that the program can wait for it by other means.
    pub(crate) fn expose(&self) -> BorrowedFd<'_> {
        self.core().kernel.expose();
        self.core().kernel.queue.as_fd()
    }
}

#[derive(Debug)]
pub(crate) struct SelectorWaker {
    core: Arc<Core>,
    signal: sys::WakeSignal,
}

impl SelectorWaker {
    #[inline]
    pub(crate) fn wake(&self) -> io::Result<()> {
        self.core.kernel.wake(&self.signal)
    }
}

impl Drop for SelectorWaker {
    fn drop(&mut self) {
        self.core.kernel.remove_waker(&self.signal);
    }
}

/// The selector with which the owner has registered a source. Release builds compare it with the caller's selector only if the
/// kernel does not notice misuse itself. mio's release builds never compare them.
#[derive(Debug)]
pub(crate) struct SourceRegistration {
    /// The selector's id; 0: none.
    selector: u64,
    fd: RawFd,
}

impl SourceRegistration {
    const CHECKS_SELECTOR: bool = cfg!(debug_assertions) || !sys::Queue::IS_EXACT;

    pub(crate) fn new(fd: RawFd, _: SourceKind, _: bool) -> SourceRegistration {
        SourceRegistration { selector: 0, fd }
    }

    #[inline(always)]
    pub(crate) fn register(&mut self, selector: &Selector, token: Token, interest: Interest) -> io::Result<()> {
        if SourceRegistration::CHECKS_SELECTOR && self.selector != 0 {
            return Err(misuse::already_registered());
        }
        selector.register(self.fd, token, interest)?;
        self.selector = selector.core().id;
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn reregister(&mut self, selector: &Selector, token: Token, interest: Interest) -> io::Result<()> {
        if !self.is_registered_with(selector) {
            return Err(if self.selector == 0 { misuse::not_registered() } else { misuse::registered_elsewhere() });
        }
        selector.reregister(self.fd, token, interest)
    }

    #[inline(always)]
    pub(crate) fn deregister(&mut self, selector: &Selector) -> io::Result<()> {
        if !self.is_registered_with(selector) {
            return Err(misuse::not_registered());
        }
        self.selector = 0;
        match selector.deregister(self.fd) {
            // The owner has the descriptor open, so the kernel has dropped the registration itself.
            Err(error) if !sys::Queue::IS_EXACT && error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    #[inline(always)]
    fn is_registered_with(&self, selector: &Selector) -> bool {
        !SourceRegistration::CHECKS_SELECTOR || self.selector == selector.core().id
    }

    pub(crate) fn release(self) {}

    #[inline(always)]
    pub(crate) fn note_write(&self) {}
}

#[inline(always)]
pub(crate) fn settle() {}

pub(crate) fn while_no_fork<T>(_: &str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    act()
}

pub(crate) fn add_pair(_: RawFd, _: RawFd) -> io::Result<()> {
    Ok(())
}

pub(crate) fn add_timer<T: AsRawFd>(make: impl FnOnce() -> io::Result<T>, _: &Arc<TimerState>) -> io::Result<T> {
    make()
}
