//! epoll(7).

use std::io;
#[cfg(feature = "cponfork")]
use std::mem::ManuallyDrop;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::syscall;
#[cfg(feature = "cponfork")]
use crate::selector::WakeSlots;
use crate::{Interest, Token};

pub(crate) type Event = libc::epoll_event;
pub(crate) type Events = Vec<Event>;

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Queue(OwnedFd);

impl Queue {
    /// The kernel refuses a registration that is made twice, and keeps one until it is deleted or the object is closed.
    pub(crate) const IS_EXACT: bool = true;

    pub(crate) fn new() -> io::Result<Queue> {
        let fd = syscall!(epoll_create1(libc::EPOLL_CLOEXEC))?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
        Ok(Queue(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    #[inline]
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        // Nobody has room for so many that the number is cut off, and if so it stands for fewer.
        let capacity = events.capacity() as libc::c_int;
        // Not rustix's `epoll::wait`, which is epoll_pwait(2): 7 ns more, with no mask to set.
        // SAFETY: the kernel writes at most `capacity` events to the vector's spare room.
        let count = syscall!(epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), capacity, millis(timeout)))?;
        // SAFETY: the kernel has initialised the first `count` events, and `count` is at most the capacity.
        unsafe { events.set_len(count as usize) };
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn add(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.0 as u64);
        Ok(epoll::add(&self.0, number(fd)?, data, flags(interest))?)
    }

    #[inline(always)]
    pub(crate) fn modify(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.0 as u64);
        Ok(epoll::modify(&self.0, number(fd)?, data, flags(interest))?)
    }

    #[inline(always)]
    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, number(fd)?)?)
    }
}

/// A descriptor number as epoll_ctl(2) takes it.
#[inline(always)]
fn number(fd: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: it is not -1, and goes nowhere but to epoll_ctl, which says EBADF should the number not be open.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(feature = "cponfork")]
impl Queue {
    /// The number is this process's own.
    pub(crate) fn take_over(&self) {}

    /// Child of a fork that was not prepared: the number stands for an empty queue of its own, if there is one to be had.
    /// Async-signal-safe.
    #[cfg(feature = "atfork")]
    pub(crate) fn detach(&self) {
        if let Ok(empty) = Queue::new() {
            let _ = super::descriptor::replace(empty.0.as_raw_fd(), self.0.as_raw_fd());
        }
    }

    /// Whether there is a registration for what is open under this number now.
    pub(crate) fn holds(&self, fd: RawFd, _: Token, _: Interest) -> io::Result<bool> {
        // Only the kernel knows which open file description was registered under this number; adding tells, and
        // changes nothing where it is there.
        match number(fd).and_then(|fd| epoll::add(&self.0, fd, EventData::new_u64(0), EventFlags::empty())) {
            Ok(()) => self.delete(fd).map(|()| false),
            Err(Errno::EXIST) => Ok(true),
            // Not open, nothing that can be polled, or a queue that cannot be in this one.
            Err(Errno::BADF | Errno::PERM | Errno::INVAL | Errno::LOOP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// An epoll instance for the child, populated in the parent with the parent's own descriptors: after the fork numbers and
/// open file descriptions are the same in the child, and so are the registrations. What stands behind another object's
/// number there is added by the child: an epoll knows a number only together with the object behind it.
#[cfg(feature = "cponfork")]
#[derive(Debug)]
pub(crate) struct QueueCopy {
    /// Closed with the spares.
    queue: ManuallyDrop<Queue>,
    additions: Vec<(RawFd, EventFlags, Token)>,
}

#[cfg(feature = "cponfork")]
impl crate::fork::QueueCopy for QueueCopy {
    fn new(_: &Queue, spares: &mut Vec<OwnedFd>) -> io::Result<QueueCopy> {
        let queue = Queue::new()?;
        // SAFETY: the spares own the descriptor; the copy ends before them, and does not close it.
        let copy = unsafe { OwnedFd::from_raw_fd(queue.0.as_raw_fd()) };
        spares.push(queue.0);
        Ok(QueueCopy { queue: ManuallyDrop::new(Queue(copy)), additions: Vec::new() })
    }

    fn inherit(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.queue.add(fd, token, interest)
    }

    fn leave_out(&mut self, _: RawFd, _: Interest) {}

    fn add_in_child(&mut self, fd: RawFd, token: Token, interest: Interest) {
        self.additions.push((fd, flags(interest), token));
    }

    fn recall(&mut self, fd: RawFd) -> io::Result<bool> {
        match self.queue.delete(fd) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn put_in_place(&mut self, queue: &Queue) -> Result<(), i32> {
        super::descriptor::replace(self.queue.0.as_raw_fd(), queue.0.as_raw_fd())
    }

    fn complete(&mut self, queue: &Queue, _: &WakeSlots) -> Result<(), i32> {
        self.additions.iter().try_for_each(|&(fd, flags, token)| {
            let data = EventData::new_u64(token.0 as u64);
            number(fd).and_then(|fd| epoll::add(&queue.0, fd, data, flags)).map_err(Errno::raw_os_error)
        })
    }
}

/// epoll_wait's timeout: milliseconds, rounded up so that a short wait does not become a busy loop; -1 is no limit.
fn millis(timeout: Option<Duration>) -> libc::c_int {
    let Some(timeout) = timeout else { return -1 };
    if timeout.is_zero() {
        return 0;
    }
    let rest = u64::from(timeout.subsec_nanos().div_ceil(1_000_000));
    let millis = timeout.as_secs().saturating_mul(1_000).saturating_add(rest);
    millis.try_into().unwrap_or(libc::c_int::MAX)
}

#[inline(always)]
fn flags(interest: Interest) -> EventFlags {
    /// By the interest's bits: a look-up is shorter than asking for each bit, and this long it needs no check of bounds.
    const FLAGS: [u32; 1 << u8::BITS] = {
        let mut flags = [0; 1 << u8::BITS];
        let mut bits = 1;
        while bits < flags.len() {
            flags[bits] = flags_of(Interest::of_any_bits(NonZeroU8::new(bits as u8).unwrap()));
            bits += 1;
        }
        flags
    };
    EventFlags::from_bits_retain(FLAGS[usize::from(interest.bits())])
}

const fn flags_of(interest: Interest) -> u32 {
    let mut flags = EPOLLET;
    if interest.is_readable() {
        flags |= EPOLLIN | EPOLLRDHUP;
    }
    if interest.is_writable() {
        flags |= EPOLLOUT;
    }
    if interest.is_priority() {
        flags |= EPOLLPRI;
    }
    if interest.is_exclusive() {
        // epoll_ctl(2): beside it only EPOLLIN, EPOLLOUT, EPOLLWAKEUP and EPOLLET are allowed.
        flags = flags & !EPOLLRDHUP | libc::EPOLLEXCLUSIVE;
    }
    flags.cast_unsigned()
}

pub(crate) mod event {
    //! Reads the events of epoll_wait(2).

    use super::*;
    use std::fmt;

    pub(crate) fn token(event: &Event) -> Token {
        Token(event.u64 as usize)
    }

    pub(crate) fn is_readable(event: &Event) -> bool {
        has(event, EPOLLIN) || has(event, EPOLLPRI)
    }

    pub(crate) fn is_writable(event: &Event) -> bool {
        has(event, EPOLLOUT)
    }

    pub(crate) fn is_error(event: &Event) -> bool {
        has(event, EPOLLERR)
    }

    /// Both halves are closed, or the peer has shut down its writing half.
    pub(crate) fn is_read_closed(event: &Event) -> bool {
        has(event, EPOLLHUP) || (has(event, EPOLLIN) && has(event, EPOLLRDHUP))
    }

    /// Both halves are closed, or the reading end of a pipe is: EPOLLERR, alone or with EPOLLOUT.
    pub(crate) fn is_write_closed(event: &Event) -> bool {
        has(event, EPOLLHUP)
            || (has(event, EPOLLOUT) && has(event, EPOLLERR))
            || event.events == EPOLLERR.cast_unsigned()
    }

    pub(crate) fn is_priority(event: &Event) -> bool {
        has(event, EPOLLPRI)
    }

    /// Linux has no readiness for asynchronous I/O.
    pub(crate) fn is_aio(_: &Event) -> bool {
        false
    }

    /// See [`is_aio`].
    pub(crate) fn is_lio(_: &Event) -> bool {
        false
    }

    fn has(event: &Event, flag: libc::c_int) -> bool {
        event.events & flag.cast_unsigned() != 0
    }

    pub(crate) fn debug_details(f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
        const NAMES: [(libc::c_int, &str); 14] = [
            (EPOLLIN, "EPOLLIN"),
            (EPOLLPRI, "EPOLLPRI"),
            (EPOLLOUT, "EPOLLOUT"),
            (libc::EPOLLRDNORM, "EPOLLRDNORM"),
            (libc::EPOLLRDBAND, "EPOLLRDBAND"),
            (libc::EPOLLWRNORM, "EPOLLWRNORM"),
            (libc::EPOLLWRBAND, "EPOLLWRBAND"),
            (libc::EPOLLMSG, "EPOLLMSG"),
            (EPOLLERR, "EPOLLERR"),
            (EPOLLHUP, "EPOLLHUP"),
            (EPOLLET, "EPOLLET"),
            (EPOLLRDHUP, "EPOLLRDHUP"),
            (libc::EPOLLONESHOT, "EPOLLONESHOT"),
            (libc::EPOLLEXCLUSIVE, "EPOLLEXCLUSIVE"),
        ];

        struct Flags<'a>(&'a Event);

        impl fmt::Debug for Flags<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                for (flag, name) in NAMES {
                    if has(self.0, flag) {
                        write!(f, "{separator}{name}")?;
                        separator = "|";
                    }
                }
                if separator.is_empty() { f.write_str("(empty)") } else { Ok(()) }
            }
        }

        // A copy, because the fields of a packed structure cannot be borrowed.
        let data = event.u64;
        f.debug_struct("epoll_event").field("events", &Flags(event)).field("u64", &data).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_round_up() {
        assert_eq!(millis(None), -1);
        assert_eq!(millis(Some(Duration::ZERO)), 0);
        assert_eq!(millis(Some(Duration::from_nanos(1))), 1);
        assert_eq!(millis(Some(Duration::from_micros(1_001))), 2);
        assert_eq!(millis(Some(Duration::from_millis(7))), 7);
        assert_eq!(millis(Some(Duration::MAX)), libc::c_int::MAX);
    }
}
