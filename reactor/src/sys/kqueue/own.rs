//! Queues that stand for one source: a timer, a set of signals, a process.
//!
//! A kqueue is a descriptor that can be watched by another one, so such a source is a descriptor as it is on Linux, and the
//! rest of the crate need not know.
//!
//! None of them is copied by a kernel on fork: each is opened anew by the child, at its number. So no kernel timer is ever in
//! a queue that is being copied, which is not safe on every kernel that copies (FreeBSD 15.1 before July 2026:
//! CVE-2026-58083), and there is no list of fixed releases to keep.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::kernel::{self, EV_ADD, EV_DELETE, EV_ONESHOT, EV_RECEIPT, EVFILT_TIMER};
use super::{Event, apply, check};
use crate::Token;
use crate::schedule::Clock;
use crate::source_kind::SourceKind;

/// A queue of a source's own.
#[derive(Debug)]
pub(super) struct OwnQueue(Arc<Own>);

/// What forks need to know of it.
#[derive(Debug)]
pub(crate) struct Own {
    fd: RawFd,
    /// The process that the number is known to stand for the queue in.
    owner: AtomicU32,
    kind: SourceKind,
    contents: Contents,
}

/// What is in the queue.
#[derive(Debug)]
pub(super) enum Contents {
    Events(Vec<Event>),
    Timer(Alarm),
}

/// A timer's next expiration that nobody has taken, in nanoseconds of its clock; 0: none.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) clock: Clock,
    pub(super) next: AtomicU64,
    pub(super) period: AtomicU64,
}

/// All there are, to be opened anew by children. Only locked where forks are kept out.
static ALL: Mutex<Vec<Arc<Own>>> = Mutex::new(Vec::new());

impl OwnQueue {
    pub(super) fn new(kind: SourceKind, contents: Contents) -> io::Result<OwnQueue> {
        let own = Own { fd: kernel::kqueue()?, owner: AtomicU32::new(process::id()), kind, contents };
        // From here on it is closed if something fails.
        let queue = OwnQueue(Arc::new(own));
        queue.0.fill()?;
        keeping_forks_out(|| all().push(Arc::clone(&queue.0)))?;
        Ok(queue)
    }

    pub(super) fn alarm(&self) -> Option<&Alarm> {
        match &self.0.contents {
            Contents::Timer(alarm) => Some(alarm),
            Contents::Events(_) => None,
        }
    }

    /// Arms the timer for its next expiration, and forgets what has expired.
    pub(super) fn arm(&self) -> io::Result<()> {
        let delete = Event::new(0, EVFILT_TIMER, EV_DELETE | EV_RECEIPT, Token(0));
        let add = self.alarm().and_then(Alarm::event);
        let mut changes = [Some(delete), add].into_iter().flatten().collect::<Vec<_>>();
        apply(self.0.fd, &mut changes)?;
        changes.iter().try_for_each(|change| check(change, &[libc::ENOENT]))
    }

    /// Takes events that nobody has any use for, so that there can be new ones.
    pub(super) fn drain(&self) -> io::Result<()> {
        let mut events = super::Events::with_capacity(16);
        let (list, room) = (events.as_mut_ptr().cast::<kernel::Kevent>(), events.capacity());
        // SAFETY: `Event` is `repr(transparent)`, and the kernel writes no more events than there is room for.
        let take = || unsafe { kernel::kevent(self.0.fd, std::ptr::null(), 0, list, room, Some(Duration::ZERO)) };
        loop {
            match take() {
                Ok(count) if count == room => {}
                Ok(_) => return Ok(()),
                // No queue any more: a dead endpoint.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
                    let text = "the source belongs to the process that this one was forked from";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether there is an event, which stays there.
    pub(super) fn is_ready(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.fd, events: libc::POLLIN, revents: 0 };
        loop {
            // A signal may interrupt it although it does not wait.
            // SAFETY: one structure.
            match crate::sys::syscall!(poll(&mut poll, 1, 0)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Ok(result? > 0),
            }
        }
    }
}

impl AsRawFd for OwnQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd
    }
}

impl AsFd for OwnQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as it lives, in the process that it belongs to.
        unsafe { BorrowedFd::borrow_raw(self.0.fd) }
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        // Between prepare and the end of a fork it stays in the list: for nothing but a queue that a child opens.
        let _ = keeping_forks_out(|| all().retain(|own| !Arc::ptr_eq(own, &self.0)));
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
        // SAFETY: one change, and room for no event: an error is returned as the call's own.
        unsafe { kernel::kevent(self.fd, &change, 1, std::ptr::null_mut(), 0, Some(Duration::ZERO)) }?;
        Ok(())
    }

    /// Whether its number stands for a queue in this process: an earlier fork may have severed it.
    #[cfg(feature = "cponfork")]
    fn is_here(&self) -> bool {
        // SAFETY: no change, and room for no event.
        let asked =
            unsafe { kernel::kevent(self.fd, std::ptr::null(), 0, std::ptr::null_mut(), 0, Some(Duration::ZERO)) };
        asked.is_ok()
    }

    /// Child: opens the queue at its number. Async-signal-safe.
    #[cfg(feature = "cponfork")]
    fn open_anew(&self) -> Result<(), i32> {
        let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EINVAL);
        super::copy::open_at(self.fd)?;
        self.owner.store(process::id(), Ordering::Relaxed);
        match self.fill().map_err(errno) {
            // A process that has ended meanwhile is no child's child.
            Err(libc::ESRCH) => Ok(()),
            result => result,
        }
    }
}

impl Alarm {
    /// The change that arms it.
    fn event(&self) -> Option<Event> {
        let next = Some(self.next.load(Ordering::Relaxed)).filter(|next| *next != 0)?;
        let mut event = Event::new(0, EVFILT_TIMER, EV_ADD | EV_ONESHOT | EV_RECEIPT, Token(0));
        let (nanos, absolute) = match kernel::ABSOLUTE {
            Some(absolute) if self.clock == Clock::Realtime => (next, absolute),
            _ => (next.saturating_sub(super::timer::now(self.clock)), 0),
        };
        event.0.fflags = kernel::TIMER_UNIT.0 | absolute;
        event.0.data = nanos.div_ceil(kernel::TIMER_UNIT.1).clamp(1, i64::MAX as u64) as _;
        Some(event)
    }
}

/// What the source is whose queue stands at a number. To be called where forks are kept out.
#[cfg(feature = "cponfork")]
pub(crate) fn kind(fd: RawFd) -> Option<SourceKind> {
    all().iter().find(|own| own.fd == fd && own.owner.load(Ordering::Relaxed) == process::id()).map(|own| own.kind)
}

fn all() -> std::sync::MutexGuard<'static, Vec<Arc<Own>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(feature = "cponfork")]
use crate::fork::keeping_forks_out;

#[cfg(not(feature = "cponfork"))]
fn keeping_forks_out<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    Ok(act())
}

/// The queues that a child opens anew.
#[cfg(feature = "cponfork")]
#[derive(Debug)]
pub(crate) struct Remakes(Vec<Arc<Own>>);

#[cfg(feature = "cponfork")]
impl Remakes {
    pub(crate) const fn new() -> Remakes {
        Remakes(Vec::new())
    }

    /// Parent, before the fork.
    pub(crate) fn prepare(&mut self) {
        self.0.clear();
        self.0.extend(all().iter().filter(|own| own.is_here()).cloned());
    }

    /// Their numbers.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(|own| own.fd)
    }

    /// Child: the numbers that could not be opened, with the errno. Async-signal-safe.
    pub(crate) fn remake(&self) -> impl Iterator<Item = (RawFd, i32)> {
        self.0.iter().filter_map(|own| own.open_anew().err().map(|errno| (own.fd, errno)))
    }
}
