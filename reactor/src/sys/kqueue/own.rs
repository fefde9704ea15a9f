//! Queues that stand for one source: a timer, a set of signals, a process.
//!
//! Another kqueue can watch a kqueue's descriptor. So such a source is a descriptor, as on Linux, and the rest of the crate
//! treats both alike.
//!
//! No kernel copies these queues on fork: the child opens each one again, at its descriptor. So the kernel never copies a
//! queue with a timer, which is not safe on every kernel (FreeBSD 15.1 before July 2026: CVE-2026-58083), and this crate
//! needs no list of fixed releases.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::copy::{errno, put_at};
use super::kernel::{self, EV_ADD, EV_DELETE, EV_ONESHOT, EV_RECEIPT, EVFILT_TIMER};
use super::{Event, apply, check, is_queue};
use crate::Token;
use crate::lock::{Guard, Lock};
use crate::source_kind::SourceKind;
use crate::sys::descriptor;
use crate::timer_state::Clock;

/// A queue of a source's own.
#[derive(Debug)]
pub(super) struct OwnQueue(Arc<Own>);

/// The state that forks need.
#[derive(Debug)]
pub(crate) struct Own {
    fd: RawFd,
    /// The process whose queue is at the descriptor.
    owner: AtomicU32,
    kind: SourceKind,
    contents: Contents,
}

/// The contents of the queue.
#[derive(Debug)]
pub(super) enum Contents {
    Events(Vec<Event>),
    Timer(Alarm),
}

/// A timer's first expiration that the owner has not taken, in nanoseconds of its clock; 0: the timer is not set.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) clock: Clock,
    pub(super) next: AtomicU64,
    pub(super) period: AtomicU64,
}

/// All queues of this kind: children open them again. A planned fork holds the lock.
static ALL: Lock<Vec<Arc<Own>>> = Lock::new(Vec::new());

pub(crate) type RemakesLock = Guard<Vec<Arc<Own>>>;

fn all() -> RemakesLock {
    if ALL.is_mine() {
        // SAFETY: the thread forks, and borrows nothing from the guard that the fork holds.
        return unsafe { ALL.again(false) };
    }
    ALL.lock()
}

impl OwnQueue {
    pub(super) fn new(kind: SourceKind, contents: Contents) -> io::Result<OwnQueue> {
        let fd = kernel::kqueue()?;
        // From now on an error closes the queue.
        let queue = OwnQueue(Arc::new(Own { fd, owner: AtomicU32::new(process::id()), kind, contents }));
        queue.0.fill()?;
        all().push(Arc::clone(&queue.0));
        Ok(queue)
    }

    pub(super) fn alarm(&self) -> Option<&Alarm> {
        match &self.0.contents {
            Contents::Timer(alarm) => Some(alarm),
            Contents::Events(_) => None,
        }
    }

    /// Arms the timer for its next expiration, and forgets past ones.
    pub(super) fn arm(&self) -> io::Result<()> {
        let delete = Event::new(0, EVFILT_TIMER, EV_DELETE | EV_RECEIPT, Token(0));
        let add = self.alarm().and_then(Alarm::event);
        let mut changes = [Some(delete), add].into_iter().flatten().collect::<Vec<_>>();
        apply(self.0.fd, &mut changes)?;
        changes.iter().try_for_each(|change| check(change, &[libc::ENOENT]))
    }

    /// Takes and drops events, so that new ones can come.
    pub(super) fn drain(&self) -> io::Result<()> {
        let mut events = super::Events::with_capacity(16);
        let (list, room) = (events.as_mut_ptr().cast::<kernel::Kevent>(), events.capacity());
        // SAFETY: `Event` is `repr(transparent)`, and the kernel writes no more events than there is room for.
        let take = || unsafe { kernel::kevent(self.0.fd, std::ptr::null(), 0, list, room, Some(Duration::ZERO)) };
        loop {
            match take() {
                Ok(count) if count == room => {}
                Ok(_) => return Ok(()),
                // The descriptor refers to a dead endpoint, no longer to a queue. FreeBSD returns EINVAL; the manual says
                // EBADF.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL)) => {
                    let text = "the source belongs to the process that this one was forked from";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the queue an event if one of its signals is pending: the kernel reports only signals that arrive later.
    pub(super) fn notice_pending_signals(&self) -> io::Result<()> {
        if self.0.is_signal_pending() { self.0.add(&expired_timer()) } else { Ok(()) }
    }

    /// Whether there is an event. It stays in the queue.
    #[cfg(feature = "os-ext")]
    pub(super) fn is_ready(&self) -> io::Result<bool> {
        descriptor::is_readable(self.0.fd)
    }
}

impl AsRawFd for OwnQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        all().retain(|own| !Arc::ptr_eq(own, &self.0));
        if self.0.owner.load(Ordering::Relaxed) == process::id() {
            kernel::close(self.0.fd);
        }
    }
}

impl Own {
    fn fill(&self) -> io::Result<()> {
        match &self.contents {
            Contents::Events(events) => events.iter().try_for_each(|event| self.add(event)),
            Contents::Timer(alarm) => alarm.event().map_or(Ok(()), |event| self.add(&event)),
        }
    }

    fn add(&self, event: &Event) -> io::Result<()> {
        let flags = event.0.flags & !EV_RECEIPT;
        let change = kernel::Kevent { flags, ..event.0 };
        // SAFETY: the kernel reads one change, and has room for no event. It returns an error of the change as the call's
        // own.
        unsafe { kernel::kevent(self.fd, &change, 1, std::ptr::null_mut(), 0, Some(Duration::ZERO)) }?;
        Ok(())
    }

    /// Child: opens the queue again. Async-signal-safe.
    fn remake(&self) -> Result<(), i32> {
        // The source knows no other descriptor.
        let fd = put_at(self.fd, kernel::kqueue())?;
        if fd != self.fd {
            kernel::close(fd);
            return Err(libc::EBADF);
        }
        self.owner.store(process::id(), Ordering::Relaxed);
        match self.fill().map_err(errno) {
            // A process that has ended meanwhile is not a child of this one.
            Err(libc::ESRCH) => return Ok(()),
            result => result?,
        }
        // A signal that arrived since the fork is pending without an event.
        if self.kind == SourceKind::Signal && self.is_signal_pending() {
            self.add(&expired_timer()).map_err(errno)?;
        }
        Ok(())
    }

    fn is_signal_pending(&self) -> bool {
        let Contents::Events(events) = &self.contents else { return false };
        let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the kernel fills the set, for which all zero is a valid value too.
        let pending = unsafe {
            libc::sigpending(pending.as_mut_ptr());
            pending.assume_init()
        };
        // SAFETY: the set is initialised.
        events.iter().any(|event| unsafe { libc::sigismember(&pending, event.0.ident as i32) } == 1)
    }
}

/// Returns the change that adds a timer which has expired.
pub(super) fn expired_timer() -> Event {
    let mut expired = Event::new(0, EVFILT_TIMER, EV_ADD | EV_ONESHOT, Token(0));
    (expired.0.fflags, expired.0.data) = (kernel::TIMER_UNIT.0, 1);
    expired
}

impl Alarm {
    /// Returns the change that arms the timer; `None` if it is not set.
    fn event(&self) -> Option<Event> {
        let next = Some(self.next.load(Ordering::Relaxed)).filter(|next| *next != 0)?;
        let mut event = Event::new(0, EVFILT_TIMER, EV_ADD | EV_ONESHOT | EV_RECEIPT, Token(0));
        let (nanos, absolute) = match kernel::ABSOLUTE {
            Some(absolute) if self.clock == Clock::Realtime => (next, absolute),
            _ => (next.saturating_sub(self.clock.nanos()), 0),
        };
        event.0.fflags = kernel::TIMER_UNIT.0 | absolute;
        event.0.data = nanos.div_ceil(kernel::TIMER_UNIT.1).clamp(1, i64::MAX as u64) as _;
        Some(event)
    }
}

/// Returns the kind of the source whose queue is at a descriptor.
pub(crate) fn kind(fd: RawFd) -> Option<SourceKind> {
    let is_at = |own: &&Arc<Own>| own.fd == fd && own.owner.load(Ordering::Relaxed) == process::id();
    all().iter().find(is_at).map(|own| own.kind)
}

/// The queues that a child opens again.
#[derive(Debug)]
pub(crate) struct Remakes(Vec<Arc<Own>>);

impl Remakes {
    /// Whether there may be such queues.
    pub(crate) const EXIST: bool = true;

    pub(crate) const fn new() -> Remakes {
        Remakes(Vec::new())
    }

    /// Keeps other threads from adding and removing queues. A planned fork holds the guard from prepare to its end.
    pub(crate) fn lock() -> RemakesLock {
        all()
    }

    /// In the child of an unplanned fork: frees the lock if a thread of the parent held it. What that thread was adding is
    /// lost.
    ///
    /// # Safety
    ///
    /// Those of [`Lock::free_if_orphaned`].
    pub(crate) unsafe fn free_lock() {
        // SAFETY: the caller's promise is the same.
        unsafe { ALL.free_if_orphaned(Vec::new()) };
    }

    /// Lists the queues that exist: before a planned fork, or in the child of an unplanned one.
    pub(crate) fn prepare(&mut self) {
        self.0.clear();
        // An earlier fork may have severed a queue: its descriptor no longer refers to a queue. In the child of an unplanned
        // fork the descriptor is closed, unless it refers to another file.
        let is_kept = |own: &&Arc<Own>| match own.owner.load(Ordering::Relaxed) == process::id() {
            true => is_queue(own.fd),
            false => !descriptor::is_open(own.fd),
        };
        self.0.extend(all().iter().filter(is_kept).cloned());
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(|own| own.fd)
    }

    pub(crate) fn contains(&self, fd: RawFd) -> bool {
        self.0.iter().any(|own| own.fd == fd)
    }

    /// Forgets a descriptor that is about to be closed.
    pub(crate) fn forget(&mut self, fd: RawFd) {
        self.0.retain(|own| own.fd != fd);
    }

    /// Child: opens the queues again, and returns the descriptors at which that failed, with the errno. Async-signal-safe.
    pub(crate) fn remake(&self) -> impl Iterator<Item = (RawFd, i32)> {
        self.0.iter().filter_map(|own| own.remake().err().map(|errno| (own.fd, errno)))
    }
}
