//! Policies as a server wants them.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkPolicy, SourceKind};

use crate::sys::{self, PerProcess};

/// Sets this crate's defaults, once: after that they are the application's to change.
pub(crate) fn install_defaults() {
    /// Not a `Once`: a child whose parent was forked in the middle of this does it again.
    static INSTALLER: PerProcess<()> = PerProcess::new();
    static INSTALLED: AtomicBool = AtomicBool::new(false);

    let install = || {
        if INSTALLED.load(Ordering::Acquire) {
            return Ok::<_, Infallible>(());
        }
        for (kind, policy) in [
            // A worker must never read another process's bytes, and the peer must see the end when the owner closes.
            (SourceKind::Stream, ForkPolicy::Sever),
            (SourceKind::Pipe, ForkPolicy::Sever),
            // Whoever waits for a process that is not the child's is to find out, not to wait for ever.
            (SourceKind::Process, ForkPolicy::Sever),
            (SourceKind::Watch, ForkPolicy::NoFork),
            (SourceKind::Queue, ForkPolicy::NoFork),
        ] {
            reactor::set_default_policy(kind, policy);
        }
        INSTALLED.store(true, Ordering::Release);
        Ok(())
    };
    if !INSTALLED.load(Ordering::Acquire) {
        // Neither fails nor comes back to itself.
        let _ = INSTALLER.get_or_try_make(sys::process_key, install);
    }
}

/// Tags one I/O object: what becomes of it in the child, in place of its kind's default. For any tokio I/O type, and
/// `AsyncFd`.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if the object is not registered with a runtime on forkio's selector.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use forkio::ForkPolicy;
///
/// let metrics = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// forkio::set_policy(&metrics, ForkPolicy::NoFork)?;
/// # Ok(())
/// # }
/// ```
pub fn set_policy(io: &impl AsFd, policy: ForkPolicy) -> io::Result<()> {
    reactor::set_policy(&io.as_fd().as_raw_fd(), policy)
}

/// Sets what becomes of registrations of one kind that [`set_policy`] has not tagged, from the next fork on; returns
/// the policy before.
///
/// # Examples
///
/// ```
/// use forkio::{ForkPolicy, SourceKind};
///
/// assert_eq!(forkio::set_default_policy(SourceKind::Datagram, ForkPolicy::NoFork), ForkPolicy::Inherit);
/// ```
pub fn set_default_policy(kind: SourceKind, policy: ForkPolicy) -> ForkPolicy {
    install_defaults();
    reactor::set_default_policy(kind, policy)
}

/// What becomes of registrations of one kind that [`set_policy`] has not tagged.
pub fn default_policy(kind: SourceKind) -> ForkPolicy {
    install_defaults();
    reactor::default_policy(kind)
}

/// Holds back the events of one I/O object in this process: it stays registered, tasks that wait for it go on waiting,
/// and children get it armed.
///
/// # Errors
///
/// As [`set_policy`], and those of `epoll_ctl(2)`.
pub fn mute(io: &impl AsFd) -> io::Result<()> {
    reactor::mute(&io.as_fd().as_raw_fd())
}

/// Ends a [`mute`]. An object that is ready gives an event.
///
/// # Errors
///
/// As [`mute`].
pub fn unmute(io: &impl AsFd) -> io::Result<()> {
    reactor::unmute(&io.as_fd().as_raw_fd())
}

/// Has an event of one I/O object, as a listener, wake one of the processes that wait for it, instead of all; `false` ends
/// it. A process that does not take all there is must [`mute`] the object: the others have not been told. Linux:
/// `EPOLLEXCLUSIVE`.
///
/// For the listeners of [`Prefork`](crate::Prefork) workers, which all accept from one queue.
///
/// # Errors
///
/// As [`mute`].
pub fn set_exclusive(io: &impl AsFd, exclusive: bool) -> io::Result<()> {
    reactor::set_exclusive(&io.as_fd().as_raw_fd(), exclusive)
}
