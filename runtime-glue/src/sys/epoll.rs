//! Wakes and process handles on systems with epoll(7): eventfd(2) and pidfd_open(2).

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};

use forkio_reactor::unix::Process;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use super::watch_inherited;

/// An eventfd that wakes all processes that wait for it. No process reads the eventfd, so each write is an event in each process.
#[derive(Debug)]
pub(crate) struct SharedWake(AsyncFd<OwnedFd>);

impl SharedWake {
    /// Creates the eventfd, muted in this process.
    pub(crate) fn new() -> io::Result<SharedWake> {
        let eventfd = watch_inherited(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)?;
        crate::policy::mute(&eventfd)?;
        Ok(SharedWake(eventfd))
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        // The counter has 64 bits, and does not overflow.
        rustix::io::write(&self.0, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// Registers a duplicate of the eventfd with the current runtime, which need not be the inherited one.
    pub(crate) fn waiter(&self) -> io::Result<AsyncFd<OwnedFd>> {
        watch_inherited(self.0.as_fd().try_clone_to_owned()?)
    }
}

/// Checks that a child can be watched, and reserves a descriptor for the watch. Drop the result before the child
/// is watched.
pub(crate) fn reserve_watch() -> io::Result<Process> {
    Process::open(std::process::id())
}

/// Sends a signal to the process, and never to another process that got the same id.
pub(crate) fn send_signal(process: &Process, signal: i32) -> io::Result<()> {
    let known = NonZero::new(signal).filter(|number| (1..=libc::SIGRTMAX()).contains(&number.get()));
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "the signal is not a number from 1 to SIGRTMAX");
    let signal = known.ok_or_else(refused)?;
    // SAFETY: it would be unsafe to handle or block a signal that libc reserves. This function only sends it to another process.
    let signal = unsafe { Signal::from_raw_nonzero_unchecked(signal) };
    Ok(pidfd_send_signal(process, signal)?)
}
