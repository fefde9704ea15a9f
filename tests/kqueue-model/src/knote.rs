//! One event of a queue: a knote, in the words of BSD kernels.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::linux::{self, Identity, identity, is_open, poll_now};
use crate::names::*;

/// The identity of a knote in its queue.
pub(crate) type Key = (Filter, usize);

#[derive(Debug)]
pub(crate) struct Knote {
    pub(crate) flags: Flags,
    pub(crate) fflags: u32,
    pub(crate) data: i64,
    pub(crate) udata: *mut libc::c_void,
    /// The data of the knote's entry in the queue's epoll instances.
    pub(crate) serial: u64,
    pub(crate) is_disabled: bool,
    /// Whether the knote is in its queue's list of active knotes.
    pub(crate) is_active: bool,
    pub(crate) watched: Watched,
    /// Whether the condition held when the process forked.
    pub(crate) held: bool,
}

// SAFETY: `udata` belongs to the program, and the model never follows it.
unsafe impl Send for Knote {}

#[derive(Debug)]
pub(crate) enum Watched {
    Descriptor(Object),
    User {
        is_triggered: bool,
    },
    /// Times are in nanoseconds of the monotonic clock. With period 0, the timer expires once.
    Timer {
        next: Option<u64>,
        period: u64,
        count: i64,
    },
    Signal {
        signals: Signals,
        count: i64,
    },
    /// `pidfd` is `None` for process 0.
    Process {
        pidfd: Option<OwnedFd>,
        has_ended: bool,
    },
}

/// The object that a descriptor refers to.
#[derive(Debug)]
pub(crate) enum Object {
    File(Identity),
    /// `parents`: the parent's queue, which a copied knote watches.
    Queue {
        id: u64,
        parents: Option<OwnedFd>,
    },
}

/// The process whose signals a knote reports.
#[derive(Debug)]
pub(crate) enum Signals {
    /// This process, by a signalfd.
    Own { signalfd: OwnedFd, was_pending: bool },
    /// The process from whose queue this process's queue was copied.
    Other { process: libc::pid_t, was_pending: bool },
}

impl Object {
    pub(crate) fn at(fd: RawFd, nested: Option<u64>) -> io::Result<Object> {
        match nested {
            Some(id) => Ok(Object::Queue { id, parents: None }),
            None => identity(fd).map(Object::File),
        }
    }

    /// Whether a descriptor still refers to this object. `nested`: the queue that the descriptor refers to, if that is
    /// known.
    pub(crate) fn is_at(&self, fd: RawFd, nested: Option<u64>) -> bool {
        match self {
            Object::Queue { id, .. } => is_open(fd) && nested.is_none_or(|nested| nested == *id),
            Object::File(known) => nested.is_none() && identity(fd).is_ok_and(|found| found == *known),
        }
    }
}

/// The report of a filter about a descriptor that is ready.
pub(crate) struct Ready {
    pub(crate) flags: Flags,
    pub(crate) fflags: u32,
    pub(crate) data: i64,
}

/// Runs the filter READ or WRITE for a descriptor. Returns `None` if the descriptor is not ready.
pub(crate) fn look(fd: RawFd, filter: Filter) -> Option<Ready> {
    let (events, eof) = match filter {
        EVFILT_READ => (libc::POLLIN | libc::POLLRDHUP, libc::POLLRDHUP | libc::POLLHUP),
        _ => (libc::POLLOUT, libc::POLLERR | libc::POLLHUP),
    };
    let found = poll_now(fd, events);
    if found == 0 {
        return None;
    }
    let is_socket = linux::file_type(fd) == Some(libc::S_IFSOCK);
    Some(Ready {
        flags: if found & eof != 0 { EV_EOF } else { 0 },
        // Reading the socket's error would take it from the program, so one error stands for all.
        fflags: if is_socket && found & libc::POLLERR != 0 { libc::ECONNRESET as u32 } else { 0 },
        data: if filter == EVFILT_READ { linux::pending_bytes(fd).unwrap_or(1) } else { 1 },
    })
}

impl Knote {
    /// Returns the event, if the condition holds.
    pub(crate) fn report(&self, key: Key) -> Option<Kevent> {
        let event = Kevent { flags: self.flags, udata: self.udata, ..kevent_of(key.1, key.0, 0, 0) };
        match &self.watched {
            Watched::Descriptor(object) => {
                let fd = match object {
                    Object::Queue { parents: Some(queue), .. } => queue.as_raw_fd(),
                    _ => key.1 as RawFd,
                };
                let ready = look(fd, key.0)?;
                Some(Kevent { flags: self.flags | ready.flags, fflags: ready.fflags, data: ready.data, ..event })
            }
            Watched::User { is_triggered } => {
                is_triggered.then_some(Kevent { fflags: self.fflags, data: self.data, ..event })
            }
            Watched::Timer { count, .. } | Watched::Signal { count, .. } => {
                (*count > 0).then_some(Kevent { data: *count, ..event })
            }
            Watched::Process { has_ended, .. } => {
                let ended = Kevent { flags: self.flags | EV_EOF, fflags: NOTE_EXIT, data: self.data, ..event };
                has_ended.then_some(ended)
            }
        }
    }

    pub(crate) fn look_at_process(&mut self) {
        if let Watched::Process { pidfd: Some(pidfd), has_ended: has_ended @ false } = &mut self.watched
            && poll_now(pidfd.as_raw_fd(), libc::POLLIN) != 0
        {
            *has_ended = true;
            self.data = linux::exit_status(pidfd);
        }
    }

    /// Does what `EV_CLEAR` asks for: "Reset the state of the event after it is retrieved by the user."
    pub(crate) fn clear(&mut self) {
        match &mut self.watched {
            Watched::User { is_triggered } => *is_triggered = false,
            Watched::Timer { count, .. } | Watched::Signal { count, .. } => *count = 0,
            Watched::Descriptor(_) | Watched::Process { .. } => {}
        }
    }

    /// Applies the fields of a change that has no `EV_DELETE`.
    pub(crate) fn modify(&mut self, change: &Kevent, is_new: bool) -> io::Result<()> {
        self.udata = change.udata;
        if change.flags & EV_DISABLE != 0 {
            self.is_disabled = true;
        } else if change.flags & (EV_ENABLE | EV_ADD) != 0 {
            self.is_disabled = false;
        }
        match &mut self.watched {
            // FreeBSD ignores a trigger that comes with EV_ADD: adding and triggering take two changes.
            Watched::User { is_triggered } if change.flags & EV_ADD == 0 => {
                let flags = change.fflags & NOTE_FFLAGSMASK;
                match change.fflags & NOTE_FFCTRLMASK {
                    NOTE_FFAND => self.fflags &= flags,
                    NOTE_FFOR => self.fflags |= flags,
                    NOTE_FFCOPY => self.fflags = flags,
                    _ => {}
                }
                *is_triggered |= change.fflags & NOTE_TRIGGER != 0;
            }
            // "If an existing timer is re-added, the existing timer will be effectively canceled (throwing away any
            // undelivered record of previous timer expiration) and re-started."
            Watched::Timer { next, period, count } if change.flags & EV_ADD != 0 && !is_new => {
                (*next, *period) = timing(change)?;
                *count = 0;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns when a timer expires first, and its period.
pub(crate) fn timing(change: &Kevent) -> io::Result<(Option<u64>, u64)> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let amount = u64::try_from(change.data).map_err(|_| invalid())?;
    let unit = match change.fflags & (NOTE_SECONDS | NOTE_MSECONDS | NOTE_USECONDS | NOTE_NSECONDS) {
        NOTE_SECONDS => 1_000_000_000,
        0 | NOTE_MSECONDS => 1_000_000,
        NOTE_USECONDS => 1_000,
        NOTE_NSECONDS => 1,
        _ => return Err(invalid()),
    };
    let nanos = amount.saturating_mul(unit);
    let monotonic = linux::now(libc::CLOCK_MONOTONIC);
    if change.fflags & NOTE_ABSTIME != 0 {
        let left = nanos.saturating_sub(linux::now(libc::CLOCK_REALTIME));
        return Ok((Some(monotonic.saturating_add(left)), 0));
    }
    let period = if change.flags & EV_ONESHOT != 0 { 0 } else { nanos.max(1) };
    Ok((Some(monotonic.saturating_add(nanos)), period))
}
