//! What goes with kqueue(2), on every system that has one. With `--cfg forkio_kqueue` on Linux too, for tests: over the
//! reactor's model.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use forkio_reactor::fork::ForkPolicy;
use forkio_reactor::unix::Process;
use tokio::io::unix::AsyncFd;

use super::{OwnsDescriptor, watch};

/// What wakes all processes that listen to it: a socket pair that nobody reads, so that each write is an event for each of
/// them.
///
/// (`EVFILT_USER` belongs to one queue, and so to one process.)
#[derive(Debug)]
pub(crate) struct Bell {
    ear: AsyncFd<UnixStream>,
    rope: AsyncFd<UnixStream>,
}

// SAFETY: nothing but a descriptor, which is closed with it.
unsafe impl OwnsDescriptor for UnixStream {}

impl Bell {
    /// In the parent, which does not listen to it.
    pub(crate) fn new() -> io::Result<Bell> {
        let (ear, rope) = UnixStream::pair()?;
        ear.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        // Both are the children's as they are. A registration says so.
        let (ear, rope) = (inherited(ear)?, inherited(rope)?);
        crate::mute(&ear)?;
        crate::mute(&rope)?;
        Ok(Bell { ear, rope })
    }

    pub(crate) fn ring(&self) -> io::Result<()> {
        loop {
            match self.rope.get_ref().write(&[1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.empty()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Makes room. Who has not seen the bytes sees the one that is written next: whoever empties it writes afterwards.
    fn empty(&self) -> io::Result<()> {
        let mut rest = [0; 4096];
        loop {
            match self.ear.get_ref().read(&mut rest) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// For the current runtime, which need not be the one that this process has inherited.
    pub(crate) fn listen(&self) -> io::Result<AsyncFd<UnixStream>> {
        inherited(self.ear.get_ref().try_clone()?)
    }
}

fn inherited(end: UnixStream) -> io::Result<AsyncFd<UnixStream>> {
    let watched = watch(end).map_err(|(_, error)| error)?;
    crate::set_policy(&watched, ForkPolicy::Inherit)?;
    Ok(watched)
}

/// What the watch of a child will need, to be dropped before it: a descriptor. (The queue itself cannot be made between
/// prepare and fork: the child would have to make another one.)
pub(crate) fn reserve_watch() -> io::Result<OwnedFd> {
    Ok(UnixDatagram::unbound()?.into())
}

/// Sends a signal to a child that nobody has waited for: until then the number is its own.
pub(crate) fn send_signal(process: &Process, signal: i32) -> io::Result<()> {
    if signal <= 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the number of a signal: those begin with 1"));
    }
    // SAFETY: no memory is involved.
    match unsafe { libc::kill(process.id().cast_signed(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
