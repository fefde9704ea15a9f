//! The errors of forks.

use std::fmt;
use std::io;
use std::os::fd::RawFd;

use crate::sys::descriptor;

/// The error of [`fork`](super::fork()).
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The parent could not prepare the fork.
    Prepare(PrepareError),
    /// `fork(2)` failed.
    Fork(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Prepare(error) => error.fmt(f),
            Error::Fork(error) => write!(f, "fork(2) failed: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Prepare(error) => Some(error),
            Error::Fork(error) => Some(error),
        }
    }
}

/// The object that a failed [`prepare`](super::prepare) was making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrepareObject {
    /// The child's kernel queue for the selector at this descriptor.
    Queue(RawFd),
    /// The child's copy of the registration of this descriptor.
    Registration(RawFd),
    /// Nothing: the kernel does not tell what this descriptor refers to.
    Inspection(RawFd),
    /// A fresh kernel object for the waker at this descriptor.
    Waker(RawFd),
    /// A fresh socket pair in place of the pair that this descriptor is an end of.
    Pair(RawFd),
    /// A fresh timer in place of the timer at this descriptor.
    Timer(RawFd),
    /// The dead endpoint for the severed descriptor.
    DeadEndpoint(RawFd),
    /// The list of registrations of the epoll instance at this descriptor, which tokio on upstream mio uses.
    ForeignQueue(RawFd),
    /// The list of the epoll instances that tokio on upstream mio uses.
    ForeignQueues,
    /// The epoll instance of tokio on upstream mio with which this descriptor is registered.
    ForeignRegistration(RawFd),
    /// The page by which children detect forks.
    ForkDetection,
    /// Nothing: this thread is forking already.
    NestedFork,
    /// Nothing: this thread holds forks off.
    HeldOff,
    /// Nothing: a signal handler forks, and has interrupted this thread while it was changing forkio's state.
    Interrupted,
    /// Nothing: other threads did not end their changes of registrations in time.
    OtherThreads,
}

/// The error of preparing a fork. Nothing has changed, and no process was made. If the child of an unplanned fork cannot
/// reconcile, [`atfork::failure`](super::atfork::failure) returns an error of this type, too.
#[derive(Debug)]
pub struct PrepareError {
    pub(super) object: PrepareObject,
    pub(super) source: io::Error,
}

impl PrepareError {
    /// Returns the object that the failed preparation was making.
    pub fn object(&self) -> PrepareObject {
        self.object
    }

    /// Returns the cause: the operating system's error, or forkio's reason for refusing the fork.
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }

    /// Turns an I/O error into the error of preparing `object`.
    pub(super) fn of(object: PrepareObject) -> impl Fn(io::Error) -> PrepareError + Copy {
        move |source| PrepareError { object, source }
    }

    /// Returns the error as an errno, with which the caller poisons selectors.
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
            PrepareObject::Queue(fd) => write!(f, "making the child's queue for the selector at descriptor {fd}"),
            PrepareObject::Registration(fd) => write!(f, "copying the registration of descriptor {fd}"),
            PrepareObject::Inspection(fd) => {
                write!(f, "inspecting descriptor {fd} with fstat(2), getsockopt(2) or readlink(2)")
            }
            PrepareObject::Waker(fd) => write!(f, "renewing the waker at descriptor {fd}"),
            PrepareObject::Pair(fd) => write!(f, "renewing the socket pair of descriptor {fd}"),
            PrepareObject::Timer(fd) => write!(f, "renewing the timer at descriptor {fd}"),
            PrepareObject::DeadEndpoint(fd) => write!(f, "making a dead endpoint to sever descriptor {fd}"),
            PrepareObject::ForeignQueue(fd) => {
                write!(f, "reading the registrations of tokio's epoll instance at descriptor {fd}")
            }
            PrepareObject::ForeignQueues => f.write_str("finding the epoll instances of tokio"),
            PrepareObject::ForeignRegistration(fd) => write!(f, "finding tokio's epoll instance that watches descriptor {fd}"),
            PrepareObject::ForkDetection => f.write_str("making the page by which children detect forks"),
            PrepareObject::NestedFork => f.write_str("this thread is forking already"),
            PrepareObject::HeldOff => f.write_str("this thread holds forks off"),
            PrepareObject::Interrupted => f.write_str(
                "a signal handler has interrupted this thread while it was changing a selector; do not fork in signal handlers",
            ),
            PrepareObject::OtherThreads => f.write_str(
                "waiting for other threads to end changes of registrations; they may be waiting for this thread",
            ),
        }?;
        write!(f, ": {}", self.source)?;
        descriptor::limit_behind(&self.source).map_or(Ok(()), |limit| write!(f, "; {limit}"))
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The reason why the child of an unplanned fork cannot use its inherited selectors. An [`io::Error`] of such a selector
/// contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InheritedState {
    /// At the fork, another thread of the parent was using forkio's state, such as to set a policy.
    InUse,
    /// The thread that forked was using that state itself: it forked in a signal handler.
    Interrupted,
}

impl fmt::Display for InheritedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InheritedState::InUse => {
                "another thread was using forkio's selectors when this process was forked, so this process cannot use \
                 them: make new ones, or fork with `forkio_reactor::fork`, which waits for other threads"
            }
            InheritedState::Interrupted => {
                "this process was forked in a signal handler that had interrupted a change of forkio's selectors, so this \
                 process cannot use them: make new ones, and do not fork in signal handlers"
            }
        })
    }
}

impl std::error::Error for InheritedState {}
