//! pipe2(2) as the kernel object of a waker, where not every supported release of the system has `EVFILT_USER`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::io_source::{Registration, SourceKind};
use crate::selector::WakeSlot;
use crate::sys::syscall;
use crate::{Interest, Registry, Token};

/// A pipe that is written, and emptied only when it is full: each write is an edge.
#[derive(Debug)]
pub(crate) struct WakeSignal {
    // Held for its drop, and declared first: see `IoSource`.
    _registration: Registration,
    reader: OwnedFd,
    writer: OwnedFd,
}

impl WakeSignal {
    #[cfg(feature = "cponfork")]
    pub(crate) const IS_EVENT: bool = false;

    pub(crate) fn new(registry: &Registry, slot: &WakeSlot, token: Token) -> io::Result<WakeSignal> {
        let [reader, writer] = create()?;
        let number = reader.as_raw_fd();
        let mut registration = Registration::new(number, SourceKind::Waker);
        // Before it is registered, so that whoever finds the registration finds the slot.
        slot.set_descriptors(number, writer.as_raw_fd());
        registration.register(registry, number, token, Interest::READABLE)?;
        Ok(WakeSignal { _registration: registration, reader, writer })
    }

    pub(crate) fn send(&self) -> io::Result<()> {
        loop {
            match send(self.writer.as_raw_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => empty(&self.reader),
                result => return result,
            }
        }
    }

    pub(crate) fn retire(&self, _: &WakeSlot) {}

    /// A fresh object for a child, with the numbers that it takes.
    #[cfg(feature = "cponfork")]
    pub(crate) fn renew(reader: RawFd, writer: RawFd) -> io::Result<[(OwnedFd, RawFd); 2]> {
        let [fresh_reader, fresh_writer] = create()?;
        // In this order, because of a waker that is going only the reader is known, for both.
        Ok([(fresh_writer, writer), (fresh_reader, reader)])
    }

    /// Sends on a descriptor that a fork has renewed. Async-signal-safe.
    #[cfg(feature = "cponfork")]
    pub(crate) fn send_at(writer: RawFd) -> Result<(), i32> {
        send(writer).map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    }
}

fn create() -> io::Result<[OwnedFd; 2]> {
    let mut fds = [-1; 2];
    // SAFETY: the kernel writes two descriptors.
    syscall!(pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK))?;
    // SAFETY: the kernel has just given us these descriptors, and nobody else owns them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn send(writer: RawFd) -> io::Result<()> {
    // SAFETY: the kernel reads one byte.
    syscall!(write(writer, [0_u8].as_ptr().cast(), 1))?;
    Ok(())
}

fn empty(reader: &OwnedFd) {
    let mut buffer = [0_u8; 4096];
    // What another thread has read meanwhile is as good.
    // SAFETY: the kernel writes at most the buffer's length.
    let _ = syscall!(read(reader.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()));
}
