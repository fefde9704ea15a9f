//! Descriptors in the current runtime, processes and signals, on all systems.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use forkio_reactor::fork::ForkPolicy;
use forkio_reactor::unix::{Clock, Process, Timer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// An object that owns its descriptor.
///
/// # Safety
///
/// The object must return the same open descriptor for as long as it lives.
pub(crate) unsafe trait OwnsDescriptor: AsRawFd {}

// SAFETY: an `OwnedFd` owns its descriptor, and closes it when it is dropped.
unsafe impl OwnsDescriptor for OwnedFd {}
// SAFETY: a `Timer` owns one descriptor from its creation on, and closes it when it is dropped.
unsafe impl OwnsDescriptor for Timer {}
// SAFETY: a `Process` owns one descriptor from its creation on, and closes it when it is dropped.
unsafe impl OwnsDescriptor for Process {}

/// Registers an object with the current runtime, to wait until it is readable.
///
/// # Panics
///
/// tokio panics outside a runtime, and inside a runtime without an I/O driver.
pub(crate) fn watch<T: OwnsDescriptor>(source: T) -> io::Result<AsyncFd<T>> {
    try_watch(source).map_err(|(_, error)| error)
}

/// Like [`watch`], but returns the object along with an error.
pub(crate) fn try_watch<T: OwnsDescriptor>(source: T) -> Result<AsyncFd<T>, (T, io::Error)> {
    // SAFETY: the trait promises that the descriptor stays open and the same.
    unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }.map_err(AsyncFdRegisterError::into_parts)
}

/// Like [`watch`], but children inherit the object instead of following the default policy of its kind.
pub(crate) fn watch_inherited<T: OwnsDescriptor>(source: T) -> io::Result<AsyncFd<T>> {
    let watched = watch(source)?;
    crate::set_policy(&watched, ForkPolicy::Inherit)?;
    Ok(watched)
}

/// Starts a kernel timer that expires after each `period`. (The runtime may have no time driver.)
pub(crate) fn ticker(period: Duration) -> io::Result<AsyncFd<Timer>> {
    let mut timer = Timer::new(Clock::Monotonic)?;
    timer.set_after(period, Some(period))?;
    watch(timer)
}

/// Whether a read or an accept would not block.
pub(crate) fn is_readable(io: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(io, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// Unblocks signals in the calling thread, which may have inherited a mask that blocks them.
pub(crate) fn unblock_signals(signals: impl Iterator<Item = i32>) -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, signals)
}

/// Blocks a signal in the calling thread, so that another thread receives it.
pub(crate) fn block_signal(signal: i32) -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, [signal].into_iter())
}

fn change_mask(how: i32, signals: impl Iterator<Item = i32>) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) initialises the set before the other functions use it.
    let errno = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Kills and reaps a child that cannot be watched. Does nothing if the process is not a child of this one.
pub(crate) fn destroy_process(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if let Ok(None) = waitpid(Some(pid), WaitOptions::NOHANG) {
        // The child runs, so no other process has its id.
        let _ = kill_process(pid, Signal::KILL);
        while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
    }
}

/// Flushes all streams of C's stdio.
pub(crate) fn flush_stdio() {
    // SAFETY: a null pointer means all streams. fflush(3) takes the lock of each one.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Sends SIGCHLD to this process, the child of a fork, if the signal has a handler.
///
/// If tokio has no pidfd for a process (no descriptor left, or an old kernel), tokio checks the process after each
/// SIGCHLD. The kernel sends the child of a fork no SIGCHLD for a process that the parent started. This signal makes
/// tokio check that process, and tasks that wait for it get an error.
pub(crate) fn raise_child_signal() {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the kernel fills `action`. The call cannot fail for this signal.
    let handler = unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    };
    if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
        let _ = kill_process(getpid(), Signal::CHILD);
    }
}

pub(crate) fn raise_terminate() {
    let _ = kill_process(getpid(), Signal::TERM);
}
