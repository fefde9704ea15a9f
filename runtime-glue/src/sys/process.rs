//! Processes, their signals, and what a runtime is woken by: the same on all systems.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

use forkio_reactor::fork::generation;
use forkio_reactor::unix::{Clock, Process, Timer};

/// What owns its descriptor.
///
/// # Safety
///
/// It gives the same open descriptor for as long as it lives.
pub(crate) unsafe trait OwnsDescriptor: AsRawFd {}

// SAFETY: nothing but a descriptor, which is closed with it.
unsafe impl OwnsDescriptor for OwnedFd {}
// SAFETY: made with its descriptor, which is closed with it.
unsafe impl OwnsDescriptor for Timer {}
// SAFETY: made with its descriptor, which is closed with it.
unsafe impl OwnsDescriptor for Process {}

/// Registers something, for its becoming readable, with the current runtime.
///
/// # Panics
///
/// tokio panics if the runtime has no I/O driver.
pub(crate) fn watch<T: OwnsDescriptor>(source: T) -> Result<AsyncFd<T>, (T, io::Error)> {
    // SAFETY: what the trait promises.
    unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) }.map_err(AsyncFdRegisterError::into_parts)
}

/// A timer that expires each time `period` has passed: the runtime may have no timers.
pub(crate) fn ticker(period: Duration) -> io::Result<AsyncFd<Timer>> {
    let mut timer = Timer::new(Clock::Monotonic)?;
    timer.set_after(period, Some(period))?;
    watch(timer).map_err(|(_, error)| error)
}

/// Whether something could be read, or accepted, now.
pub(crate) fn is_readable(io: &impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(io, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// Kills and reaps a child that cannot be watched.
pub(crate) fn destroy_process(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It is a child of ours and not reaped, so the number is its own; failure means that it is gone.
        let _ = kill_process(pid, Signal::KILL);
        while let Err(rustix::io::Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
    }
}

/// Has the kernel end this process `seconds` after it is first told to stop, however stuck it is.
///
/// The means is alarm(2) with SIGALRM's default action, set in a signal handler. It is armed once, and not in processes
/// that this one forks.
pub(crate) fn end_after_stop_signal(seconds: u32) -> io::Result<()> {
    static ARMED: AtomicBool = AtomicBool::new(false);

    // SAFETY: `set` is filled before it is read; a default action runs no code of anybody's.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGALRM);
        libc::signal(libc::SIGALRM, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
    let worker = generation();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let arm = move || {
            if generation() == worker && !ARMED.swap(true, Ordering::Relaxed) {
                // SAFETY: alarm(2) has no memory to touch.
                unsafe { libc::alarm(seconds) };
            }
        };
        // SAFETY: the handler touches two atomics and makes one async-signal-safe system call.
        unsafe { signal_hook_registry::register(signal, arm) }?;
    }
    Ok(())
}

/// Writes what C's stdio has buffered, of all streams.
pub(crate) fn flush_stdio() {
    // SAFETY: without a stream it means all of them; it takes each stream's lock.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// In a child: sends this process SIGCHLD if it is handled.
///
/// Where tokio has no pidfd of a process (none left, or an old kernel), tasks wait for this signal and then look. In the
/// child it would not come: the process is the parent's. Having looked they know.
pub(crate) fn raise_child_signal() {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the kernel fills `action`; it cannot fail for this signal.
    let handler = unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    };
    if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
        let _ = kill_process(getpid(), Signal::CHILD);
    }
}

/// Sends a signal to this process.
pub(crate) fn raise_terminate() {
    let _ = kill_process(getpid(), Signal::TERM);
}
