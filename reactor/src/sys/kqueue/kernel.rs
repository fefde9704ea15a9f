//! The seam: all that the backend asks of the system, and the names of it.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::sys::syscall;

#[cfg(not(forkio_libkqueue))]
pub use libc::{
    EV_ADD, EV_CLEAR, EV_DELETE, EV_ENABLE, EV_EOF, EV_ERROR, EV_ONESHOT, EV_RECEIPT, EVFILT_PROC, EVFILT_READ,
    EVFILT_SIGNAL, EVFILT_TIMER, EVFILT_USER, EVFILT_WRITE, NOTE_EXIT, NOTE_TRIGGER, kevent as Kevent,
};
#[cfg(forkio_libkqueue)]
pub use library::*;

/// libkqueue (<https://github.com/mheily/libkqueue>), with FreeBSD's numbers. `--cfg forkio_libkqueue`: CONTRIBUTING.md.
#[cfg(forkio_libkqueue)]
#[allow(missing_docs)]
mod library {
    use std::io;
    use std::os::fd::RawFd;

    /// `struct kevent`.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    pub struct Kevent {
        pub ident: usize,
        pub filter: i16,
        pub flags: u16,
        pub fflags: u32,
        pub data: isize,
        pub udata: *mut libc::c_void,
    }

    pub const EVFILT_READ: i16 = -1;
    pub const EVFILT_WRITE: i16 = -2;
    pub const EVFILT_PROC: i16 = -5;
    pub const EVFILT_SIGNAL: i16 = -6;
    pub const EVFILT_TIMER: i16 = -7;
    pub const EVFILT_USER: i16 = -11;
    pub const EV_ADD: u16 = 0x1;
    pub const EV_DELETE: u16 = 0x2;
    pub const EV_ENABLE: u16 = 0x4;
    pub const EV_ONESHOT: u16 = 0x10;
    pub const EV_CLEAR: u16 = 0x20;
    pub const EV_RECEIPT: u16 = 0x40;
    pub const EV_ERROR: u16 = 0x4000;
    pub const EV_EOF: u16 = 0x8000;
    pub const NOTE_EXIT: u32 = 0x8000_0000;
    pub const NOTE_TRIGGER: u32 = 0x0100_0000;

    #[link(name = "kqueue")]
    unsafe extern "C" {
        fn kqueue() -> libc::c_int;
        fn kevent(
            kq: libc::c_int,
            changelist: *const Kevent,
            nchanges: libc::c_int,
            eventlist: *mut Kevent,
            nevents: libc::c_int,
            timeout: *const libc::timespec,
        ) -> libc::c_int;
    }

    pub(super) fn create() -> io::Result<RawFd> {
        // SAFETY: no memory is involved.
        let fd = unsafe { kqueue() };
        if fd == -1 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    }

    /// # Safety
    ///
    /// As that of [`kevent`](super::kevent()).
    pub(super) unsafe fn wait(
        queue: RawFd,
        changes: *const Kevent,
        nchanges: libc::c_int,
        events: *mut Kevent,
        nevents: libc::c_int,
        timeout: *const libc::timespec,
    ) -> io::Result<libc::c_int> {
        // SAFETY: the caller's promise.
        let count = unsafe { kevent(queue, changes, nchanges, events, nevents, timeout) };
        if count == -1 { Err(io::Error::last_os_error()) } else { Ok(count) }
    }
}

#[cfg(not(target_os = "netbsd"))]
mod words {
    /// The type of a filter's number.
    pub type Filter = i16;
    /// The type of a set of flags.
    pub type Flags = u16;
}
#[cfg(target_os = "netbsd")]
mod words {
    /// The type of a filter's number.
    pub type Filter = u32;
    /// The type of a set of flags.
    pub type Flags = u32;
}
pub use words::*;

/// Requests of aio(4), where the system reports them.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
pub const EVFILT_AIO: Option<Filter> = Some(libc::EVFILT_AIO);
/// Requests of aio(4), where the system reports them.
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple")))]
pub const EVFILT_AIO: Option<Filter> = None;
/// Requests of lio_listio(2), where the system reports them.
#[cfg(target_os = "freebsd")]
pub const EVFILT_LIO: Option<Filter> = Some(libc::EVFILT_LIO);
/// Requests of lio_listio(2), where the system reports them.
#[cfg(not(target_os = "freebsd"))]
pub const EVFILT_LIO: Option<Filter> = None;

/// The unit of a timer, as a flag and in nanoseconds: the finest that all releases of the system have.
#[cfg(any(target_os = "freebsd", target_vendor = "apple"))]
pub const TIMER_UNIT: (u32, u64) = (libc::NOTE_NSECONDS, 1);
/// The unit of a timer, as a flag and in nanoseconds: the finest that all releases of the system have.
#[cfg(not(any(target_os = "freebsd", target_vendor = "apple")))]
pub const TIMER_UNIT: (u32, u64) = (0, 1_000_000);

/// The flag of a timer that is set to a time of day, where there is one.
#[cfg(target_os = "freebsd")]
pub const ABSOLUTE: Option<u32> = Some(libc::NOTE_ABSTIME);
/// The flag of a timer that is set to a time of day, where there is one.
#[cfg(target_vendor = "apple")]
pub const ABSOLUTE: Option<u32> = Some(libc::NOTE_ABSOLUTE);
/// The flag of a timer that is set to a time of day, where there is one.
#[cfg(not(any(target_os = "freebsd", target_vendor = "apple")))]
pub const ABSOLUTE: Option<u32> = None;

/// `EV_SET(2)` with the fields that registrations use.
pub fn kevent_of(ident: usize, filter: Filter, flags: Flags, udata: usize) -> Kevent {
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
pub const KQUEUE_CLOEXEC: u32 = 1;
/// See [`KQUEUE_CLOEXEC`].
#[cfg(feature = "cponfork")]
pub const KQUEUE_CPONFORK: u32 = 2;

/// A new queue, close-on-exec. Async-signal-safe.
pub fn kqueue() -> io::Result<RawFd> {
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
pub fn kqueuex(flags: u32) -> Option<io::Result<RawFd>> {
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
pub unsafe fn kevent(
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
    #[allow(clippy::useless_conversion, reason = "systems differ in the type")]
    let nchanges = nchanges.try_into().unwrap_or(Count::MAX);
    #[allow(clippy::useless_conversion, reason = "systems differ in the type")]
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

/// close(2) of a queue.
pub fn close(queue: RawFd) {
    // An error would say that it is not open.
    // SAFETY: the caller owns the number.
    unsafe { libc::close(queue) };
}

/// Makes the number `onto` stand for the queue `from`. Async-signal-safe.
#[cfg(feature = "cponfork")]
pub fn replace(from: RawFd, onto: RawFd) -> Result<(), i32> {
    crate::sys::descriptor::replace(from, onto)
}
