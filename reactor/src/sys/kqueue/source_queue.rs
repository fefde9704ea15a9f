//! Queues of one source each: a timer, a set of signals, or a process. Another kqueue can watch a kqueue's descriptor. So
//! such a source is a descriptor, as on Linux, and the rest of the crate needs no special case.
//!
//! These queues lack `KQUEUE_CPONFORK`, so no kernel copies them: the child opens each one again, at its descriptor. Some
//! kernels do not copy queues with timers safely (FreeBSD 15.1 before July 2026: CVE-2026-58083). This crate needs no list of
//! them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::copy::{errno, put_at};
use super::kernel::{self, EV_ADD, EV_DELETE, EV_ONESHOT, EV_RECEIPT, EVFILT_TIMER};
use super::{Event, apply, change, check, is_queue, receive};
use crate::Token;
use crate::lock::{Guard, Lock};
use crate::misuse;
use crate::source_kind::SourceKind;
use crate::sys::{descriptor, syscall};
use crate::timer_state::{Clock, Setting, TimerState};

/// The kernel queue of one source.
#[derive(Debug)]
pub(super) struct SourceQueue(pub(super) Arc<ListedQueue>);

/// The part of a source's queue that forks need.
#[derive(Debug)]
pub(crate) struct ListedQueue {
    fd: RawFd,
    /// The process whose queue is at the descriptor.
    owner: AtomicU32,
    kind: SourceKind,
    contents: Contents,
}

#[derive(Debug)]
pub(super) enum Contents {
    Events(Vec<Event>),
    /// A timer, which gives an event at the first expiration that the owner has not taken.
    Timer(Arc<TimerState>),
}

/// All queues of this kind: children open them again. A planned fork holds the lock.
static LISTED: Lock<Vec<Arc<ListedQueue>>> = Lock::new(Vec::new());

pub(crate) type RemakesLock = Guard<Vec<Arc<ListedQueue>>>;

impl SourceQueue {
    pub(super) fn new(kind: SourceKind, contents: Contents) -> io::Result<SourceQueue> {
        let fd = kernel::kqueue()?;
        // From now on an error closes the queue.
        let queue = SourceQueue(Arc::new(ListedQueue { fd, owner: AtomicU32::new(process::id()), kind, contents }));
        queue.0.fill()?;
        Remake::lock().push(Arc::clone(&queue.0));
        Ok(queue)
    }

    /// Replaces the queue's timer with `add`, or removes it, and forgets past expirations.
    pub(super) fn arm(&self, add: Option<Event>) -> io::Result<()> {
        let delete = Event::new(0, EVFILT_TIMER, EV_DELETE, Token(0));
        let mut changes = [Some(delete), add].into_iter().flatten().collect::<Vec<_>>();
        changes.iter_mut().for_each(|change| change.0.flags |= EV_RECEIPT);
        apply(self.0.fd, &mut changes)?;
        changes.iter().try_for_each(|change| check(change, &[libc::ENOENT]))
    }

    /// Discards the queue's events, so that new ones can come.
    pub(super) fn drain(&self) -> io::Result<()> {
        let mut events = super::Events::with_capacity(16);
        loop {
            match receive(self.0.fd, &mut events, Some(Duration::ZERO)) {
                Ok(()) if events.len() == events.capacity() => {}
                Ok(()) => return Ok(()),
                // The descriptor is not a queue any more. FreeBSD returns EINVAL; the manual says EBADF.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL)) => {
                    return Err(misuse::severed());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for SourceQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd
    }
}

impl Drop for SourceQueue {
    fn drop(&mut self) {
        Remake::lock().retain(|listed| !Arc::ptr_eq(listed, &self.0));
        if self.0.owner.load(Ordering::Relaxed) == process::id() {
            descriptor::close(self.0.fd);
        }
    }
}

impl ListedQueue {
    fn fill(&self) -> io::Result<()> {
        match &self.contents {
            Contents::Events(events) => events.iter().try_for_each(|event| change(self.fd, event)),
            Contents::Timer(state) => match state.rest() {
                Some(Setting { first, .. }) => change(self.fd, &expires_at(first, state.clock)),
                None => Ok(()),
            },
        }
    }

    /// Gives a queue of signals an event if one of its signals is pending: the kernel reports only signals that arrive later.
    pub(super) fn notice_pending_signals(&self) -> io::Result<()> {
        self.pending_signal()?.map_or(Ok(()), |_| change(self.fd, &expired_timer()))
    }

    /// Returns a pending signal of this queue, if there is one.
    pub(super) fn pending_signal(&self) -> io::Result<Option<i32>> {
        let Contents::Events(events) = &self.contents else { return Ok(None) };
        let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the kernel fills the set.
        syscall!(sigpending(pending.as_mut_ptr()))?;
        // SAFETY: the call has succeeded, so the set is filled.
        let pending = unsafe { pending.assume_init() };
        // SAFETY: the set is initialised.
        let is_pending = |signal: &i32| unsafe { libc::sigismember(&pending, *signal) } == 1;
        Ok(events.iter().map(|event| event.0.ident as i32).find(is_pending))
    }
}

/// Returns the change that adds a timer which has expired.
pub(super) fn expired_timer() -> Event {
    expires_at(0, Clock::Monotonic)
}

/// Returns the change that adds a timer which expires at `time`, in nanoseconds of the clock.
pub(super) fn expires_at(time: u64, clock: Clock) -> Event {
    let (unit, nanos_of_unit, absolute) = kernel::TIMER;
    let (nanos, absolute) = match absolute {
        Some(absolute) if clock == Clock::Realtime => (time, absolute),
        _ => (time.saturating_sub(clock.nanos()), 0),
    };
    let mut event = Event::new(0, EVFILT_TIMER, EV_ADD | EV_ONESHOT, Token(0));
    event.0.fflags = unit | absolute;
    event.0.data = nanos.div_ceil(nanos_of_unit).clamp(1, i64::MAX as u64) as _;
    event
}

/// Returns the kind of the source whose queue is at a descriptor.
pub(crate) fn kind(fd: RawFd) -> Option<SourceKind> {
    let is_at = |listed: &&Arc<ListedQueue>| listed.fd == fd && listed.owner.load(Ordering::Relaxed) == process::id();
    Remake::lock().iter().find(is_at).map(|listed| listed.kind)
}

/// A queue that a child opens again.
#[derive(Debug)]
pub(crate) struct Remake(Arc<ListedQueue>);

impl Remake {
    /// Whether this backend has queues that a child must open again.
    pub(crate) const EXISTS: bool = true;

    /// Keeps other threads from adding and removing queues. A planned fork holds the guard from prepare to its end.
    pub(crate) fn lock() -> RemakesLock {
        if LISTED.is_mine() {
            // SAFETY: the thread forks, and borrows nothing from the guard that the fork holds.
            return unsafe { LISTED.again() };
        }
        LISTED.lock()
    }

    /// Frees the lock in the child of an unplanned fork if a thread of the parent held it. In that case, forgets all queues and
    /// returns `false`.
    ///
    /// # Safety
    ///
    /// Those of [`Lock::free_if_orphaned`].
    pub(crate) unsafe fn free_lock() -> bool {
        // SAFETY: the caller's promise is the same.
        unsafe { LISTED.free_if_orphaned(Vec::new()) }
    }

    /// Lists the queues that the child must open again. Call it before a planned fork, or in the child of an unplanned one.
    pub(crate) fn list(list: &mut Vec<Remake>) {
        list.clear();
        // An earlier fork may have severed a queue: its descriptor no longer refers to a queue. In the child of an unplanned
        // fork the descriptor is closed, unless it refers to another file.
        let is_kept = |listed: &&Arc<ListedQueue>| match listed.owner.load(Ordering::Relaxed) == process::id() {
            true => is_queue(listed.fd),
            false => !descriptor::is_open(listed.fd),
        };
        list.extend(Remake::lock().iter().filter(is_kept).cloned().map(Remake));
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.fd
    }

    /// Opens the queue again in a child, unless the child has done so already. Async-signal-safe.
    pub(crate) fn remake(&self) -> Result<(), i32> {
        let listed = &self.0;
        if listed.owner.load(Ordering::Relaxed) == process::id() {
            return Ok(());
        }
        // The source uses only its own descriptor, so a queue at another one is useless.
        let fd = put_at(listed.fd, kernel::kqueue())?;
        if fd != listed.fd {
            descriptor::close(fd);
            return Err(libc::EBADF);
        }
        listed.owner.store(process::id(), Ordering::Relaxed);
        match listed.fill().map_err(errno) {
            // The watched process has ended meanwhile.
            Err(libc::ESRCH) => change(listed.fd, &expired_timer()).map_err(errno)?,
            result => result?,
        }
        // A signal that arrived since the fork is pending without an event.
        if listed.kind == SourceKind::Signal { listed.notice_pending_signals().map_err(errno) } else { Ok(()) }
    }
}
