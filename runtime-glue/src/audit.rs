//! Descriptors that a child would share with its parent by accident.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkPolicy, SourceKind, glue};

use crate::{ForkError, policy, runtime, sys};

/// Lists the descriptors that a forked child would share with this process, except those shared on purpose.
///
/// Call it in tests and debug builds before a fork, such as in a [`before_fork`](crate::before_fork()) hook. In an
/// [`on_child`](crate::on_child) hook it lists the descriptors that the child shares with its parent. An audit makes about ten
/// system calls per descriptor, and discards the fork that a [`Prefork`](crate::prefork::Prefork) server has prepared.
///
/// The list includes registrations that follow their kind's default, if the child keeps the object: listeners, datagram
/// sockets, signalfds, inotify descriptors, and the ends of pairs and pipes that were made in this process. It includes
/// descriptors that the program has inherited from its own parent. It does not include:
///
/// - standard input, output and error;
/// - objects that are private to a process: selectors, wakers, tokio's signal pipe, and severed or renewed objects;
/// - registrations with a policy of their own ([`set_policy`](crate::set_policy)), and the listeners of a running
///   [`Prefork`](crate::prefork::Prefork) server;
/// - descriptors without state to share: pidfds, `O_PATH`, `/dev/null` and similar devices.
///
/// If tokio runs on upstream mio, call this inside the runtime. Otherwise the list may contain tokio's epoll instances, eventfds
/// and signal pipe, although a child gets its own.
///
/// # Errors
///
/// - [`ForkError::Prepare`] as for [`fork`](crate::fork()).
/// - [`ForkError::Inspect`] if the descriptors cannot be listed: on Linux, if `/proc` is not mounted.
///
/// # Platforms
///
/// On Linux an audit reads `/proc/self/fd` and `/proc/self/fdinfo`, see proc(5). Elsewhere it asks about each descriptor below
/// the soft RLIMIT_NOFILE with fcntl(2), which is slow if this limit is large. There it finds no locks, and on OpenBSD no paths.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), forkio::ForkError> {
/// let table = std::fs::File::open("/etc/passwd").unwrap();
/// let audit = forkio::audit::shared_descriptors()?;
/// println!("{audit}");
/// assert!(audit.found().iter().any(|shared| shared.name == "/etc/passwd"));
///
/// // The program reads the file with `read_at`, so the processes may share it.
/// let audit = audit.allow(&table);
/// assert!(!audit.found().iter().any(|shared| shared.name == "/etc/passwd"));
/// # Ok(())
/// # }
/// ```
pub fn shared_descriptors() -> Result<Audit, ForkError> {
    policy::install_defaults();
    runtime::adopt_current();
    // The prepared fork tells which descriptors it would replace.
    let prepared = reactor::prepare().map_err(ForkError::Prepare)?;
    let private: BTreeSet<_> = prepared.private_descriptors().into_iter().collect();
    prepared.abort();
    let registered = reactor::registrations().into_iter().map(|registration| (registration.fd, registration));
    let registered: BTreeMap<_, _> = registered.collect();
    let is_decided = |fd| glue::is_tagged(&fd) || registered.get(&fd).is_some_and(|registration| registration.muted);
    let mut found = Vec::new();
    for fd in sys::open_descriptors().map_err(ForkError::Inspect)? {
        if fd <= libc::STDERR_FILENO || private.contains(&fd) || is_decided(fd) {
            continue;
        }
        if let Some(sys::Descriptor { object, name }) = sys::describe(fd) {
            let policy = registered.get(&fd).map(|registration| registration.policy);
            found.push(SharedDescriptor { fd, object, name, policy });
        }
    }
    Ok(Audit { found })
}

/// The descriptors that [`shared_descriptors`] found. `Display` prints a line for each descriptor, and says what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "an audit changes nothing: look at its findings"]
pub struct Audit {
    found: Vec<SharedDescriptor>,
}

impl Audit {
    /// Whether there are no findings, except those that were [allowed](Audit::allow).
    pub fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns the shared descriptors, in ascending order.
    pub fn found(&self) -> &[SharedDescriptor] {
        &self.found
    }

    /// Removes a descriptor from the findings: the program shares it on purpose.
    pub fn allow(mut self, io: &impl AsFd) -> Audit {
        let fd = io.as_fd().as_raw_fd();
        self.found.retain(|shared| shared.fd != fd);
        self
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("no descriptor is shared by accident");
        }
        writeln!(f, "a forked child would share these descriptors by accident:")?;
        for shared in &self.found {
            writeln!(f, "  {shared}")?;
        }
        f.write_str(
            "Give registered ones a policy with forkio::set_policy, close unneeded ones in forkio::on_child, and pass \
             intended ones to Audit::allow.",
        )
    }
}

/// A descriptor that a child would share with this process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedDescriptor {
    /// The descriptor.
    pub fd: RawFd,
    /// The object that it refers to.
    pub object: SharedObject,
    /// A path, or the addresses of a socket. Otherwise the target of the link in `/proc/self/fd`, or the inode.
    pub name: String,
    /// The default policy that the registration follows. `None` for an unregistered descriptor.
    pub policy: Option<ForkPolicy>,
}

impl fmt::Display for SharedDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SharedDescriptor { fd, object, name, policy } = self;
        write!(f, "{fd}: {} {name}", object.name())?;
        if policy.is_some() {
            f.write_str(", registered")?;
        }
        write!(f, ": {}", object.consequence())
    }
}

/// The object that a shared descriptor refers to.
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
    /// An epoll instance that belongs to no forkio selector.
    Epoll,
    /// An eventfd.
    Eventfd,
    /// A timerfd.
    Timerfd,
    /// A signalfd.
    Signalfd,
    /// An inotify or fanotify descriptor.
    Watch,
    /// Any other object, such as an io_uring.
    Other,
}

impl SharedObject {
    /// Returns the object of a source kind, or `None` for kinds that include several objects.
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
            SharedObject::Listener => "a connection goes to the process that accepts it first",
            SharedObject::Datagram => "a datagram goes to the process that receives it first",
            SharedObject::Stream => {
                "bytes that one process reads are lost to the other, writes mix, and the peer sees the end only when \
                 both processes have closed the socket"
            }
            SharedObject::Pipe => {
                "the other end sees end of file, or EPIPE, only when both processes have closed this end"
            }
            SharedObject::File => "reads and writes of one process move the file position of the other",
            SharedObject::AppendedFile => "both processes append, each write(2) in one piece",
            SharedObject::LockedFile => {
                "each process can unlock the file for the other; otherwise the lock lasts until both processes have \
                 closed the file"
            }
            SharedObject::Device => "both processes read and write it",
            SharedObject::Epoll => {
                "each process changes the other one's registrations and events; if the instance is tokio's, make the audit \
                 inside the runtime"
            }
            SharedObject::Eventfd | SharedObject::Timerfd | SharedObject::Watch => {
                "an event that one process reads is lost to the other"
            }
            SharedObject::Signalfd => {
                "each process reads its own signals, but an epoll instance sees the signals of one process only"
            }
            SharedObject::Other => "both processes use it",
        }
    }
}
