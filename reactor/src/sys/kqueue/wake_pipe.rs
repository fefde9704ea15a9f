//! pipe2(2) as the kernel object of a waker, where not every supported release of the system has `EVFILT_USER`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{Event, Queue, kernel};
use crate::sys::syscall;
use crate::waker_slot::WakerDescriptors;
use crate::{Interest, Token};

/// The filter of a waker's events.
pub(super) const FILTER: kernel::Filter = kernel::EVFILT_READ;

/// A pipe that is written, and emptied only when it is full: each write is an edge.
#[derive(Debug)]
pub(crate) struct WakeSignal {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl WakeSignal {
    pub(crate) fn new(queue: &Queue, token: Token) -> io::Result<WakeSignal> {
        let [reader, writer] = create()?;
        queue.add(reader.as_raw_fd(), token, Interest::READABLE)?;
        Ok(WakeSignal { reader, writer })
    }

    pub(crate) fn descriptors(&self) -> WakerDescriptors {
        WakerDescriptors { registered: self.reader.as_raw_fd(), sender: self.writer.as_raw_fd() }
    }

    pub(crate) fn signal(&self, _: &Queue, _: Token) -> io::Result<()> {
        loop {
            match send(self.writer.as_raw_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => empty(self.reader.as_raw_fd()),
                result => return result,
            }
        }
    }

    /// Called before the waker is dropped. Closing the pipe is enough.
    pub(crate) fn remove(&self, _: &Queue) {}

    /// Signals a waker that another thread may own. Async-signal-safe.
    pub(crate) fn signal_at(descriptors: WakerDescriptors, _: &Queue, _: Token) -> Result<(), i32> {
        match send(descriptors.sender) {
            // A full pipe is readable.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(super::copy::errno(error)),
            _ => Ok(()),
        }
    }

    /// Makes fresh objects for a child, each with the descriptor whose place it takes.
    pub(crate) fn renew(descriptors: WakerDescriptors) -> io::Result<[(OwnedFd, RawFd); 2]> {
        let [reader, writer] = create()?;
        Ok([(writer, descriptors.sender), (reader, descriptors.registered)])
    }

    /// Returns no changes: the reader is registered like any other descriptor.
    pub(super) fn renewing_changes(_: Token) -> [Event; 0] {
        []
    }

    pub(super) fn set_pending(_: &mut [Event], _: bool) {}
}

fn create() -> io::Result<[OwnedFd; 2]> {
    let mut fds = [-1; 2];
    // SAFETY: the kernel writes two descriptors.
    syscall!(pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK))?;
    // SAFETY: the kernel has just given us these descriptors, and nothing else owns them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn send(writer: RawFd) -> io::Result<()> {
    // SAFETY: the kernel reads one byte.
    syscall!(write(writer, [0_u8].as_ptr().cast(), 1))?;
    Ok(())
}

fn empty(reader: RawFd) {
    let mut buffer = [0_u8; 4096];
    // It does not matter if another thread has read the bytes meanwhile. SAFETY: the kernel writes at most the buffer's length.
    let _ = syscall!(read(reader, buffer.as_mut_ptr().cast(), buffer.len()));
}
