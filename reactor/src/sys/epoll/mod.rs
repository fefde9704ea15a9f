//! Kernel queues by epoll(7).

use std::io;
use std::num::NonZeroU8;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::descriptor::{self, borrow};
use super::{Events, Queue, QueueCopy, syscall};
use crate::source_kind::SourceKind;
use crate::{Interest, Token};

pub(crate) mod event;
mod eventfd;
#[cfg(feature = "cponfork")]
pub(super) mod listing;
#[cfg(feature = "os-ext")]
mod pidfd;
#[cfg(feature = "os-ext")]
mod signalfd;
#[cfg(feature = "cponfork")]
mod unix_diag;

pub(crate) use self::eventfd::WakeSignal;
#[cfg(feature = "os-ext")]
pub(crate) use self::{pidfd::ProcessHandle, signalfd::SignalQueue};
pub(crate) use super::timerfd::{self as timer, Timer};

#[derive(Clone)]
#[repr(transparent)]
pub(crate) struct Event(libc::epoll_event);

/// A bit of a registration's events that epoll_ctl(2) keeps and that no object reports: Linux does not use `POLLMSG`, as poll(2)
/// says. A new registration does not have it.
const MARK: libc::c_int = libc::EPOLLMSG;

/// `EP_MAX_EVENTS` of the kernel: epoll_wait(2) refuses more.
const MOST_EVENTS: usize = libc::c_int::MAX as usize / size_of::<Event>();

impl Queue {
    /// The kernel refuses a second registration, and keeps a registration until it is deleted or the object is closed.
    pub(crate) const IS_EXACT: bool = true;

    /// fork(2) copies the descriptor of an epoll instance like any other.
    pub(crate) const MAY_BE_ABSENT_AFTER_FORK: bool = false;

    pub(crate) fn open(&self) -> io::Result<()> {
        self.set(epoll::create(CreateFlags::CLOEXEC)?.into_raw_fd());
        Ok(())
    }

    /// Closes the epoll instance, unless this process has lost it. Another process that shares the instance keeps it.
    pub(crate) fn close(&self) {
        let fd = self.fd();
        if !self.is_vacant() {
            self.forget();
            descriptor::close(fd);
        }
    }

    /// Returns the queue as epoll_ctl(2) takes it.
    #[inline(always)]
    fn instance(&self) -> BorrowedFd<'_> {
        let fd = self.usable_fd();
        // SAFETY: the descriptor is never -1. It is open for as long as the queue is; otherwise system calls return EBADF.
        unsafe {
            std::hint::assert_unchecked(fd != -1);
            BorrowedFd::borrow_raw(fd)
        }
    }

    #[inline]
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        let room = events.capacity().min(MOST_EVENTS) as libc::c_int;
        // rustix's `epoll::wait` calls epoll_pwait(2), which takes 7 ns longer, and there is no mask to set.
        // SAFETY: `Event` is `repr(transparent)`, and the kernel writes at most `room` events to the vector's spare room.
        let count = syscall!(epoll_wait(self.usable_fd(), events.as_mut_ptr().cast(), room, millis(timeout)))?;
        // SAFETY: the kernel has initialised the first `count` events, and `count` is at most the capacity.
        unsafe { events.set_len(count as usize) };
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn add(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(self.instance(), borrow(fd)?, data(token), flags(interest))?)
    }

    #[inline(always)]
    pub(crate) fn modify(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(self.instance(), borrow(fd)?, data(token), flags(interest))?)
    }

    #[inline(always)]
    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        Ok(epoll::delete(self.instance(), borrow(fd)?)?)
    }

    /// Whether the file that is open at `fd` now is registered. If it is not, a poll at the same moment may get an event with
    /// `token`.
    pub(crate) fn holds(&self, fd: RawFd, token: Token) -> io::Result<bool> {
        // The kernel compares descriptor and file, and refuses a second registration. Unlike kcmp(2), containers allow this
        // call.
        let added = borrow(fd).and_then(|fd| epoll::add(self.instance(), fd, data(token), EventFlags::ET));
        if added.is_ok() {
            self.delete(fd)?;
        }
        Ok(added == Err(Errno::EXIST))
    }

    /// In the child of an unplanned fork, whether `fd` still refers to the registered file.
    pub(crate) fn still_has(&self, fd: RawFd, token: Token, kind: SourceKind) -> io::Result<bool> {
        // If the child has closed the queue, assume that it has closed the registered descriptors too. If the parent has
        // ended the registration since the fork, its queue lacks the registration, so the kind decides.
        Ok(!self.is_vacant() && (self.holds(fd, token)? || descriptor::has_kind(fd, kind)?))
    }

    pub(crate) fn is_there_after_fork() -> bool {
        true
    }
}

/// In the child of an unplanned fork, whether `fd` still refers to a waker, a timer, or a queue with a waker that this crate
/// made.
pub(crate) fn is_still_own(fd: RawFd, _: SourceKind) -> io::Result<bool> {
    Ok(descriptor::is_marked(fd))
}

pub(crate) fn fstat(fd: RawFd) -> io::Result<rustix::fs::Stat> {
    Ok(rustix::fs::fstat(borrow(fd)?)?)
}

/// Returns `None`: every socket has an inode.
pub(crate) fn socket_pcb(_: RawFd) -> Option<u64> {
    None
}

/// Returns `None`: fstat(2), getsockopt(2) and the names in `/proc/self/fd` tell every kind.
pub(crate) fn bare_kind(_: RawFd) -> Option<SourceKind> {
    None
}

/// A child's epoll instance. The planner fills it, and the plan's spares own it. An epoll instance identifies a registration by
/// descriptor and open file description, and the child has the same ones. The child itself must add each descriptor that it
/// replaces.
#[derive(Debug)]
pub(crate) struct ChildQueue {
    queue: Queue,
    additions: Vec<(RawFd, EventFlags, Token)>,
}

impl QueueCopy for ChildQueue {
    const BEGINS_EMPTY: bool = true;

    fn new(_: &Queue, spares: &mut Vec<OwnedFd>, _is_planned: bool) -> io::Result<ChildQueue> {
        let (queue, instance) = (Queue::vacant(), epoll::create(CreateFlags::CLOEXEC)?);
        descriptor::mark(&instance, OFlags::empty())?;
        queue.set(instance.as_raw_fd());
        spares.push(instance);
        Ok(ChildQueue { queue, additions: Vec::new() })
    }

    fn inherit(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        self.queue.add(fd, token, interest)
    }

    fn add_in_child(&mut self, fd: RawFd, token: Token, interest: Interest) {
        self.additions.push((fd, flags(interest), token));
    }

    fn forget(&mut self, fd: RawFd) {
        // An error means that the registration is not in the queue yet: it is one of the additions.
        let _ = self.queue.delete(fd);
        self.additions.retain(|(added, ..)| *added != fd);
    }

    fn put_in_place(&mut self, queue: &Queue) -> Result<(), i32> {
        if !queue.is_vacant() {
            return descriptor::replace(self.queue.fd(), queue.fd());
        }
        let duplicate = rustix::io::fcntl_dupfd_cloexec(&self.queue, 0).map_err(Errno::raw_os_error)?;
        queue.set(duplicate.into_raw_fd());
        Ok(())
    }

    fn complete(&mut self, queue: &Queue, _wakes: bool) -> Result<(), i32> {
        self.additions.iter().try_for_each(|&(fd, flags, token)| {
            borrow(fd).and_then(|fd| epoll::add(queue.instance(), fd, data(token), flags)).map_err(Errno::raw_os_error)
        })
    }
}

/// An object that only the child can make. There is none: the parent can make every object before the fork.
#[derive(Debug)]
pub(crate) enum Remake {}

#[derive(Debug)]
pub(crate) struct RemakesLock;

impl Remake {
    pub(crate) const EXISTS: bool = false;

    pub(crate) fn lock() -> RemakesLock {
        RemakesLock
    }

    /// Returns `true`: there is no lock. Unsafe only because its counterpart in the kqueue backend is.
    pub(crate) unsafe fn free_lock() -> bool {
        true
    }

    pub(crate) fn list(_: &mut Vec<Remake>) {}

    pub(crate) fn fd(&self) -> RawFd {
        match *self {}
    }

    pub(crate) fn remake(&self) -> Result<(), i32> {
        match *self {}
    }
}

#[inline(always)]
fn data(token: Token) -> EventData {
    EventData::new_u64(token.0 as u64)
}

/// Returns epoll_wait's timeout: milliseconds, rounded up so that a short wait does not become a busy loop; -1 is no limit.
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
    /// Flags by the bits of an interest. A look-up takes less code than testing each bit, and a table of this length needs no
    /// bounds check.
    const FLAGS: [u32; 1 << u8::BITS] = {
        let mut flags = [0; 1 << u8::BITS];
        let mut bits = 1;
        while bits < flags.len() {
            flags[bits] = flags_of(Interest(NonZeroU8::new(bits as u8).unwrap()));
            bits += 1;
        }
        flags
    };
    EventFlags::from_bits_retain(FLAGS[usize::from(interest.0.get())])
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
        // With EPOLLEXCLUSIVE, epoll_ctl(2) allows only EPOLLIN, EPOLLOUT, EPOLLWAKEUP and EPOLLET.
        flags = flags & !EPOLLRDHUP | libc::EPOLLEXCLUSIVE;
    }
    if interest.is_marked() {
        flags |= MARK;
    }
    flags as u32
}

/// Returns the interest that [`flags`] turns into these events; `None` if no interest gives them.
pub(super) fn interest_of(events: u32) -> Option<Interest> {
    // The kernel adds these to each registration.
    let events = events & !((libc::EPOLLERR | libc::EPOLLHUP) as u32);
    let members = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY | Interest::MARK;
    let mut sets = (0..=members.0.get()).filter_map(NonZeroU8::new).map(Interest);
    sets.find(|interest| interest.remove(members).is_none() && flags(*interest).bits() == events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interests_survive_the_conversion_to_events() {
        for interest in [
            Interest::READABLE,
            Interest::WRITABLE,
            Interest::READABLE | Interest::WRITABLE,
            Interest::READABLE | Interest::PRIORITY,
            Interest::PRIORITY,
        ] {
            for interest in [interest, interest.marked()] {
                let events = flags(interest).bits() | (libc::EPOLLERR | libc::EPOLLHUP) as u32;
                assert_eq!(interest_of(events), Some(interest));
            }
        }
        assert_eq!(interest_of(flags(Interest::MARK).bits()), Some(Interest::MARK));
        assert_eq!(interest_of(EPOLLIN as u32), None);
        assert_eq!(interest_of((EPOLLIN | EPOLLRDHUP | EPOLLET | libc::EPOLLONESHOT) as u32), None);
    }

    #[test]
    fn the_kernel_accepts_any_capacity() {
        let queue = Queue::vacant();
        queue.open().unwrap();
        // The vector takes no memory, because the kernel writes no event to it.
        let mut events = Events::with_capacity(MOST_EVENTS + 1);
        queue.wait(&mut events, Some(Duration::ZERO)).unwrap();
        queue.close();
    }

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
