//! pipe2(2) as the kernel object of a waker, where not every supported release of the system has `EVFILT_USER`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::{Event, Queue, kernel};
use crate::sys::descriptor;
use crate::wakeable_queue::WakerDescriptors;
use crate::{Interest, Token};

pub(super) const FILTER: kernel::Filter = kernel::EVFILT_READ;

/// A pipe that is written, and emptied only when it is full: each write is an edge.
#[derive(Debug)]
pub(crate) struct WakeSignal {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl WakeSignal {
    pub(crate) fn new(queue: &Queue, token: Token) -> io::Result<WakeSignal> {
        let (reader, writer) = descriptor::pipe()?;
        queue.add(reader.as_raw_fd(), token, Interest::READABLE)?;
        Ok(WakeSignal { reader, writer })
    }

    pub(crate) fn descriptors(&self) -> WakerDescriptors {
        WakerDescriptors { registered: self.reader.as_raw_fd(), sender: self.writer.as_raw_fd() }
    }

    pub(crate) fn signal(&self, _: &Queue, _: Token) -> io::Result<()> {
        loop {
            match send(self.writer.as_fd()) {
                Err(Errno::AGAIN) => {
                    // It does not matter if another thread has read the bytes meanwhile.
                    let _ = rustix::io::read(&self.reader, &mut [0; 4096]);
                }
                result => return Ok(result?),
            }
        }
    }

    /// Does nothing: closing the pipe is enough.
    pub(crate) fn remove(&self, _: &Queue) {}

    pub(crate) fn signal_at(descriptors: WakerDescriptors, _: &Queue, _: Token) -> Result<(), i32> {
        match descriptor::borrow(descriptors.sender).and_then(send) {
            // A full pipe is readable.
            Err(error) if error != Errno::AGAIN => Err(error.raw_os_error()),
            _ => Ok(()),
        }
    }

    pub(crate) fn renew(descriptors: WakerDescriptors) -> io::Result<[(OwnedFd, RawFd); 2]> {
        let (reader, writer) = descriptor::pipe()?;
        Ok([(writer, descriptors.sender), (reader, descriptors.registered)])
    }

    /// Returns no changes: the reader is registered like any other descriptor.
    pub(super) fn renewing_changes(_: Token) -> [Event; 0] {
        []
    }

    pub(super) fn set_pending(_: &mut [Event], _: bool) {}
}

fn send(writer: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(writer, &[0]).map(drop)
}
