//! The seam: all that the backend asks of the system, and the names of it.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::sys::syscall;

#[cfg(not(forkio_libkqueue))]
pub(crate) use libc::{
    EV_ADD, EV_CLEAR, EV_DELETE, EV_ENABLE, EV_EOF, EV_ERROR, EV_ONESHOT, EV_RECEIPT, EVFILT_PROC, EVFILT_READ,
    EVFILT_SIGNAL, EVFILT_TIMER, EVFILT_USER, EVFILT_WRITE, NOTE_EXIT, NOTE_TRIGGER, kevent as Kevent,
};
#[cfg(forkio_libkqueue)]
pub(crate) use library::*;

#[cfg(not(target_os = "netbsd"))]
mod words {
    pub(crate) type Filter = i16;
    pub(crate) type Flags = u16;
}
#[cfg(target_os = "netbsd")]
mod words {
    pub(crate) type Filter = u32;
    pub(crate) type Flags = u32;
}
pub(crate) use words::*;

#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
pub(crate) const EVFILT_AIO: Option<Filter> = Some(libc::EVFILT_AIO);
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple")))]
pub(crate) const EVFILT_AIO: Option<Filter> = None;
#[cfg(target_os = "freebsd")]
pub(crate) const EVFILT_LIO: Option<Filter> = Some(libc::EVFILT_LIO);
#[cfg(not(target_os = "freebsd"))]
pub(crate) const EVFILT_LIO: Option<Filter> = None;

/// The unit of a timer, as a flag and in nanoseconds: the finest that all releases of the system have.
#[cfg(any(target_os = "freebsd", target_vendor = "apple"))]
pub(crate) const TIMER_UNIT: (u32, u64) = (libc::NOTE_NSECONDS, 1);
#[cfg(not(any(target_os = "freebsd", target_vendor = "apple")))]
pub(crate) const TIMER_UNIT: (u32, u64) = (0, 1_000_000);

/// The flag of a timer that is set to a time of day, where there is one.
#[cfg(target_os = "freebsd")]
pub(crate) const ABSOLUTE: Option<u32> = Some(libc::NOTE_ABSTIME);
#[cfg(target_vendor = "apple")]
pub(crate) const ABSOLUTE: Option<u32> = Some(libc::NOTE_ABSOLUTE);
#[cfg(not(any(target_os = "freebsd", target_vendor = "apple")))]
pub(crate) const ABSOLUTE: Option<u32> = None;

/// `EV_SET(2)` with the fields that registrations use.
pub(crate) fn kevent_of(ident: usize, filter: Filter, flags: Flags, udata: usize) -> Kevent {
    Kevent {
        ident: ident as _,
        filter,
        flags,
        fflags: 0,
        data: 0,
        udata: udata as _,
        #[cfg(target_os = "freebsd")]
        ext: [0; 4],
    }
}

/// Flags of kqueuex(2).
#[cfg(feature = "cponfork")]
pub(crate) const KQUEUE_CLOEXEC: u32 = 1;
#[cfg(feature = "cponfork")]
pub(crate) const KQUEUE_CPONFORK: u32 = 2;

/// A new queue, close-on-exec. Async-signal-safe.
pub(crate) fn kqueue() -> io::Result<RawFd> {
    #[cfg(target_os = "netbsd")]
    let fd = syscall!(kqueue1(libc::O_CLOEXEC))?;
    #[cfg(not(target_os = "netbsd"))]
    let fd = {
        #[cfg(not(forkio_libkqueue))]
        let fd = syscall!(kqueue())?;
        #[cfg(forkio_libkqueue)]
        let fd = library::create()?;
        // A fork in between does not matter: the child would not have the queue.
        syscall!(fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)).inspect_err(|_| close(fd))?;
        fd
    };
    Ok(fd)
}

/// kqueuex(2): FreeBSD 14. `None`: the system has no such function. It is looked up at run time, so that one program runs
/// on older systems too.
#[cfg(feature = "cponfork")]
pub(crate) fn kqueuex(flags: u32) -> Option<io::Result<RawFd>> {
    #[cfg(target_os = "freebsd")]
    {
        type Kqueuex = unsafe extern "C" fn(libc::c_uint) -> libc::c_int;
        // SAFETY: the name ends with a zero byte; looking it up runs no code of ours.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"kqueuex".as_ptr()) };
        if function.is_null() {
            return None;
        }
        // SAFETY: the function of this name has this type (sys/event.h).
        let kqueuex = unsafe { std::mem::transmute::<*mut libc::c_void, Kqueuex>(function) };
        // SAFETY: no memory is involved.
        let fd = unsafe { kqueuex(flags) };
        Some(if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(fd) })
    }
    #[cfg(not(target_os = "freebsd"))]
    {
        let _ = flags;
        None
    }
}

/// kevent(2). Async-signal-safe.
///
/// # Safety
///
/// There are `nchanges` changes at `changes`, and room for `nevents` events at `events`.
pub(crate) unsafe fn kevent(
    queue: RawFd,
    changes: *const Kevent,
    nchanges: usize,
    events: *mut Kevent,
    nevents: usize,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    /// Systems differ in the longest time that they take; 68 years are enough.
    const LONGEST: u64 = i32::MAX as u64;
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(LONGEST) as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let nchanges = nchanges.try_into().unwrap_or(Count::MAX);
    let nevents = nevents.try_into().unwrap_or(Count::MAX);
    #[cfg(not(forkio_libkqueue))]
    let count = syscall!(kevent(queue, changes, nchanges, events, nevents, timeout))?;
    #[cfg(forkio_libkqueue)]
    // SAFETY: the caller's promise.
    let count = unsafe { library::wait(queue, changes, nchanges, events, nevents, timeout) }?;
    Ok(count.cast_unsigned() as usize)
}

#[cfg(not(target_os = "netbsd"))]
type Count = libc::c_int;
#[cfg(target_os = "netbsd")]
type Count = libc::size_t;

pub(crate) fn close(queue: RawFd) {
    // An error would say that it is not open.
    // SAFETY: the caller owns the number.
    unsafe { libc::close(queue) };
}

/// Makes the number `onto` stand for the queue `from`. Async-signal-safe.
#[cfg(feature = "cponfork")]
pub(crate) fn replace(from: RawFd, onto: RawFd) -> Result<(), i32> {
    crate::sys::descriptor::replace(from, onto)
}
