//! eventfd(2) as the kernel object of a waker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::sys::{Queue, descriptor};
use crate::wakeable_queue::WakerDescriptors;
use crate::{Interest, Token};

/// An eventfd that is written and never read: each write is an edge, and the counter has room for 2^64 - 2 of them.
#[derive(Debug)]
pub(crate) struct WakeSignal(OwnedFd);

impl WakeSignal {
    pub(crate) fn new(queue: &Queue, token: Token) -> io::Result<WakeSignal> {
        let fd = create()?;
        // Mark the queue here and not in `Poll::new`, which would take a tenth longer.
        descriptor::mark(queue, OFlags::empty())?;
        queue.add(fd.as_raw_fd(), token, Interest::READABLE)?;
        Ok(WakeSignal(fd))
    }

    pub(crate) fn descriptors(&self) -> WakerDescriptors {
        let fd = self.0.as_raw_fd();
        WakerDescriptors { registered: fd, sender: fd }
    }

    #[inline(always)]
    pub(crate) fn signal(&self, _: &Queue, _: Token) -> io::Result<()> {
        Ok(signal(self.0.as_fd())?)
    }

    /// Does nothing: closing the eventfd is enough, because a child that still has it does not write to it.
    pub(crate) fn remove(&self, _: &Queue) {}

    pub(crate) fn signal_at(descriptors: WakerDescriptors, _: &Queue, _: Token) -> Result<(), i32> {
        descriptor::borrow(descriptors.sender).and_then(signal).map_err(Errno::raw_os_error)
    }

    pub(crate) fn renew(descriptors: WakerDescriptors) -> io::Result<[(OwnedFd, RawFd); 1]> {
        Ok([(create()?, descriptors.sender)])
    }
}

fn create() -> Result<OwnedFd, Errno> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    descriptor::mark(&fd, OFlags::NONBLOCK)?;
    Ok(fd)
}

#[inline(always)]
fn signal(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(fd, &1_u64.to_ne_bytes())?;
    Ok(())
}
