//! Wakes and process handles on systems with kqueue(2), and in test builds for Linux with `--cfg forkio_kqueue`.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use forkio_reactor::unix::Process;
use tokio::io::unix::AsyncFd;

use super::{OwnsDescriptor, watch_inherited};

/// A socket pair that wakes all processes that wait for it. A process reads the pair only when it is full, so each write is an
/// event in each process. (An `EVFILT_USER` event wakes only the process that has the queue.)
#[derive(Debug)]
pub(crate) struct SharedWake {
    reader: AsyncFd<UnixStream>,
    writer: AsyncFd<UnixStream>,
}

// SAFETY: a `UnixStream` owns its descriptor, and closes it when it is dropped.
unsafe impl OwnsDescriptor for UnixStream {}

impl SharedWake {
    /// Creates the pair, muted in this process.
    pub(crate) fn new() -> io::Result<SharedWake> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let (reader, writer) = (watch_inherited(reader)?, watch_inherited(writer)?);
        crate::policy::mute(&reader)?;
        crate::policy::mute(&writer)?;
        Ok(SharedWake { reader, writer })
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        loop {
            match self.writer.get_ref().write(&[1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.empty()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Empties the pair. The caller then writes to the pair, so the other processes do not miss the wake.
    fn empty(&self) -> io::Result<()> {
        let mut rest = [0; 4096];
        loop {
            match self.reader.get_ref().read(&mut rest) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Registers a duplicate of the reader with the current runtime, which need not be the inherited one.
    pub(crate) fn waiter(&self) -> io::Result<AsyncFd<OwnedFd>> {
        watch_inherited(OwnedFd::from(self.reader.get_ref().try_clone()?))
    }
}

/// Reserves a descriptor for the watch of a child, or fails if no descriptor is free. Drop the result before the child
/// is watched. (The descriptor is a socket, because the child would have to replace a kqueue that is made between
/// prepare and fork.)
pub(crate) fn reserve_watch() -> io::Result<OwnedFd> {
    Ok(UnixDatagram::unbound()?.into())
}

/// Sends a signal to a child that has not been reaped. Until the child is reaped, no other process can get its id.
pub(crate) fn send_signal(process: &Process, signal: i32) -> io::Result<()> {
    if signal <= 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the signal is not a positive number"));
    }
    // SAFETY: no memory is involved.
    match unsafe { libc::kill(process.id() as i32, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
