//! eventfd(2) as the kernel object of a waker.

use std::io;
#[cfg(feature = "cponfork")]
use std::os::fd::RawFd;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::syscall;
use crate::io_source::{Registration, SourceKind};
use crate::selector::WakeSlot;
use crate::{Interest, Registry, Token};

/// An eventfd that is written and never read: each write is an edge, and the counter has room for 2^64 - 2 of them.
#[derive(Debug)]
pub(crate) struct WakeSignal {
    // Held for its drop, and declared first: see `IoSource`.
    _registration: Registration,
    fd: OwnedFd,
}

impl WakeSignal {
    pub(crate) fn new(registry: &Registry, slot: &WakeSlot, token: Token) -> io::Result<WakeSignal> {
        let fd = create()?;
        let number = fd.as_raw_fd();
        let mut registration = Registration::new(number, SourceKind::Waker);
        // Before it is registered, so that whoever finds the registration finds the slot.
        slot.set_descriptors(number, number);
        registration.register(registry, number, token, Interest::READABLE)?;
        Ok(WakeSignal { _registration: registration, fd })
    }

    #[inline(always)]
    pub(crate) fn send(&self) -> io::Result<()> {
        Ok(send(self.fd.as_fd())?)
    }

    pub(crate) fn retire(&self, _: &WakeSlot) {}

    /// A fresh object for a child, with the numbers that it takes.
    #[cfg(feature = "cponfork")]
    pub(crate) fn renew(fd: RawFd, _: RawFd) -> io::Result<[(OwnedFd, RawFd); 1]> {
        Ok([(create()?, fd)])
    }

    /// Sends on a descriptor that a fork has renewed. Async-signal-safe.
    #[cfg(feature = "cponfork")]
    pub(crate) fn send_at(fd: RawFd) -> Result<(), i32> {
        // SAFETY: it goes nowhere but to write(2), which says EBADF should the number not be open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        send(fd).map_err(Errno::raw_os_error)
    }
}

fn create() -> io::Result<OwnedFd> {
    let fd = syscall!(eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[inline(always)]
fn send(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(fd, &1_u64.to_ne_bytes())?;
    Ok(())
}
