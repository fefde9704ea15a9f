//! FreeBSD, DragonFly, NetBSD, OpenBSD and macOS: ps(1) instead of proc(5), and substitutes for features of Linux.

use std::collections::BTreeMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::time::Duration;

use forkio::audit::SharedObject;

use super::{Process, TimerClock, by_id};

/// Lists all processes, with ps(1): each system has a structure of its own for them.
pub fn processes() -> BTreeMap<i32, Process> {
    let output = Command::new("/bin/ps").args(["-ax", "-o", "pid=,state=,ppid=,pgid="]).output().expect("ps");
    let lines = String::from_utf8_lossy(&output.stdout);
    let own = std::process::id().cast_signed();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let pid = fields.next()?.parse().ok()?;
        let state = fields.next()?.chars().next()?;
        Some(Process { pid, state, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
    };
    // Leave out ps(1) itself, which has ended by now.
    by_id(lines.lines().filter_map(parse).filter(|process| process.parent != own || exists(process.pid)))
}

fn exists(pid: i32) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid, 0) == 0 }
}

/// Returns the open descriptors of this process.
pub fn open_descriptors() -> Vec<i32> {
    // SAFETY: no memory is involved.
    let limit = unsafe { libc::getdtablesize() };
    // SAFETY: as above.
    (0..limit).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1).collect()
}

/// Closes every descriptor but the standard ones.
pub fn close_inherited_descriptors() {
    #[cfg(target_vendor = "apple")]
    for fd in open_descriptors().into_iter().filter(|fd| *fd > 2) {
        // SAFETY: nothing in this process owns a descriptor yet.
        unsafe { libc::close(fd) };
    }
    #[cfg(not(target_vendor = "apple"))]
    // SAFETY: as above.
    unsafe {
        libc::closefrom(3);
    }
}

/// Returns the descriptors that a queue of this process watches, with their tokens, if the kernel lists them.
pub fn watched_descriptors(_: i32) -> Option<Vec<(i32, u64)>> {
    None
}

/// Returns, for each queue of this process that watches the descriptor, whether the queue watches exclusively. `None`
/// if the kernel does not report that.
pub fn exclusive_in_kernel(_: RawFd) -> Option<Vec<bool>> {
    None
}

/// Returns the name that an audit gives to a descriptor that has neither path nor address.
pub fn name_of(fd: &impl AsRawFd) -> String {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills the structure, of which all zero is a valid value.
    let stat = unsafe {
        libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr());
        stat.assume_init()
    };
    format!("inode {} of device {:#x}", stat.st_ino, stat.st_dev)
}

/// Returns an empty list: the scenarios open no kind of descriptor that only these systems have.
pub fn kernel_objects() -> Vec<(OwnedFd, SharedObject, String)> {
    Vec::new()
}

/// Whether an audit can see that a file is locked.
pub const LOCKS_ARE_SEEN: bool = false;

/// Opens a descriptor without state that a child could share. `None` if the system has no such descriptor.
pub fn path_only() -> Option<File> {
    None
}

/// Opens a descriptor that watches files. `None` if the system has no such descriptor.
pub fn inotify() -> Option<OwnedFd> {
    None
}

/// Opens a descriptor to read signals from. `None` if the system has no such descriptor.
pub fn signalfd(_: i32) -> Option<OwnedFd> {
    None
}

/// Whether this process and another one have the same open file description at `fd`. `None` if the kernel does not
/// report it.
pub fn is_shared(_: u32, _: RawFd) -> Option<bool> {
    None
}

/// Forks without the C library's `fork`, so that no `pthread_atfork` handler runs. Returns 0 in the child, and `None` if the
/// system has no way to do it.
///
/// # Safety
///
/// The child must do only what signal-safety(7) allows, and end with `_exit`.
pub unsafe fn fork_behind_libc() -> Option<i32> {
    #[cfg(target_os = "freebsd")]
    {
        // SAFETY: the caller keeps the contract, which is the same.
        Some(unsafe { libc::rfork(libc::RFPROC | libc::RFFDG) })
    }
    #[cfg(not(target_os = "freebsd"))]
    None
}

/// Does nothing: on these systems, tokio always waits for SIGCHLD.
pub fn deny_tokio_pidfds() {}

/// Does nothing: only Linux has seccomp(2), which makes the sends fail.
pub fn deny_sends_of(_: u32) {}

/// Returns the CPUs that this process may use. `None` if the kernel does not steer connections by CPU.
pub fn allowed_cpus() -> Option<Vec<usize>> {
    None
}

/// Pins this thread to a CPU.
pub fn stay_on(_: usize) {
    unreachable!("there are no allowed CPUs");
}

/// Returns the CPU whose connections a listener prefers.
pub fn cpu_of(_: &impl AsFd) -> usize {
    unreachable!("there are no allowed CPUs");
}

/// A timerfd. The tests open none on these systems.
#[derive(Debug)]
pub struct Timerfd(OwnedFd);

#[allow(missing_docs)]
impl Timerfd {
    /// Opens a timer. `None` if the system has no such timer.
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
