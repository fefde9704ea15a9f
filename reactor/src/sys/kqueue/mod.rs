//! kqueue(2).
//!
//! A kqueue knows a registration by filter and descriptor: what is one registration here is up to two *knotes* there, one to
//! read and one to write. Adding one that is there changes it, and closing a descriptor removes its knotes, whoever holds a
//! duplicate.
//!
//! Everything between this backend and the system goes through [`kernel`], a handful of calls. With `--cfg forkio_kqueue`
//! the backend runs on Linux, for tests: over a model of the system, or with `--cfg forkio_libkqueue` too over a library. With
//! `--cfg forkio_wake_pipe` wakers are what they are where the system has no `EVFILT_USER`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
#[cfg(feature = "cponfork")]
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fmt, process, ptr};

use crate::{Interest, Token};

#[cfg_attr(all(forkio_kqueue, not(forkio_libkqueue)), path = "model/mod.rs")]
pub mod kernel;

#[cfg(feature = "cponfork")]
mod copy;
mod own;
#[cfg(feature = "os-ext")]
mod process_handle;
#[cfg(feature = "os-ext")]
mod signals;
pub(crate) mod timer;
#[cfg_attr(any(target_os = "netbsd", target_os = "openbsd", forkio_libkqueue, forkio_wake_pipe), path = "wake_pipe.rs")]
#[cfg_attr(
    not(any(target_os = "netbsd", target_os = "openbsd", forkio_libkqueue, forkio_wake_pipe)),
    path = "wake_event.rs"
)]
mod wake;

#[cfg(feature = "cponfork")]
pub(crate) use self::copy::QueueCopy;
#[cfg(feature = "cponfork")]
pub(crate) use self::own::{Remakes, kind};
pub(crate) use self::wake::WakeSignal;
#[cfg(feature = "os-ext")]
pub(crate) use self::{process_handle::ProcessHandle, signals::SignalQueue, timer::Timer};

use self::kernel::{EV_ADD, EV_CLEAR, EV_DELETE, EV_ENABLE, EV_EOF, EV_ERROR, EV_RECEIPT, EVFILT_READ, EVFILT_WRITE};

/// A `struct kevent`: a change to be made, or an event.
#[derive(Clone)]
#[repr(transparent)]
pub(crate) struct Event(kernel::Kevent);

// SAFETY: what makes it neither by itself is `udata`, a pointer only by its type: it is a token here.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

pub(crate) type Events = Vec<Event>;

impl Event {
    fn new(ident: usize, filter: kernel::Filter, flags: kernel::Flags, token: Token) -> Event {
        Event(kernel::kevent_of(ident, filter, flags, token.0))
    }

    /// The errno that a change was answered with; 0: it was made.
    fn errno(&self) -> i32 {
        if self.0.flags & EV_ERROR != 0 { self.0.data as i32 } else { 0 }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        event::debug_details(f, self)
    }
}

/// A kqueue.
///
/// Not an `OwnedFd`: a kernel that does not copy it on fork leaves the number unused in the child, where it may stand for
/// something else by the time that the queue is dropped.
#[derive(Debug)]
pub(crate) struct Queue {
    fd: RawFd,
    /// The process that the number is known to stand for a queue in.
    #[cfg(feature = "cponfork")]
    owner: AtomicU32,
}

impl Queue {
    /// The kernel overwrites a registration that is made twice, and takes back one that it has no use for: a pipe's whose
    /// other end is gone.
    pub(crate) const IS_EXACT: bool = false;

    pub(crate) fn new() -> io::Result<Queue> {
        #[cfg(feature = "cponfork")]
        let fd = copy::create()?;
        #[cfg(not(feature = "cponfork"))]
        let fd = kernel::kqueue()?;
        Ok(Queue {
            fd,
            #[cfg(feature = "cponfork")]
            owner: AtomicU32::new(process::id()),
        })
    }

    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let (list, room) = (events.as_mut_ptr().cast::<kernel::Kevent>(), events.capacity());
        // SAFETY: `Event` is `repr(transparent)`, and the kernel writes no more events than there is room for.
        let count = unsafe { kernel::kevent(self.fd, ptr::null(), 0, list, room, timeout) }?;
        // SAFETY: the kernel has initialised the first `count` events.
        unsafe { events.set_len(count) };
        Ok(())
    }

    /// Overwrites a registration that is there.
    pub(crate) fn add(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut knotes = knotes(fd, token, ADD)?;
        let wanted = wanted(&mut knotes, interest);
        apply(self.fd, wanted)?;
        let result = wanted.iter().try_for_each(|change| check(change, &[IGNORED_BY_ADD]));
        if result.is_err() {
            // One of two may be there.
            let _ = self.delete(fd);
        }
        result
    }

    /// Adds a registration that is not there.
    pub(crate) fn modify(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let mut changes = knotes(fd, token, DELETE)?;
        for change in wanted(&mut changes, interest) {
            change.0.flags = ADD;
        }
        apply(self.fd, &mut changes)?;
        // What it was registered for before nobody knows: what is to go may not be there.
        changes.iter().try_for_each(|change| check(change, &[IGNORED_BY_ADD, libc::ENOENT]))
    }

    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        if self.find(knotes(fd, Token(0), DELETE)?, &[libc::ENOENT])? {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOENT))
        }
    }

    /// Whether there is a registration for what is open under this number now, with this token.
    #[cfg(feature = "cponfork")]
    pub(crate) fn holds(&self, fd: RawFd, token: Token, _: Interest) -> io::Result<bool> {
        // Nothing is disabled here, so enabling only asks. Like any change it sets the token, and reports anew what is
        // ready.
        self.find(knotes(fd, token, EV_ENABLE | EV_RECEIPT)?, &[libc::ENOENT, libc::EBADF])
    }

    /// Makes changes to both knotes, and says whether one of them is there.
    fn find(&self, mut changes: [Event; 2], ignored: &[i32]) -> io::Result<bool> {
        apply(self.fd, &mut changes)?;
        changes.iter().try_for_each(|change| check(change, ignored))?;
        Ok(changes.iter().any(|change| change.errno() == 0))
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the queue lives, in the process that it belongs to.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        #[cfg(feature = "cponfork")]
        if self.owner.load(Ordering::Relaxed) != process::id() {
            return;
        }
        kernel::close(self.fd);
    }
}

/// Edge-triggered. Each change is answered, made or not.
const ADD: kernel::Flags = EV_ADD | EV_CLEAR | EV_RECEIPT;
const DELETE: kernel::Flags = EV_DELETE | EV_RECEIPT;

/// macOS 10.10 and 10.11 give EPIPE for a pipe whose other end is gone, and report it all the same (mio issue 582).
const IGNORED_BY_ADD: i32 = libc::EPIPE;

/// The two knotes of a descriptor, to read and to write.
fn knotes(fd: RawFd, token: Token, flags: kernel::Flags) -> io::Result<[Event; 2]> {
    // A negative number would be taken for a large one.
    let ident = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    Ok([EVFILT_READ, EVFILT_WRITE].map(|filter| Event::new(ident, filter, flags, token)))
}

/// Those of the two that an interest asks for. (Requests of aio(4) name the queue themselves, and priority readiness is
/// nothing that a kqueue has.)
fn wanted(knotes: &mut [Event; 2], interest: Interest) -> &mut [Event] {
    match (interest.is_readable(), interest.is_writable()) {
        (true, true) => knotes,
        (true, false) => &mut knotes[..1],
        (false, true) => &mut knotes[1..],
        (false, false) => &mut [],
    }
}

/// Makes changes, and replaces each by its answer.
fn apply(queue: RawFd, changes: &mut [Event]) -> io::Result<()> {
    let list = changes.as_mut_ptr().cast::<kernel::Kevent>();
    // SAFETY: `Event` is `repr(transparent)`. One list for both is what the manual allows: each change is read before
    // something is written to its place.
    match unsafe { kernel::kevent(queue, list, changes.len(), list, changes.len(), Some(Duration::ZERO)) } {
        Ok(_) => Ok(()),
        // All changes have been made, says the manual.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

fn check(answer: &Event, ignored: &[i32]) -> io::Result<()> {
    match answer.errno() {
        0 => Ok(()),
        errno if ignored.contains(&errno) => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

pub(crate) mod event {
    //! Reads the events of kevent(2).

    use super::kernel::{EVFILT_AIO, EVFILT_LIO, EVFILT_USER};
    use super::*;

    pub(crate) fn token(event: &Event) -> Token {
        Token(event.0.udata as usize)
    }

    pub(crate) fn is_readable(event: &Event) -> bool {
        event.0.filter == EVFILT_READ || event.0.filter == EVFILT_USER
    }

    pub(crate) fn is_writable(event: &Event) -> bool {
        event.0.filter == EVFILT_WRITE
    }

    /// With EV_EOF a socket's error, if there is one, is in `fflags`.
    pub(crate) fn is_error(event: &Event) -> bool {
        has(event, EV_ERROR) || (has(event, EV_EOF) && event.0.fflags != 0)
    }

    pub(crate) fn is_read_closed(event: &Event) -> bool {
        event.0.filter == EVFILT_READ && has(event, EV_EOF)
    }

    pub(crate) fn is_write_closed(event: &Event) -> bool {
        event.0.filter == EVFILT_WRITE && has(event, EV_EOF)
    }

    /// A kqueue has no priority readiness.
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

    pub(crate) fn debug_details(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
        // Copies, because the fields of a packed structure cannot be borrowed.
        f.debug_struct("kevent")
            .field("ident", &{ event.0.ident })
            .field("filter", &event.0.filter)
            .field("flags", &format_args!("{:#x}", event.0.flags))
            .field("fflags", &format_args!("{:#x}", event.0.fflags))
            .field("data", &{ event.0.data })
            .field("udata", &(event.0.udata as usize))
            .finish()
    }
}
