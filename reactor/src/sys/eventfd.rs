//! eventfd(2) as the kernel object of a waker.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::syscall;

/// An eventfd that is written and never read: each write is an edge, and the counter has room for 2^64 - 2 of them.
#[derive(Debug)]
pub(crate) struct WakeSignal(OwnedFd);

impl WakeSignal {
    pub(crate) fn new() -> io::Result<WakeSignal> {
        let fd = syscall!(eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
        Ok(WakeSignal(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn send(&self) -> io::Result<()> {
        send(self.0.as_raw_fd())
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    #[cfg(feature = "cponfork")]
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends on a descriptor that a fork has renewed. Async-signal-safe.
    #[cfg(feature = "cponfork")]
    pub(crate) fn send_at(fd: RawFd) -> Result<(), i32> {
        send(fd).map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    }
}

fn send(fd: RawFd) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: the kernel reads the eight bytes of `one`.
    syscall!(write(fd, (&raw const one).cast(), size_of::<u64>()))?;
    Ok(())
}
