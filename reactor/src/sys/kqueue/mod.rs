//! Kernel queues with kqueue(2).
//!
//! A kqueue holds *knotes*, and identifies each by filter and descriptor. So a registration is up to two knotes: one to
//! read and one to write. Adding an existing knote changes it. Closing a descriptor removes its knotes, even if another
//! process holds a duplicate.
//!
//! This backend reaches kqueues only through the calls of [`kernel`], so that it runs on Linux with `--cfg forkio_kqueue`, for
//! tests. With `--cfg forkio_wake_pipe` wakers are pipes, as on a system without `EVFILT_USER`. See CONTRIBUTING.md.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fmt, ptr};

use super::{Events, Queue, descriptor, process};
use crate::source_kind::SourceKind;
use crate::{Interest, Token};

mod copy;
mod kernel;
#[cfg(feature = "os-ext")]
mod process_handle;
#[cfg(feature = "os-ext")]
mod signals;
mod source_queue;
pub(crate) mod timer;
#[cfg_attr(any(target_os = "netbsd", target_os = "openbsd", forkio_libkqueue, forkio_wake_pipe), path = "wake_pipe.rs")]
#[cfg_attr(
    not(any(target_os = "netbsd", target_os = "openbsd", forkio_libkqueue, forkio_wake_pipe)),
    path = "wake_event.rs"
)]
mod wake;

pub(crate) use self::copy::ChildQueue;
pub(crate) use self::kernel::{fstat, socket_pcb};
pub(crate) use self::source_queue::{Remake, RemakesLock};
pub(crate) use self::wake::WakeSignal;
#[cfg(feature = "os-ext")]
pub(crate) use self::{process_handle::ProcessHandle, signals::SignalQueue, timer::Timer};

use self::kernel::{EV_ADD, EV_CLEAR, EV_DELETE, EV_ENABLE, EV_EOF, EV_ERROR, EV_RECEIPT, EVFILT_READ, EVFILT_WRITE};

/// A `struct kevent`: a change to be made, or an event.
#[derive(Clone)]
#[repr(transparent)]
pub(crate) struct Event(kernel::Kevent);

// SAFETY: only the type of `udata`, a pointer, keeps an `Event` from being `Send` and `Sync`. Here, `udata` is a token.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    fn new(ident: usize, filter: kernel::Filter, flags: kernel::Flags, token: Token) -> Event {
        Event(kernel::kevent_of(ident, filter, flags, token.0))
    }

    /// Returns the errno of a change, or 0 if the kernel made the change.
    fn errno(&self) -> i32 {
        if self.0.flags & EV_ERROR != 0 { self.0.data as i32 } else { 0 }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The braces make copies, because the fields of a packed structure cannot be borrowed.
        f.debug_struct("kevent")
            .field("ident", &{ self.0.ident })
            .field("filter", &self.0.filter)
            .field("flags", &format_args!("{:#x}", self.0.flags))
            .field("fflags", &format_args!("{:#x}", self.0.fflags))
            .field("data", &{ self.0.data })
            .field("udata", &(self.0.udata as usize))
            .finish()
    }
}

impl Queue {
    /// `false`: the kernel overwrites a registration that is made twice. It also drops the registration of a pipe whose
    /// other end is closed, because no event can follow.
    pub(crate) const IS_EXACT: bool = false;

    /// Only some kernels copy kqueues on fork, and a child that is at its limit of queues (RLIMIT_KQUEUES) lacks the copy.
    pub(crate) const MAY_BE_ABSENT_AFTER_FORK: bool = true;

    pub(crate) fn open(&self) -> io::Result<()> {
        self.set(copy::create()?);
        Ok(())
    }

    /// Closes the queue if it belongs to this process. If the kernel does not copy queues on fork, the descriptor is unused in
    /// a child, which may have opened another file at it.
    pub(crate) fn close(&self) {
        let fd = self.fd();
        self.forget();
        if self.owner.load(Ordering::Relaxed) == process::id() {
            descriptor::close(fd);
        }
    }

    pub(crate) fn is_there_after_fork() -> bool {
        copy::is_copying()
    }

    #[inline]
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        receive(self.usable_fd(), events, timeout)
    }

    pub(crate) fn add(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut knotes = knotes(fd, token, ADD)?;
        let wanted = wanted(&mut knotes, interest);
        apply(self.usable_fd(), wanted)?;
        let result = wanted.iter().try_for_each(|change| check_add(change, &[IGNORED_BY_ADD]));
        if result.is_err() {
            // The kernel may have added only one of the two knotes.
            let _ = self.delete(fd);
        }
        result
    }

    pub(crate) fn modify(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut changes = knotes(fd, token, DELETE)?;
        for change in wanted(&mut changes, interest) {
            change.0.flags = ADD;
        }
        apply(self.usable_fd(), &mut changes)?;
        // The previous interest is not known, so the knote to delete may not exist.
        changes.iter().try_for_each(|change| check_add(change, &[IGNORED_BY_ADD, libc::ENOENT]))
    }

    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        let exists = self.find(knotes(fd, Token(0), DELETE)?, &[libc::ENOENT])?;
        if exists { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOENT)) }
    }

    /// Whether there is a registration for the file that is open at `fd` now. The caller knows that the registration has
    /// this token. The call arms the registration again: a source that is ready gives an event.
    pub(crate) fn holds(&self, fd: RawFd, token: Token) -> io::Result<bool> {
        // No knote is ever disabled, so enabling one only arms it again.
        self.find(knotes(fd, token, EV_ENABLE | EV_RECEIPT)?, &[libc::ENOENT, libc::EBADF])
    }

    /// In the child of an unplanned fork, whether `fd` still refers to a file of the kind that was registered. The child
    /// has no queue, or a copy that another thread may have been changing at the fork.
    pub(crate) fn still_has(&self, fd: RawFd, _: Token, kind: SourceKind) -> io::Result<bool> {
        is_still_own(fd, kind)
    }

    /// Makes changes to both knotes, and returns whether one of them exists.
    fn find(&self, mut changes: [Event; 2], ignored: &[i32]) -> io::Result<bool> {
        apply(self.usable_fd(), &mut changes)?;
        changes.iter().try_for_each(|change| check(change, ignored))?;
        Ok(changes.iter().any(|change| change.errno() == 0))
    }
}

/// The flags that add an edge-triggered knote. The kernel answers each change, even if it succeeds.
const ADD: kernel::Flags = EV_ADD | EV_CLEAR | EV_RECEIPT;
const DELETE: kernel::Flags = EV_DELETE | EV_RECEIPT;

/// An error that does not prevent events: macOS 10.10 and 10.11 return EPIPE for a pipe whose other end is closed, but
/// report its events (mio issue 582).
const IGNORED_BY_ADD: i32 = libc::EPIPE;

/// Returns the two knotes of a descriptor, to read and to write.
fn knotes(fd: RawFd, token: Token, flags: kernel::Flags) -> io::Result<[Event; 2]> {
    // A cast would turn a negative descriptor into a large one.
    let ident = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    Ok([EVFILT_READ, EVFILT_WRITE].map(|filter| Event::new(ident, filter, flags, token)))
}

/// Returns the knotes that an interest needs. AIO, LIO and priority interests need none: a request of aio(4) names its queue
/// itself, and a kqueue has no priority readiness.
fn wanted(knotes: &mut [Event; 2], interest: Interest) -> &mut [Event] {
    match (interest.is_readable(), interest.is_writable()) {
        (true, true) => knotes,
        (true, false) => &mut knotes[..1],
        (false, true) => &mut knotes[1..],
        (false, false) => &mut [],
    }
}

fn receive(queue: RawFd, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
    events.clear();
    let (list, room) = (events.as_mut_ptr().cast::<kernel::Kevent>(), events.capacity());
    // SAFETY: `Event` is `repr(transparent)`, and the kernel writes no more events than there is room for.
    let count = unsafe { kernel::kevent(queue, ptr::null(), 0, list, room, timeout) }?;
    // SAFETY: the kernel has initialised the first `count` events.
    unsafe { events.set_len(count) };
    Ok(())
}

/// Makes a change without `EV_RECEIPT`. Async-signal-safe.
fn change(queue: RawFd, change: &Event) -> io::Result<()> {
    // SAFETY: the kernel reads one change, and has room for no event. An error of the change becomes the error of the call.
    unsafe { kernel::kevent(queue, &change.0, 1, ptr::null_mut(), 0, Some(Duration::ZERO)) }?;
    Ok(())
}

/// Makes changes, and replaces each with the kernel's answer.
fn apply(queue: RawFd, changes: &mut [Event]) -> io::Result<()> {
    let list = changes.as_mut_ptr().cast::<kernel::Kevent>();
    // SAFETY: `Event` is `repr(transparent)`. The manual allows one list for changes and answers: the kernel reads each
    // change before it writes an answer to its place.
    match unsafe { kernel::kevent(queue, list, changes.len(), list, changes.len(), Some(Duration::ZERO)) } {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        // The call has made all changes even if a signal interrupted it, as the manual says.
        _ => Ok(()),
    }
}

/// Whether the descriptor is a queue. (fstat(2) may report it as a pipe.) Async-signal-safe.
pub(crate) fn is_queue(fd: RawFd) -> bool {
    receive(fd, &mut Events::new(), Some(Duration::ZERO)).is_ok()
}

/// Whether the descriptor still refers to an object of this kind: the process may have closed that object since the fork. A
/// dead endpoint that an earlier fork has put in its place counts too.
pub(crate) fn is_still_own(fd: RawFd, kind: SourceKind) -> io::Result<bool> {
    Ok(descriptor::has_kind(fd, kind)? || descriptor::is_unix_stream(fd))
}

/// Returns the kind of a bare descriptor if fstat(2) cannot tell it: fstat(2) may report a queue as a pipe.
pub(crate) fn bare_kind(fd: RawFd) -> Option<SourceKind> {
    source_queue::kind(fd).or_else(|| is_queue(fd).then_some(SourceKind::Queue))
}

/// Whether the kernel refused to watch a queue for writing, as FreeBSD does. A queue, such as that of a timer, is never
/// writable.
fn is_write_of_a_queue(answer: &Event) -> bool {
    answer.errno() == libc::EINVAL && answer.0.filter == EVFILT_WRITE && is_queue(answer.0.ident as RawFd)
}

fn check_add(answer: &Event, ignored: &[i32]) -> io::Result<()> {
    if is_write_of_a_queue(answer) { Ok(()) } else { check(answer, ignored) }
}

fn check(answer: &Event, ignored: &[i32]) -> io::Result<()> {
    let errno = answer.errno();
    if errno == 0 || ignored.contains(&errno) { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// No system with a kqueue lists the registrations of a queue, so forks do not handle queues made by other code.
#[cfg(feature = "cponfork")]
pub(super) mod listing {
    use super::*;
    use crate::sys::adoption::{Listed, OpenDescriptors, Registered};

    pub(crate) const CAN_LIST: bool = false;

    #[derive(Debug, Default)]
    pub(crate) struct SocketPeers {}

    impl SocketPeers {
        pub(crate) fn of(&mut self, _: u64) -> Option<u64> {
            None
        }
    }

    pub(crate) fn list(_: RawFd) -> io::Result<Vec<Listed>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn registered(_: &Queue, _: &[Listed]) -> io::Result<Vec<Registered>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn open_descriptors(_: impl Fn(RawFd) -> bool) -> io::Result<OpenDescriptors> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn is_same_queue(_: RawFd, _: RawFd) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(crate) mod event {
    //! Reads the events of kevent(2).

    use super::kernel::{EVFILT_AIO, EVFILT_LIO, EVFILT_USER};
    use super::*;

    pub(crate) fn token(event: &Event) -> Token {
        Token(event.0.udata as usize)
    }

    pub(crate) fn wake(token: Token) -> Event {
        Event::new(0, super::wake::FILTER, 0, token)
    }

    pub(crate) fn is_wake(event: &Event, token: Token) -> bool {
        event.0.filter == super::wake::FILTER && self::token(event) == token
    }

    pub(crate) fn is_readable(event: &Event) -> bool {
        event.0.filter == EVFILT_READ || event.0.filter == EVFILT_USER
    }

    pub(crate) fn is_writable(event: &Event) -> bool {
        event.0.filter == EVFILT_WRITE
    }

    /// Whether there is an error. With EV_EOF a socket's error is in `fflags`.
    pub(crate) fn is_error(event: &Event) -> bool {
        has(event, EV_ERROR) || (has(event, EV_EOF) && event.0.fflags != 0)
    }

    pub(crate) fn is_read_closed(event: &Event) -> bool {
        event.0.filter == EVFILT_READ && has(event, EV_EOF)
    }

    pub(crate) fn is_write_closed(event: &Event) -> bool {
        event.0.filter == EVFILT_WRITE && has(event, EV_EOF)
    }

    /// Returns `false`: a kqueue has no priority readiness.
    pub(crate) fn is_priority(_: &Event) -> bool {
        false
    }

    pub(crate) fn is_aio(event: &Event) -> bool {
        EVFILT_AIO == Some(event.0.filter)
    }

    pub(crate) fn is_lio(event: &Event) -> bool {
        EVFILT_LIO == Some(event.0.filter)
    }

    fn has(event: &Event, flag: kernel::Flags) -> bool {
        event.0.flags & flag != 0
    }
}
