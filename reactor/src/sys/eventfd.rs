//! eventfd(2) as the kernel object of a waker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

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

    #[inline(always)]
    pub(crate) fn send(&self) -> io::Result<()> {
        Ok(send(self.0.as_fd())?)
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
        // SAFETY: it goes nowhere but to write(2), which says EBADF should the number not be open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        send(fd).map_err(Errno::raw_os_error)
    }
}

#[inline(always)]
fn send(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(fd, &1_u64.to_ne_bytes())?;
    Ok(())
}
