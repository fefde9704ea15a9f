//! Fork policies of I/O objects, and this crate's defaults.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkPolicy, SourceKind, glue};

use crate::runtime;
use crate::sys::{self, PerProcess};

const RENEWABLE: &str = "only wakers, timers and stream socket pairs made in this process can be renewed";

/// Sets this crate's defaults, once. The application may change them later.
pub(crate) fn install_defaults() {
    /// This is not a `Once`: if a thread forks while another thread is in `install`, the child starts again.
    static INSTALLER: PerProcess<()> = PerProcess::new();
    static INSTALLED: AtomicBool = AtomicBool::new(false);

    let install = || {
        if INSTALLED.load(Ordering::Acquire) {
            return Ok::<_, Infallible>(());
        }
        for (kind, policy) in [
            // A child must not read its parent's bytes, and the peer must see end of file when the parent closes the object.
            (SourceKind::Stream, ForkPolicy::Sever),
            (SourceKind::Pipe, ForkPolicy::Sever),
            // In the child, waiting for one of the parent's processes must fail. Otherwise the task would wait forever.
            (SourceKind::Process, ForkPolicy::Sever),
            (SourceKind::Watch, ForkPolicy::NoFork),
            (SourceKind::Queue, ForkPolicy::NoFork),
        ] {
            reactor::set_default_policy(kind, policy);
        }
        glue::renew_receivers(runtime::SIGNAL_TOKEN);
        glue::set_first_poll_hook(runtime::before_first_poll);
        INSTALLED.store(true, Ordering::Release);
        Ok(())
    };
    if !INSTALLED.load(Ordering::Acquire) {
        // `install` neither fails nor calls this function.
        let _ = INSTALLER.get_or_try_make(sys::process_key, install);
    }
}

/// Sets the fork policy of one I/O object, in place of its kind's default.
///
/// `io` may be any I/O type of tokio, an `AsyncFd`, or a [`Timer`](crate::time::Timer). The policy holds for all forks from
/// now on, until the object is dropped or the policy is set again.
///
/// # Errors
///
/// - [`NotFound`](io::ErrorKind::NotFound) if the object is not registered with a runtime. Without [the
///   patch](crate#the-patch), that must be the current runtime, or one that has forked.
/// - [`Unsupported`](io::ErrorKind::Unsupported) for [`ForkPolicy::Renew`], unless the object is a timer or an end of a
///   stream socket pair made in this process.
///
/// # Examples
///
/// ```
/// use forkio::ForkPolicy;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let metrics = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// forkio::set_policy(&metrics, ForkPolicy::NoFork)?;
/// assert!(forkio::set_policy(&metrics, ForkPolicy::Renew).is_err());
/// # Ok(())
/// # }
/// ```
pub fn set_policy(io: &impl AsFd, policy: ForkPolicy) -> io::Result<()> {
    let fd = io.as_fd().as_raw_fd();
    if policy == ForkPolicy::Renew && reactor::policy(&fd).is_some() && !glue::can_renew(&fd) {
        let text = format!("{RENEWABLE}: give descriptor {fd} another policy");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    or_adopt(|| reactor::set_policy(&fd, policy)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let text = format!(
                "descriptor {fd} is not registered with a runtime: use tokio's type for the object, or an `AsyncFd`, and call \
                 this inside the runtime"
            );
            io::Error::new(io::ErrorKind::NotFound, text)
        }
        _ => error,
    })
}

/// Changes a registration. If no selector has it, adopts the current runtime, which may run on upstream mio, and tries again.
fn or_adopt(change: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match change() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            runtime::adopt_current();
            change()
        }
        result => result,
    }
}

/// Sets the default fork policy of one kind of source, for objects whose own policy [`set_policy`] has not set. Returns
/// the previous default.
///
/// The next fork applies it, even to objects that are registered already. [What the child has](crate#what-the-child-has)
/// lists the defaults.
///
/// # Panics
///
/// If `policy` is [`ForkPolicy::Renew`] for a kind other than wakers and timers. For a stream socket pair, use
/// [`set_policy`] instead.
///
/// # Examples
///
/// ```
/// use forkio::{ForkPolicy, SourceKind};
///
/// assert_eq!(forkio::set_default_policy(SourceKind::Datagram, ForkPolicy::NoFork), ForkPolicy::Inherit);
/// ```
#[track_caller]
pub fn set_default_policy(kind: SourceKind, policy: ForkPolicy) -> ForkPolicy {
    let can_renew = matches!(kind, SourceKind::Waker | SourceKind::Timer);
    assert!(policy != ForkPolicy::Renew || can_renew, "{RENEWABLE}: give {kind:?} another default policy");
    install_defaults();
    reactor::set_default_policy(kind, policy)
}

/// Stops delivering an object's events in this process. The object stays registered, and children get the
/// registration armed.
pub(crate) fn mute(io: &impl AsFd) -> io::Result<()> {
    or_adopt(|| glue::mute(&io.as_fd().as_raw_fd()))
}

/// Undoes [`mute`]. An object that is ready gives an event.
pub(crate) fn unmute(io: &impl AsFd) -> io::Result<()> {
    or_adopt(|| glue::unmute(&io.as_fd().as_raw_fd()))
}

/// Sets whether an event of a listener wakes at least one of the waiting processes instead of all (`EPOLLEXCLUSIVE`). A
/// process that stops accepting must [`mute`] the listener, because the kernel may wake only this process.
pub(crate) fn set_exclusive(io: &impl AsFd, exclusive: bool) -> io::Result<()> {
    or_adopt(|| glue::set_exclusive(&io.as_fd().as_raw_fd(), exclusive))
}
