//! The kernel's kqueue interface: the calls that the backend makes, with the kernel's constants and types.
//!
//! libc provides it where the system has a kqueue. A test build for Linux links a substitute instead, with the names and
//! values of FreeBSD's `sys/event.h`: a model, or libkqueue with `--cfg forkio_libkqueue`. See CONTRIBUTING.md.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::time::Duration;

#[cfg(not(target_os = "linux"))]
use libc as system;
#[cfg(target_os = "linux")]
use substitute as system;

pub(crate) use system::{
    EV_ADD, EV_CLEAR, EV_DELETE, EV_ENABLE, EV_EOF, EV_ERROR, EV_ONESHOT, EV_RECEIPT, EVFILT_PROC, EVFILT_READ,
    EVFILT_SIGNAL, EVFILT_TIMER, EVFILT_USER, EVFILT_WRITE, NOTE_EXIT, kevent as Kevent,
};
// Unused where a waker is a pipe.
#[allow(unused_imports)]
pub(crate) use system::NOTE_TRIGGER;

/// The functions, constants and types that a test build for Linux uses in place of a kernel's.
#[cfg(target_os = "linux")]
#[allow(non_camel_case_types, reason = "the names of sys/event.h, as libc has them")]
#[allow(dead_code, reason = "some are unused with libkqueue, or if a waker is a pipe")]
mod substitute {
    use libc::{c_int, c_void, timespec};

    /// `struct kevent`. libkqueue has the fields of FreeBSD 11.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    pub(crate) struct kevent {
        pub(crate) ident: usize,
        pub(crate) filter: i16,
        pub(crate) flags: u16,
        pub(crate) fflags: u32,
        #[cfg(not(forkio_libkqueue))]
        pub(crate) data: i64,
        #[cfg(forkio_libkqueue)]
        pub(crate) data: isize,
        pub(crate) udata: *mut c_void,
        #[cfg(not(forkio_libkqueue))]
        pub(crate) ext: [u64; 4],
    }

    pub(crate) const EVFILT_READ: i16 = -1;
    pub(crate) const EVFILT_WRITE: i16 = -2;
    pub(crate) const EVFILT_PROC: i16 = -5;
    pub(crate) const EVFILT_SIGNAL: i16 = -6;
    pub(crate) const EVFILT_TIMER: i16 = -7;
    pub(crate) const EVFILT_USER: i16 = -11;
    pub(crate) const EV_ADD: u16 = 0x1;
    pub(crate) const EV_DELETE: u16 = 0x2;
    pub(crate) const EV_ENABLE: u16 = 0x4;
    pub(crate) const EV_ONESHOT: u16 = 0x10;
    pub(crate) const EV_CLEAR: u16 = 0x20;
    pub(crate) const EV_RECEIPT: u16 = 0x40;
    pub(crate) const EV_ERROR: u16 = 0x4000;
    pub(crate) const EV_EOF: u16 = 0x8000;
    pub(crate) const NOTE_EXIT: u32 = 0x8000_0000;
    pub(crate) const NOTE_TRIGGER: u32 = 0x0100_0000;
    pub(crate) const NOTE_NSECONDS: u32 = 0x8;
    pub(crate) const NOTE_ABSTIME: u32 = 0x10;

    #[cfg(forkio_libkqueue)]
    pub(super) use libc::fstat;

    #[cfg_attr(forkio_libkqueue, link(name = "kqueue"))]
    unsafe extern "C" {
        #[cfg_attr(not(forkio_libkqueue), link_name = "forkio_model_kqueue")]
        pub(super) fn kqueue() -> c_int;
        #[link_name = "forkio_model_kqueuex"]
        pub(super) fn kqueuex(flags: libc::c_uint) -> c_int;
        #[cfg(not(forkio_libkqueue))]
        #[link_name = "forkio_model_fstat"]
        pub(super) fn fstat(fd: c_int, stat: *mut libc::stat) -> c_int;
        #[link_name = "forkio_model_socket_pcb"]
        pub(super) fn socket_pcb(fd: c_int) -> u64;
        #[cfg_attr(not(forkio_libkqueue), link_name = "forkio_model_kevent")]
        pub(super) fn kevent(
            queue: c_int,
            changes: *const kevent,
            nchanges: c_int,
            events: *mut kevent,
            nevents: c_int,
            timeout: *const timespec,
        ) -> c_int;
    }
}

#[cfg(not(target_os = "netbsd"))]
pub(crate) type Filter = i16;
#[cfg(target_os = "netbsd")]
pub(crate) type Filter = u32;

#[cfg(not(target_os = "netbsd"))]
pub(crate) type Flags = u16;
#[cfg(target_os = "netbsd")]
pub(crate) type Flags = u32;

/// The filter for requests of aio(4), if the system has one.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
pub(crate) const EVFILT_AIO: Option<Filter> = Some(libc::EVFILT_AIO);
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple")))]
pub(crate) const EVFILT_AIO: Option<Filter> = None;

/// The filter for requests of lio_listio(2), if the system has one.
#[cfg(target_os = "freebsd")]
pub(crate) const EVFILT_LIO: Option<Filter> = Some(libc::EVFILT_LIO);
#[cfg(not(target_os = "freebsd"))]
pub(crate) const EVFILT_LIO: Option<Filter> = None;

/// The unit of timers, the finest that all releases of the system have: its flag, and its length in nanoseconds. The third value
/// is the flag of a timer that is set to a time of day, if the system has one.
#[cfg(any(target_os = "freebsd", all(target_os = "linux", not(forkio_libkqueue))))]
pub(crate) const TIMER: (u32, u64, Option<u32>) = (system::NOTE_NSECONDS, 1, Some(system::NOTE_ABSTIME));
#[cfg(target_vendor = "apple")]
pub(crate) const TIMER: (u32, u64, Option<u32>) = (libc::NOTE_NSECONDS, 1, Some(libc::NOTE_ABSOLUTE));
#[cfg(not(any(target_os = "freebsd", target_vendor = "apple", all(target_os = "linux", not(forkio_libkqueue)))))]
pub(crate) const TIMER: (u32, u64, Option<u32>) = (0, 1_000_000, None);

/// A flag of kqueuex(2): the queue is close-on-exec.
pub(crate) const KQUEUE_CLOEXEC: u32 = 1;
/// A flag of kqueuex(2): the kernel copies the queue on fork.
pub(crate) const KQUEUE_CPONFORK: u32 = 2;

/// Makes a change, like `EV_SET(2)`, with the fields that registrations use.
pub(crate) fn kevent_of(ident: usize, filter: Filter, flags: Flags, udata: usize) -> Kevent {
    // SAFETY: all fields are numbers, or pointers that may be null.
    let zero = unsafe { std::mem::zeroed::<Kevent>() };
    Kevent { ident: ident as _, filter, flags, udata: udata as _, ..zero }
}

/// Creates a queue, close-on-exec. Async-signal-safe.
#[cfg(target_os = "netbsd")]
pub(crate) fn kqueue() -> io::Result<RawFd> {
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::kqueue1(libc::O_CLOEXEC) })
}

#[cfg(not(target_os = "netbsd"))]
pub(crate) fn kqueue() -> io::Result<RawFd> {
    // SAFETY: the call takes no pointer.
    let fd = check(unsafe { system::kqueue() })?;
    // A fork between the two calls does no harm: the child does not get this queue.
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).inspect_err(|_| {
        // SAFETY: no other code has the descriptor.
        unsafe { libc::close(fd) };
    })?;
    Ok(fd)
}

/// Creates a queue with kqueuex(2), which FreeBSD 14.0 added. `None`: the system has no such function.
pub(crate) fn kqueuex(flags: u32) -> Option<io::Result<RawFd>> {
    /// Looks the function up at run time, so that one program runs on older releases too.
    #[cfg(any(not(target_os = "linux"), forkio_libkqueue))]
    fn call(flags: u32) -> Option<libc::c_int> {
        type Kqueuex = unsafe extern "C" fn(libc::c_uint) -> libc::c_int;
        // SAFETY: the name ends with a zero byte.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"kqueuex".as_ptr()) };
        // SAFETY: sys/event.h declares a function of this name with this type. A null pointer is `None`.
        let kqueuex = unsafe { std::mem::transmute::<*mut libc::c_void, Option<Kqueuex>>(function) };
        // SAFETY: the call takes no pointer.
        kqueuex.map(|kqueuex| unsafe { kqueuex(flags) })
    }
    #[cfg(all(target_os = "linux", not(forkio_libkqueue)))]
    fn call(flags: u32) -> Option<libc::c_int> {
        // SAFETY: the call takes no pointer.
        Some(unsafe { system::kqueuex(flags) })
    }

    match check(call(flags)?) {
        // The C library may have the function although the kernel lacks the system call.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => None,
        result => Some(result),
    }
}

/// Calls kevent(2). Async-signal-safe.
///
/// # Safety
///
/// `changes` must point to `nchanges` changes, and `events` to room for `nevents` events.
pub(crate) unsafe fn kevent(
    queue: RawFd,
    changes: *const Kevent,
    nchanges: usize,
    events: *mut Kevent,
    nevents: usize,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    /// Systems differ in the longest time that they accept; 68 years are enough.
    const LONGEST: u64 = i32::MAX as u64;
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(LONGEST) as _,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    #[allow(clippy::useless_conversion, reason = "systems differ in the type")]
    let [nchanges, nevents] = [nchanges, nevents].map(|length| Count::try_from(length).unwrap_or(Count::MAX));
    // SAFETY: the caller vouches for both lists; the timeout is null or outlives the call.
    let count = check(unsafe { system::kevent(queue, changes, nchanges, events, nevents, timeout) })?;
    Ok(count as usize)
}

#[cfg(not(target_os = "netbsd"))]
type Count = libc::c_int;
#[cfg(target_os = "netbsd")]
type Count = libc::size_t;

/// Describes a descriptor with fstat(2). On FreeBSD a queue has the type of a pipe, and queues and internet sockets have device
/// 0 and inode 0.
pub(crate) fn fstat(fd: RawFd) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the structure.
    check(unsafe { system::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so the structure is filled.
    Ok(unsafe { stat.assume_init() })
}

/// Returns the address of a socket's control block in the kernel, which identifies the socket: `kf_sock_pcb` of `F_KINFO`,
/// which FreeBSD 13.1 added. `None`: the descriptor is not a socket, or the system does not report it.
pub(crate) fn socket_pcb(fd: RawFd) -> Option<u64> {
    #[cfg(target_os = "freebsd")]
    let pcb = {
        /// `struct kinfo_file` in words. libc hides the fields of sockets.
        const WORDS: usize = size_of::<libc::kinfo_file>() / size_of::<u64>();
        const PCB: usize = 304 / size_of::<u64>();
        let mut file = [0_u64; WORDS];
        // SAFETY: the structure is as large as the array, and begins with an int for its size.
        unsafe { file.as_mut_ptr().cast::<libc::c_int>().write(size_of_val(&file) as libc::c_int) };
        // SAFETY: the kernel fills as many bytes as the first field says.
        let result = unsafe { libc::fcntl(fd, libc::F_KINFO, file.as_mut_ptr()) };
        if result == -1 { 0 } else { file[PCB] }
    };
    #[cfg(all(target_os = "linux", not(forkio_libkqueue)))]
    // SAFETY: the call takes no pointer.
    let pcb = unsafe { system::socket_pcb(fd) };
    #[cfg(not(any(target_os = "freebsd", all(target_os = "linux", not(forkio_libkqueue)))))]
    let pcb = {
        let _ = fd;
        0
    };
    Some(pcb).filter(|pcb| *pcb != 0)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
