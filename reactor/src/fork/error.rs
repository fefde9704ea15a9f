//! Why a fork was not made.

use std::fmt;
use std::io;
use std::os::fd::RawFd;

use crate::sys::descriptor;

/// Why [`fork`](super::fork()) made no process.
#[derive(Debug)]
#[non_exhaustive]
pub enum ForkError {
    /// Something that the child needs could not be made.
    Prepare(PrepareError),
    /// `fork(2)` failed.
    Fork(io::Error),
}

impl fmt::Display for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForkError::Prepare(error) => error.fmt(f),
            ForkError::Fork(error) => write!(f, "fork(2) failed: {error}"),
        }
    }
}

impl std::error::Error for ForkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ForkError::Prepare(error) => Some(error),
            ForkError::Fork(error) => Some(error),
        }
    }
}

/// What a failed [`prepare`](super::prepare) was making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrepareObject {
    /// The child's kernel queue for the selector at this descriptor.
    Queue(RawFd),
    /// The child's copy of the registration of this descriptor.
    Registration(RawFd),
    /// A fresh kernel object for the waker at this descriptor.
    Waker(RawFd),
    /// A fresh socket pair for the one that this descriptor is an end of.
    Pair(RawFd),
    /// A fresh timer for the one at this descriptor.
    Timer(RawFd),
    /// The dead endpoint for the severed descriptor.
    DeadEndpoint(RawFd),
    /// Nothing: this thread is forking already.
    NestedFork,
    /// Nothing: a signal handler forks, and has interrupted this thread as it was registering, or had the selectors
    /// locked.
    Interrupted,
    /// Nothing: other threads did not end their registrations, or their forks.
    OtherThreads,
}

/// Why a fork could not be prepared. Nothing has changed.
#[derive(Debug)]
pub struct PrepareError {
    pub(super) object: PrepareObject,
    pub(super) source: io::Error,
}

impl PrepareError {
    /// What was being made.
    pub fn object(&self) -> PrepareObject {
        self.object
    }

    /// The operating system's error.
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// The error as a number, for what has nothing but a number to keep.
    #[cfg(feature = "atfork")]
    pub(super) fn errno(&self) -> i32 {
        match self.source.kind() {
            io::ErrorKind::Unsupported => libc::EOPNOTSUPP,
            _ => self.source.raw_os_error().unwrap_or(libc::EINVAL),
        }
    }
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot prepare the fork: ")?;
        match self.object {
            PrepareObject::Queue(fd) => write!(f, "making the child's queue for the selector at descriptor {fd}")?,
            PrepareObject::Registration(fd) => write!(f, "copying the registration of descriptor {fd}")?,
            PrepareObject::Waker(fd) => write!(f, "renewing the waker at descriptor {fd}")?,
            PrepareObject::Pair(fd) => write!(f, "renewing the socket pair of descriptor {fd}")?,
            PrepareObject::Timer(fd) => write!(f, "renewing the timer at descriptor {fd}")?,
            PrepareObject::DeadEndpoint(fd) => write!(f, "making a dead endpoint to sever descriptor {fd}")?,
            PrepareObject::NestedFork => f.write_str("this thread is forking already")?,
            PrepareObject::Interrupted => f.write_str(
                "a signal handler has interrupted this thread as it was registering; do not fork in signal handlers",
            )?,
            PrepareObject::OtherThreads => {
                f.write_str("waiting for registrations and forks of other threads, which may be waiting for this one")?;
            }
        }
        write!(f, ": {}", self.source)?;
        match descriptor::limit_behind(&self.source) {
            Some(limit) => write!(f, "; {limit}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
