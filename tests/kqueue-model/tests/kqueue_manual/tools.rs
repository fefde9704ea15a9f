//! The code that the checks share.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::kernel::*;

const LONG: Option<Duration> = Some(Duration::from_secs(60));
pub(crate) const NOW: Option<Duration> = Some(Duration::ZERO);

/// A queue. It is closed when dropped.
pub(crate) struct Kqueue(pub(crate) RawFd);

impl Kqueue {
    pub(crate) fn new() -> Kqueue {
        Kqueue(kqueue().expect("kqueue"))
    }

    pub(crate) fn call(&self, changes: &[Kevent], room: usize, timeout: Option<Duration>) -> io::Result<Vec<Kevent>> {
        let mut events = Vec::with_capacity(room);
        // SAFETY: the lists have these lengths, and the kernel has filled the events that it counts.
        unsafe {
            let count =
                kevent(self.0, changes.as_ptr(), changes.len(), events.as_mut_ptr(), events.capacity(), timeout)?;
            events.set_len(count);
        }
        Ok(events)
    }

    #[track_caller]
    pub(crate) fn change(&self, change: Kevent) {
        self.call(&[change], 0, NOW).expect("a change");
    }

    /// Makes a change, and returns its error.
    pub(crate) fn refused(&self, change: Kevent) -> Option<i32> {
        self.call(&[change], 0, NOW).err().and_then(|error| error.raw_os_error())
    }

    #[track_caller]
    pub(crate) fn wait(&self) -> Vec<Kevent> {
        self.call(&[], 8, LONG).expect("events")
    }

    /// Takes events without waiting.
    #[track_caller]
    pub(crate) fn poll(&self) -> Vec<Kevent> {
        self.call(&[], 8, NOW).expect("events")
    }

    /// Adds the user event 1 and triggers it, in two changes.
    pub(crate) fn add_and_trigger(&self) {
        self.change(user(EV_ADD | EV_CLEAR, 0));
        self.change(user(0, NOTE_TRIGGER));
    }
}

impl Drop for Kqueue {
    fn drop(&mut self) {
        close(self.0);
    }
}

impl AsRawFd for Kqueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Opens a queue with a user event that is not triggered. Returns `None` if this kernel has no such events.
pub(crate) fn with_user_event() -> Option<Kqueue> {
    let queue = Kqueue::new();
    (queue.refused(user(EV_ADD | EV_CLEAR, 0)) != Some(libc::EINVAL)).then_some(queue)
}

/// Opens a queue with `KQUEUE_CPONFORK`. Returns `None` if this kernel does not have the flag.
pub(crate) fn with_flag() -> Option<Kqueue> {
    kqueuex(KQUEUE_CLOEXEC | KQUEUE_CPONFORK)?.ok().map(Kqueue)
}

/// Opens a queue that is copied on fork. Returns `None` if this kernel does not copy queues.
pub(crate) fn copied() -> Option<Kqueue> {
    #[cfg(target_os = "linux")]
    if forkio_kqueue_model::Kernel::this() == forkio_kqueue_model::Kernel::AtLimit {
        return None;
    }
    with_flag()
}

/// Returns `Some` if the kernel is FreeBSD's, or the model of one.
pub(crate) fn freebsd() -> Option<()> {
    #[cfg(target_os = "linux")]
    let is_freebsd = forkio_kqueue_model::Kernel::this().is_freebsd();
    #[cfg(not(target_os = "linux"))]
    let is_freebsd = cfg!(target_os = "freebsd");
    is_freebsd.then_some(())
}

pub(crate) fn ev(ident: usize, filter: Filter, flags: Flags) -> Kevent {
    kevent_of(ident, filter, flags, 0)
}

pub(crate) fn read(fd: &impl AsRawFd, flags: Flags) -> Kevent {
    ev(fd.as_raw_fd() as usize, EVFILT_READ, flags)
}

pub(crate) fn write(fd: &impl AsRawFd, flags: Flags) -> Kevent {
    ev(fd.as_raw_fd() as usize, EVFILT_WRITE, flags)
}

pub(crate) fn user(flags: Flags, fflags: u32) -> Kevent {
    Kevent { fflags, ..ev(1, EVFILT_USER, flags) }
}

/// A timer that expires after `nanos`.
pub(crate) fn timer(flags: Flags, nanos: i64) -> Kevent {
    let data = (nanos as u64).div_ceil(TIMER.1);
    Kevent { fflags: TIMER.0, data: data as _, ..ev(7, EVFILT_TIMER, flags) }
}

pub(crate) fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("a pair")
}

pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller does not use the descriptor again.
    unsafe { libc::close(fd) };
}

/// Makes a duplicate that is not close-on-exec. Only the caller closes the duplicate.
pub(crate) fn duplicate(fd: &impl AsRawFd) -> RawFd {
    // SAFETY: the call takes no pointer.
    unsafe { libc::dup(fd.as_raw_fd()) }
}

/// Returns the flags of a descriptor, or `None` if it is not open.
pub(crate) fn descriptor_flags(fd: RawFd) -> Option<i32> {
    // SAFETY: the call takes no pointer.
    Some(unsafe { libc::fcntl(fd, libc::F_GETFD) }).filter(|flags| *flags != -1)
}

/// Marks a descriptor as close-on-fork. Returns `None` if this system has no such flag.
pub(crate) fn set_close_on_fork(fd: RawFd) -> Option<()> {
    #[cfg(target_os = "linux")]
    {
        forkio_kqueue_model::set_close_on_fork(fd);
        Some(())
    }
    #[cfg(target_os = "freebsd")]
    {
        /// fcntl.h, since 15.0. Older systems ignore or refuse it.
        const FD_CLOFORK: libc::c_int = 4;
        // SAFETY: the call takes no pointer.
        unsafe { libc::fcntl(fd, libc::F_SETFD, FD_CLOFORK) };
        descriptor_flags(fd).filter(|flags| flags & FD_CLOFORK != 0).map(drop)
    }
    #[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
    {
        let _ = fd;
        None
    }
}

/// Forks, and returns what `child` returns in the child, or `false` if it panics.
pub(crate) fn in_child(child: impl FnOnce() -> bool) -> bool {
    in_both(|| (), child)
}

/// Like [`in_child`], but the child begins once `parent` has returned in the parent.
pub(crate) fn in_both(parent: impl FnOnce(), child: impl FnOnce() -> bool) -> bool {
    let (mut turn, mut give) = io::pipe().expect("a pipe");
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            drop(give);
            let wait_and_check = || turn.read_exact(&mut [0]).is_ok() && child();
            let held = catch_unwind(AssertUnwindSafe(wait_and_check)).unwrap_or(false);
            // SAFETY: the call ends the process.
            unsafe { libc::_exit(i32::from(!held)) };
        }
        child => {
            assert!(child > 0, "{}", io::Error::last_os_error());
            let done = catch_unwind(AssertUnwindSafe(parent)).map(|()| give.write_all(&[1]).is_ok());
            drop(give);
            let mut status = 0;
            // SAFETY: the kernel writes the status.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            done.unwrap_or(false) && status == 0
        }
    }
}

fn set_of(signal: i32) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset fills the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        set.assume_init()
    }
}

pub(crate) fn block(signal: i32) {
    // SAFETY: the set is filled, and the call does not return the old one.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set_of(signal), std::ptr::null_mut()) };
}

pub(crate) fn raise(signal: i32) {
    // SAFETY: the checks block the signal first.
    unsafe { libc::raise(signal) };
}

/// Takes a pending signal.
pub(crate) fn take(signal: i32) {
    let mut taken = 0;
    // SAFETY: the set is filled, and the signal is pending and blocked.
    unsafe { libc::sigwait(&set_of(signal), &mut taken) };
    assert_eq!(taken, signal);
}
