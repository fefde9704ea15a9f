//! All uses of `forkio_reactor::fork` by the programs, in one place: that API may change.

use std::io;
use std::os::fd::AsRawFd;

use forkio_reactor::fork;

/// The part of the registered streams that a child gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// All registrations.
    Inherited,
    /// No registrations.
    NoFork,
    /// Registrations of dead endpoints.
    Severed,
}

/// Sets the policy of the streams that are registered from now on.
pub fn set_policy(streams: Streams) {
    let policy = match streams {
        Streams::Inherited => fork::ForkPolicy::Inherit,
        Streams::NoFork => fork::ForkPolicy::NoFork,
        Streams::Severed => fork::ForkPolicy::Sever,
    };
    fork::set_default_policy(fork::SourceKind::Stream, policy);
}

/// A prepared fork: the caller makes the fork itself, to measure each step.
#[derive(Debug)]
pub struct Planned(fork::Prepared);

impl Planned {
    /// Prepares everything that the child will need.
    ///
    /// # Errors
    ///
    /// Those of preparing.
    pub fn prepare() -> io::Result<Planned> {
        fork::prepare().map(Planned).map_err(io::Error::other)
    }

    /// In the child: gives it its own queues.
    ///
    /// # Safety
    ///
    /// This process was forked by the one that prepared, and has used no descriptor yet. Signals are blocked.
    pub unsafe fn commit(self) {
        // SAFETY: the caller promises the same.
        unsafe { self.0.commit() };
    }

    /// In the parent: drops what was prepared.
    pub fn abort(self) {
        self.0.abort();
    }
}

/// Makes forks handle the epoll instance of upstream mio that `source` is registered with.
///
/// # Errors
///
/// No epoll instance looks like one of tokio.
pub fn adopt(source: &impl AsRawFd) -> io::Result<()> {
    fork::glue::adopt(source).map_err(io::Error::other)
}

/// Blocks all signals on this thread until the result is dropped.
pub fn block_signals() -> fork::SignalsBlocked {
    fork::block_signals()
}

/// Prepares the next planned fork in advance.
///
/// # Errors
///
/// Those of preparing.
pub fn prepare_ahead() -> io::Result<()> {
    fork::prepare_ahead().map_err(io::Error::other)
}

/// Makes a planned fork, all steps at once; returns 0 in the child.
///
/// # Errors
///
/// Those of preparing and of fork(2).
///
/// # Safety
///
/// The process has one thread.
pub unsafe fn planned_fork() -> io::Result<i32> {
    // SAFETY: the process has one thread, as the caller promises.
    match unsafe { fork::fork() }.map_err(io::Error::other)? {
        fork::ForkResult::Child => Ok(0),
        fork::ForkResult::Parent { child } => Ok(child.cast_signed()),
    }
}
