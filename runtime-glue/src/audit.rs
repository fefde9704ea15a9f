//! [`audit`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkPolicy, SourceKind};

use crate::{ForkError, policy, runtime, sys};

/// Lists the descriptors that both processes would hold if this one forked now, and that nobody has tagged: what is
/// shared by accident.
///
/// A check for debug builds and tests, before the fork; or in an [`on_child`](crate::on_child) hook, where it lists what
/// the child has in common with its parent. It takes some ten system calls per descriptor, and prepares a fork that it does
/// not make, which gives up what is [prepared ahead](crate::prepare_ahead).
///
/// Not listed are
///
/// - standard input, output and error;
/// - what the child has to itself: selectors, wakers, tokio's signal pipe, what its policy severs or renews;
/// - what somebody has decided on: registrations tagged with [`set_policy`](crate::set_policy), whatever the tag;
///   [muted](crate::mute) ones; the listeners of a [`Prefork`](crate::Prefork) server that runs;
/// - descriptors with nothing in them to share: pidfds, `O_PATH`, `/dev/null` and its like.
///
/// A registration that follows its kind's default is listed if that leaves the object to both, as for listeners and
/// datagram sockets: tag those that are meant. So is what whoever started this process has left open.
///
/// # Errors
///
/// As [`fork`](crate::fork()) when it prepares: [`ForkError::Prepare`]; [`ForkError::Inspect`] if the descriptors cannot be
/// listed, on Linux if `/proc` is not mounted.
///
/// # Platforms
///
/// Linux: `/proc/self/fd` and `/proc/self/fdinfo`, see proc(5). Elsewhere each number below the soft RLIMIT_NOFILE is asked for
/// with fcntl(2): where that is large, an audit in each fork is no good idea. Locks are not seen there, and OpenBSD tells no
/// names.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), forkio::ForkError> {
/// let table = std::fs::File::open("/etc/passwd").unwrap();
/// let audit = forkio::audit()?;
/// println!("{audit}");
/// assert!(audit.found().iter().any(|untagged| untagged.name == "/etc/passwd"));
///
/// // It is read with positions of the reader's own (`read_at`), so it may be shared.
/// let audit = audit.allow(&table);
/// assert!(!audit.found().iter().any(|untagged| untagged.name == "/etc/passwd"));
/// # Ok(())
/// # }
/// ```
///
/// In every fork of a debug build:
///
/// ```
/// if cfg!(debug_assertions) {
///     forkio::before_fork(|| {
///         let audit = forkio::audit().map_err(std::io::Error::other)?;
///         if audit.is_clean() { Ok(()) } else { Err(std::io::Error::other(audit.to_string())) }
///     });
/// }
/// ```
pub fn audit() -> Result<Audit, ForkError> {
    policy::install_defaults();
    runtime::tag_signal_pipes().map_err(ForkError::Inspect)?;
    // What a fork would replace, and not what the table suggests that it does.
    let prepared = reactor::prepare().map_err(ForkError::Prepare)?;
    let private: BTreeSet<_> = prepared.private_numbers().into_iter().collect();
    prepared.abort();
    let registered = reactor::registrations().into_iter().map(|registration| (registration.fd, registration));
    let registered: BTreeMap<_, _> = registered.collect();
    let is_decided = |fd| reactor::is_tagged(&fd) || registered.get(&fd).is_some_and(|registration| registration.muted);
    let mut found = Vec::new();
    for fd in sys::open_descriptors().map_err(ForkError::Inspect)? {
        if fd > libc::STDERR_FILENO
            && !private.contains(&fd)
            && !is_decided(fd)
            && let Some(sys::Descriptor { object, name }) = sys::describe(fd)
        {
            let policy = registered.get(&fd).map(|registration| registration.policy);
            found.push(Untagged { fd, object, name, policy });
        }
    }
    Ok(Audit { found })
}

/// What [`audit`] found. `Display` has a line for each, which says what comes of it and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "an audit only says what it found"]
pub struct Audit {
    found: Vec<Untagged>,
}

impl Audit {
    /// Whether nothing was found, or all of it [allowed](Audit::allow).
    pub fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// The descriptors, in the order of their numbers.
    pub fn found(&self) -> &[Untagged] {
        &self.found
    }

    /// Takes a descriptor off the list that is shared on purpose.
    pub fn allow(mut self, io: &impl AsFd) -> Audit {
        let fd = io.as_fd().as_raw_fd();
        self.found.retain(|untagged| untagged.fd != fd);
        self
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("no descriptor is shared by accident");
        }
        writeln!(f, "a forked child shares with this process, and nobody has said that it should:")?;
        for untagged in &self.found {
            writeln!(f, "  {untagged}")?;
        }
        f.write_str(
            "What is registered: forkio::set_policy. What the child does not need: close it in forkio::on_child. \
             What is meant: Audit::allow.",
        )
    }
}

/// A descriptor that [`audit`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Untagged {
    /// Its number.
    pub fd: RawFd,
    /// What it stands for.
    pub object: SharedObject,
    /// What tells it from others: a path, the addresses of a socket; otherwise what `/proc/self/fd` shows.
    pub name: String,
    /// If it is registered, the policy that it follows by default.
    pub policy: Option<ForkPolicy>,
}

impl fmt::Display for Untagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Untagged { fd, object, name, policy } = self;
        write!(f, "{fd}: {} {name}", object.name())?;
        if policy.is_some() {
            f.write_str(", registered")?;
        }
        write!(f, ": {}", object.consequence())
    }
}

/// What a descriptor stands for, as far as it matters to two processes that hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SharedObject {
    /// A listening socket.
    Listener,
    /// A datagram socket.
    Datagram,
    /// A connected (or not yet connected) stream socket.
    Stream,
    /// One end of a pipe.
    Pipe,
    /// A file, or a directory.
    File,
    /// A file that is written with `O_APPEND`.
    AppendedFile,
    /// A file under a lock of `flock(2)`, or an open file description lock of `fcntl(2)`.
    LockedFile,
    /// A terminal or another device.
    Device,
    /// An epoll instance that is none of forkio's selectors.
    Epoll,
    /// An eventfd.
    Eventfd,
    /// A timerfd.
    Timerfd,
    /// A signalfd.
    Signalfd,
    /// An inotify or fanotify descriptor.
    Watch,
    /// Something else, as an io_uring.
    Other,
}

impl SharedObject {
    /// What the reactor sees; `None` where it does not look closer.
    pub(crate) fn of_kind(kind: SourceKind) -> Option<SharedObject> {
        Some(match kind {
            SourceKind::Listener => SharedObject::Listener,
            SourceKind::Datagram => SharedObject::Datagram,
            SourceKind::Stream => SharedObject::Stream,
            SourceKind::Pipe => SharedObject::Pipe,
            SourceKind::Queue => SharedObject::Epoll,
            SourceKind::Watch => SharedObject::Watch,
            SourceKind::Timer => SharedObject::Timerfd,
            SourceKind::Signal => SharedObject::Signalfd,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            SharedObject::Listener => "listening socket",
            SharedObject::Datagram => "datagram socket",
            SharedObject::Stream => "stream socket",
            SharedObject::Pipe => "pipe end",
            SharedObject::File | SharedObject::AppendedFile | SharedObject::LockedFile => "file",
            SharedObject::Device => "device",
            SharedObject::Epoll => "epoll instance",
            SharedObject::Eventfd => "eventfd",
            SharedObject::Timerfd => "timerfd",
            SharedObject::Signalfd => "signalfd",
            SharedObject::Watch => "file watch",
            SharedObject::Other => "descriptor",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            SharedObject::Listener => "a connection goes to whichever process accepts it",
            SharedObject::Datagram => "a datagram goes to whichever process receives it",
            SharedObject::Stream => {
                "what one process reads the other does not get, writes mix, and the peer sees the end when both have closed"
            }
            SharedObject::Pipe => "its other end sees the end, or EPIPE, when both have closed",
            SharedObject::File => "one position for both, which reads and writes move",
            SharedObject::AppendedFile => "lines of both, each write(2) in one piece",
            SharedObject::LockedFile => "one lock for both: unlocked by either, held until both have closed",
            SharedObject::Device => "both read and write it",
            SharedObject::Epoll => {
                "what one process registers, changes or closes the other one feels; if it is tokio's, the patch of mio is \
                 missing"
            }
            SharedObject::Eventfd | SharedObject::Timerfd | SharedObject::Watch => {
                "what one process reads the other does not get"
            }
            SharedObject::Signalfd => {
                "each reads its own signals, but an epoll that watches it sees those of one process"
            }
            SharedObject::Other => "both use it",
        }
    }
}
