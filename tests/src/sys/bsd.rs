//! FreeBSD, DragonFly, NetBSD, OpenBSD and macOS.

use std::collections::BTreeMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::time::Duration;

use forkio::SharedObject;

use super::{Stat, TimerClock, by_id};

/// Every process that there is, as ps(1) lists them: each system has a structure of its own for it.
pub fn processes() -> BTreeMap<i32, Stat> {
    let output = Command::new("/bin/ps").args(["-ax", "-o", "pid=,state=,ppid=,pgid="]).output().expect("ps");
    let lines = String::from_utf8_lossy(&output.stdout);
    let own = std::process::id().cast_signed();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let pid = fields.next()?.parse().ok()?;
        let state = fields.next()?.chars().next()?;
        Some(Stat { pid, state, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
    };
    // The listing's own process is over by now. No child of this one runs at that moment but is still there afterwards.
    by_id(lines.lines().filter_map(parse).filter(|process| process.parent != own || exists(process.pid)))
}

fn exists(pid: i32) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, 0) == 0 }
}

/// Whether a process has ended, though its parent may not have asked for its status yet.
pub fn has_ended(pid: i32) -> bool {
    processes().get(&pid).is_none_or(Stat::has_ended)
}

/// The descriptors that this process has open.
pub fn open_descriptors() -> Vec<i32> {
    // SAFETY: no memory is involved.
    let limit = unsafe { libc::getdtablesize() };
    // SAFETY: as above.
    (0..limit).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1).collect()
}

/// The descriptors that a queue of this process watches, each with its token, as the kernel lists them; `None`: it does not.
pub fn watched_descriptors(_: i32) -> Option<Vec<(i32, u64)>> {
    None
}

/// For each queue of this process that watches a descriptor: whether exclusively. `None`: the kernel does not list them.
pub fn exclusive_in_kernel(_: RawFd) -> Option<Vec<bool>> {
    None
}

/// What an audit calls a descriptor that has neither path nor address.
pub fn name_of(fd: &impl AsRawFd) -> String {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills it; all zero is a value.
    let stat = unsafe {
        libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr());
        stat.assume_init()
    };
    format!("inode {} of device {:#x}", stat.st_ino, stat.st_dev)
}

/// One of everything that only this system has as a descriptor: there is nothing that an audit would list.
pub fn kernel_objects() -> Vec<(OwnedFd, SharedObject, String)> {
    Vec::new()
}

/// Whether an audit finds out about locks of files.
pub const LOCKS_ARE_SEEN: bool = false;

/// A descriptor with nothing in it. `None`: there is no such thing.
pub fn path_only() -> Option<File> {
    None
}

/// A watch of files that is a descriptor. `None`: there is no such thing.
pub fn inotify() -> Option<OwnedFd> {
    None
}

/// A descriptor that a signal is read from. `None`: there is no such thing.
pub fn signalfd(_: i32) -> Option<OwnedFd> {
    None
}

/// Whether two processes have the same open file description at a number. `None`: the kernel does not tell.
pub fn is_shared(_: u32, _: RawFd) -> Option<bool> {
    None
}

/// Forks without the C library: no handler runs. 0 in the child. `None`: there is no way.
///
/// # Safety
///
/// The child does what signal-safety(7) allows, and ends by `_exit`.
#[cfg(target_os = "freebsd")]
pub unsafe fn fork_behind_libc() -> Option<i32> {
    // SAFETY: the caller's promise.
    Some(unsafe { libc::rfork(libc::RFPROC | libc::RFFDG) })
}

/// Forks without the C library: no handler runs. 0 in the child. `None`: there is no way.
///
/// # Safety
///
/// The child does what signal-safety(7) allows, and ends by `_exit`.
#[cfg(not(target_os = "freebsd"))]
pub unsafe fn fork_behind_libc() -> Option<i32> {
    None
}

/// Has tokio wait for SIGCHLD: it has nothing else here.
pub fn deny_tokio_pidfds() {}

/// The CPUs of this process. `None`: the kernel knows no connections by CPU.
pub fn allowed_cpus() -> Option<Vec<usize>> {
    None
}

/// Keeps this thread on one CPU.
pub fn stay_on(_: usize) {
    unreachable!("there are no allowed CPUs");
}

/// The CPU whose connections a listener is preferred for.
pub fn cpu_of(_: &impl AsFd) -> usize {
    unreachable!("there are no allowed CPUs");
}

/// A timer that is a descriptor by itself: there is none.
#[derive(Debug)]
pub struct Timerfd(OwnedFd);

#[allow(missing_docs)]
impl Timerfd {
    /// `None`: there is no such thing.
    pub fn new(_: TimerClock, _: bool) -> Option<Timerfd> {
        None
    }

    pub fn set(&self, _: Duration, _: Duration) {}

    pub fn set_at(&self, _: Duration, _: Duration) {}

    pub fn set_until_clock_is_set(&self, _: Duration) {}

    pub fn is_until_clock_is_set(&self) -> bool {
        false
    }

    pub fn take(&self) -> u64 {
        0
    }

    pub fn blocks(&self) -> bool {
        false
    }
}

impl AsRawFd for Timerfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
