//! What goes with epoll(7): eventfd(2) and pidfd_open(2).

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use forkio_reactor::fork::ForkPolicy;
use forkio_reactor::unix::Process;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use super::watch;
use crate::Child;

/// What wakes all processes that listen to it: an eventfd that nobody reads, so that each write is an event for each of
/// them.
#[derive(Debug)]
pub(crate) struct Bell(AsyncFd<OwnedFd>);

impl Bell {
    /// In the parent, which does not listen to it.
    pub(crate) fn new() -> io::Result<Bell> {
        let bell = inherited(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)?;
        crate::mute(&bell)?;
        Ok(Bell(bell))
    }

    pub(crate) fn ring(&self) -> io::Result<()> {
        // Counting every nanosecond its 64 bits last for centuries.
        rustix::io::write(&self.0, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// For the current runtime, which need not be the one that this process has inherited.
    pub(crate) fn listen(&self) -> io::Result<AsyncFd<OwnedFd>> {
        inherited(self.0.as_fd().try_clone_to_owned()?)
    }
}

fn inherited(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let watched = watch(fd).map_err(|(_, error)| error)?;
    crate::set_policy(&watched, ForkPolicy::Inherit)?;
    Ok(watched)
}

/// What the watch of a child will need, to be dropped before it: that there is such a thing here, and a descriptor for it.
pub(crate) fn reserve_watch() -> io::Result<Process> {
    Process::open(std::process::id())
}

/// Sends a signal to the process, whatever its number stands for by now.
pub(crate) fn send_signal(process: &Process, signal: i32) -> io::Result<()> {
    let signal = NonZero::new(signal).filter(|number| (1..=libc::SIGRTMAX()).contains(&number.get()));
    let signal = signal.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "not the number of a signal: those are 1 to SIGRTMAX")
    })?;
    // SAFETY: what makes other numbers unsafe is to handle or block them; this sends one to another process.
    let signal = unsafe { Signal::from_raw_nonzero_unchecked(signal) };
    Ok(pidfd_send_signal(process, signal)?)
}

/// Linux only.
impl Child {
    /// The [pidfd](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), until the child has been waited for.
    pub fn as_pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.process().ok().map(AsFd::as_fd)
    }
}
