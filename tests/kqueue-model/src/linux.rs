//! System calls of Linux, which the model is built on.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Calls a function of libc that reports failure by -1. Does not retry.
macro_rules! syscall {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        // SAFETY: the arguments are those that the function's manual page requires. Where that is not obvious, the caller
        // says why. A wrong descriptor is never unsafe: it gives EBADF.
        let result = unsafe { libc::$name($($arg),*) };
        if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}
pub(crate) use syscall;

/// Takes over a descriptor that the kernel has just returned.
pub(crate) fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the descriptor is new, so no other code owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(crate) fn epoll() -> io::Result<OwnedFd> {
    syscall!(epoll_create1(libc::EPOLL_CLOEXEC)).map(owned)
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    syscall!(eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)).map(owned)
}

pub(crate) fn timerfd() -> io::Result<OwnedFd> {
    syscall!(timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)).map(owned)
}

pub(crate) fn signalfd(signal: i32) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
    }
    // SAFETY: the set is filled.
    syscall!(signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)).map(owned)
}

pub(crate) fn pidfd(process: libc::pid_t) -> io::Result<OwnedFd> {
    syscall!(syscall(libc::SYS_pidfd_open, process, 0)).map(|fd| owned(fd as RawFd))
}

pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    syscall!(fcntl(fd, libc::F_DUPFD_CLOEXEC, 0)).map(owned)
}

/// Makes `onto` a close-on-exec duplicate of `from`.
pub(crate) fn replace(from: RawFd, onto: RawFd) -> io::Result<()> {
    syscall!(dup3(from, onto, libc::O_CLOEXEC)).map(drop)
}

/// The descriptors that a fork has left unused in this process. FreeBSD does not give them to new objects.
static UNUSED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

pub(crate) fn leave_unused(fds: BTreeSet<RawFd>) {
    *UNUSED.lock().unwrap_or_else(PoisonError::into_inner) = fds;
}

/// Makes a descriptor other than those that a fork has left unused.
pub(crate) fn aside(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
    // A descriptor is in use again once the program has put an object at it.
    unused.retain(|fd| !is_open(*fd));
    let mut fd = make()?;
    while unused.contains(&fd.as_raw_fd()) {
        let next = fd.as_raw_fd() + 1;
        fd = syscall!(fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, next)).map(owned)?;
    }
    Ok(fd)
}

pub(crate) fn set_close_on_exec(fd: RawFd, is_set: bool) -> io::Result<()> {
    syscall!(fcntl(fd, libc::F_SETFD, if is_set { libc::FD_CLOEXEC } else { 0 })).map(drop)
}

pub(crate) fn is_close_on_exec(fd: RawFd) -> bool {
    syscall!(fcntl(fd, libc::F_GETFD)).is_ok_and(|flags| flags & libc::FD_CLOEXEC != 0)
}

pub(crate) fn is_open(fd: RawFd) -> bool {
    syscall!(fcntl(fd, libc::F_GETFD)).is_ok()
}

pub(crate) fn close(fd: RawFd) {
    // An error says that the descriptor is not open.
    let _ = syscall!(close(fd));
}

/// Returns the descriptors of this process, and the descriptor of the list itself, which is closed again. The result is empty
/// if the process has no descriptor left for the list.
pub(crate) fn list_descriptors() -> Vec<RawFd> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(crate) fn stat(fd: RawFd) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    syscall!(fstat(fd, stat.as_mut_ptr()))?;
    // SAFETY: fstat has succeeded, so it has filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// Device and inode, which all duplicates of a socket or pipe share.
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity(fd: RawFd) -> io::Result<Identity> {
    stat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Returns the file type of `st_mode`: 0 for an epoll instance, and for the other objects without a type.
pub(crate) fn file_type(fd: RawFd) -> Option<libc::mode_t> {
    Some(stat(fd).ok()?.st_mode & libc::S_IFMT)
}

pub(crate) fn pending_bytes(fd: RawFd) -> io::Result<i64> {
    let mut waiting: libc::c_int = 0;
    syscall!(ioctl(fd, libc::FIONREAD, &mut waiting))?;
    Ok(waiting.into())
}

/// Returns what poll(2) reports about a descriptor, without waiting. Returns 0 if the descriptor is not open.
pub(crate) fn poll_now(fd: RawFd, events: libc::c_short) -> libc::c_short {
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    loop {
        // A signal may interrupt the call although it does not wait.
        match syscall!(poll(&mut poll, 1, 0)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) if poll.revents & libc::POLLNVAL == 0 => return poll.revents,
            _ => return 0,
        }
    }
}

pub(crate) fn wait_until_readable(fd: RawFd, limit: Option<Duration>) -> io::Result<()> {
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().min(i32::MAX as u64) as _,
        tv_nsec: limit.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    syscall!(ppoll(&mut poll, 1, limit, std::ptr::null())).map(drop)
}

pub(crate) fn watch(epoll: RawFd, fd: RawFd, events: libc::c_int, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
    match syscall!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event)) {
        // The same open file description is registered already.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            syscall!(epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, &mut event)).map(drop)
        }
        result => result.map(drop),
    }
}

pub(crate) fn unwatch(epoll: RawFd, fd: RawFd) {
    // The descriptor may be closed, or refer to another object.
    let _ = syscall!(epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()));
}

/// Returns the data of the ready entries of an epoll instance.
pub(crate) fn ready_entries(epoll: RawFd) -> Vec<u64> {
    let mut found = Vec::new();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    loop {
        // The kernel writes at most as many events as there is room for.
        let count = syscall!(epoll_wait(epoll, events.as_mut_ptr(), 64, 0)).unwrap_or(0) as usize;
        found.extend(events[..count].iter().map(|event| event.u64));
        if count < events.len() {
            return found;
        }
    }
}

/// Returns the time of a clock in nanoseconds.
pub(crate) fn now(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills `now`. The call cannot fail: the kernel has these clocks.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether a signal is pending in a process, for the process or for its first thread: proc_pid_status(5).
pub(crate) fn is_pending_in(process: libc::pid_t, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Returns how a process has ended, in the encoding of wait(2), without reaping it. Returns 0 if it is not a child.
pub(crate) fn exit_status(pidfd: &OwnedFd) -> i64 {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = pidfd.as_raw_fd().cast_unsigned();
    if syscall!(waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)).is_err() {
        return 0;
    }
    // SAFETY: all zeroes is a valid value of the structure, and the kernel fills the fields that it has for SIGCHLD.
    let (code, status) = unsafe {
        let info = info.assume_init();
        (info.si_code, info.si_status())
    };
    i64::from(match code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    })
}
