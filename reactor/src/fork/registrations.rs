//! The registrations of this process, seen and changed by descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use super::generation;
use super::policy::{ForkPolicy, SourceKind, replace_default};
use super::registered::replace;
use super::selectors::Live;
use super::table::About;
use super::world::{HAS_PRIVATE, SELECTORS, World, find_pair, world, world_to_change};
use crate::selector::Shared;
use crate::sys::descriptor;
use crate::{Interest, Token};

/// A registration, as [`registrations`] lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registration {
    /// The selector's descriptor.
    pub selector: RawFd,
    /// The registered descriptor.
    pub fd: RawFd,
    /// The token it was registered with.
    pub token: Token,
    /// The interest it was registered with.
    pub interest: Interest,
    /// What it is; `None` for a bare descriptor that no fork has had to look at yet.
    pub kind: Option<SourceKind>,
    /// The policy that the next fork follows.
    pub policy: ForkPolicy,
    /// Whether [`mute`] holds it back in this process.
    pub muted: bool,
}

/// Every registration of this process, in the order of selectors and descriptors.
pub fn registrations() -> Vec<Registration> {
    let _world = world();
    let mut list = Vec::new();
    // The number of a poisoned one is not its own: it may stand for another process's queue, or for another selector.
    for live in SELECTORS.iter().filter(|live| !live.get().registered.is_poisoned()) {
        let shared = live.get();
        for (fd, entry) in shared.registered.table.iter() {
            let Some((token, about)) = entry.get() else { continue };
            if !about.is_dropped(generation()) {
                list.push(Registration {
                    selector: shared.queue.as_fd().as_raw_fd(),
                    fd,
                    token,
                    interest: about.interest(),
                    kind: about.kind(),
                    policy: about.policy(),
                    muted: about.is_muted(),
                });
            }
        }
    }
    list
}

/// How many selectors are alive in this process.
pub fn selectors() -> usize {
    let _world = world();
    SELECTORS.iter().count()
}

/// The number of the selector made last among those alive, counted from 1 over the whole process; 0: there is none.
///
/// A cache of what [`registrations`] says about selectors as they were made is good as long as this does not change.
pub fn newest_selector() -> u32 {
    let _world = world();
    SELECTORS.iter().last().map_or(0, |live| live.get().id)
}

/// Tags the registration of `source`, an I/O object or a descriptor number, in whatever selector it is.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if it is registered nowhere.
///
/// # Examples
///
#[cfg_attr(feature = "net", doc = "```")]
#[cfg_attr(not(feature = "net"), doc = "```ignore")]
/// use forkio_reactor::fork::{ForkPolicy, set_policy};
/// use forkio_reactor::net::UdpSocket;
/// use forkio_reactor::{Interest, Poll, Token};
///
/// # fn main() -> std::io::Result<()> {
/// let poll = Poll::new()?;
/// let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// poll.registry().register(&mut socket, Token(1), Interest::READABLE)?;
/// set_policy(&socket, ForkPolicy::NoFork)?;
/// # Ok(())
/// # }
/// ```
pub fn set_policy(source: &impl AsRawFd, policy: ForkPolicy) -> io::Result<()> {
    change(source.as_raw_fd(), |_, _, _, about| Ok(about.with_policy(policy)))
}

/// The policy that the next fork follows for `source`, an I/O object or a descriptor number; `None` if it is registered
/// nowhere.
pub fn policy(source: &impl AsRawFd) -> Option<ForkPolicy> {
    let fd = source.as_raw_fd();
    let _world = world();
    SELECTORS.iter().find_map(|live| {
        let (_, about) = live.get().registered.table.get(fd)?.get()?;
        (!about.is_dropped(generation())).then(|| about.policy())
    })
}

/// Sets the policy of registrations of this kind that have none of their own, for the whole process, and returns the
/// one before. It holds from the next fork on, also for what is registered already.
///
/// A waker is renewed whatever its kind's default says: two processes that wake each other are of no use to anybody.
///
/// # Examples
///
/// ```
/// use forkio_reactor::fork::{ForkPolicy, SourceKind, set_default_policy};
///
/// // A worker must never read what a peer sends to its parent.
/// assert_eq!(set_default_policy(SourceKind::Stream, ForkPolicy::Sever), ForkPolicy::Inherit);
/// ```
pub fn set_default_policy(kind: SourceKind, policy: ForkPolicy) -> ForkPolicy {
    let _world = world_to_change();
    replace_default(kind, policy)
}

/// Has children do without the selector that `source`, an I/O object or a descriptor number, is registered with: it is a
/// runtime's that they cannot go on with, because its threads stay behind.
///
/// A child gets no copy of the selector. What is registered there is severed or renewed if its policy says so, and
/// otherwise inherited as a mere descriptor. The selector itself is dead in the child: polling and registering fail with
/// `ECANCELED`, deregistering and waking do nothing.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if `source` is registered nowhere.
pub fn retire_in_children(source: &impl AsRawFd) -> io::Result<()> {
    change(source.as_raw_fd(), |_, shared, _, about| {
        shared.registered.retire();
        Ok(about)
    })
}

/// Whether `source`, an I/O object or a descriptor number, has a policy of its own in any selector; also where the fork
/// that made this process left the registration out.
pub fn is_tagged(source: &impl AsRawFd) -> bool {
    let fd = source.as_raw_fd();
    let about = |live: Live| live.get().registered.table.get(fd)?.about();
    let _world = world();
    SELECTORS.iter().filter_map(about).any(About::is_tagged)
}

/// Holds back the events of `source`, an I/O object or a descriptor number, in this process: it stays registered, and
/// children get it armed. The parent of a prefork server does this with its listeners, so that connections do not wake
/// it.
///
/// A number that is muted (`unix::SourceFd`) should be deregistered before it is closed: the kernel does not
/// have it, so forks tell by its inode whether it is still what was muted, and eventfds, timerfds and the like share one.
///
/// Muting twice is muting once. Where a source is registered with several selectors it is muted in all of them, or, on
/// an error, in those before the one that failed.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if it is registered nowhere; otherwise those of `epoll_ctl(2)`.
pub fn mute(source: &impl AsRawFd) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |world, shared, _, about| {
        if !about.is_muted() {
            if about.is_bare() {
                world.muted.insert((shared.id, fd), descriptor::identity(fd)?);
            }
            shared.queue.delete(fd)?;
        }
        Ok(about.with_muted(true))
    })
}

/// Ends a [`mute`]. A source that is ready gives an event.
///
/// # Errors
///
/// As [`mute`].
pub fn unmute(source: &impl AsRawFd) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |world, shared, token, about| {
        if about.is_muted() {
            world.muted.remove(&(shared.id, fd));
            shared.queue.add(fd, token, about.kernel_interest())?;
        }
        Ok(about.with_muted(false))
    })
}

/// Has an event of `source`, an I/O object or a descriptor number, wake one of the processes that wait for it, instead of
/// all: for a listening socket from which several workers accept. `false` ends it. Children inherit it.
///
/// # Whoever is woken must take all there is
///
/// The others have not been told. A process that does not go on until [`WouldBlock`](io::ErrorKind::WouldBlock), or stops
/// accepting for a while, has to [mute] the source meanwhile; otherwise what it leaves waits until there is more, which
/// may be given to the same process again. After the end of a process that may have been told the others
/// [look again](rearm_exclusive).
///
/// # Platforms
///
/// Linux: `EPOLLEXCLUSIVE` ([epoll_ctl(2)]). Of the processes that sleep in `epoll_wait` one is woken, and at least one;
/// those that are busy find the event when they come back. That the peer has closed its half is seen by reading only
/// (`EPOLLRDHUP` is not allowed beside it), and a change of interest takes two system calls. A kqueue has nothing of the
/// kind: there it changes nothing.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if it is registered nowhere; otherwise those of `epoll_ctl(2)`:
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for an interest in priority readiness. Nothing has changed then in the
/// selector that failed.
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
pub fn set_exclusive(source: &impl AsRawFd, exclusive: bool) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |_, shared, token, about| {
        let changed = about.with_exclusive(exclusive);
        if changed != about && !about.is_muted() {
            let (before, after) = (about.kernel_interest(), changed.kernel_interest());
            replace(&shared.queue, fd, (token, before), (token, after))?;
        }
        Ok(changed)
    })
}

/// Gives an event to each [exclusive](set_exclusive) registration of this process whose source is ready: what was to be
/// taken by a process that has ended may be waiting there.
///
/// # Errors
///
/// Those of `epoll_ctl(2)`, the first one; the other registrations are armed anew all the same.
pub fn rearm_exclusive() -> io::Result<()> {
    let mut result = Ok(());
    let _world = world_to_change();
    for live in SELECTORS.iter() {
        let shared = live.get();
        for (fd, _) in
            shared.registered.table.iter().filter(|(_, entry)| entry.about().is_some_and(About::is_exclusive))
        {
            let rearmed = shared.registered.change(fd, |token, about| {
                if about.is_exclusive() && !about.is_muted() {
                    let registration = (token, about.kernel_interest());
                    replace(&shared.queue, fd, registration, registration)?;
                }
                Ok(about)
            });
            result = result.and(rearmed.map(drop));
        }
    }
    result
}

fn change(fd: RawFd, change: impl Fn(&mut World, &Shared, Token, About) -> io::Result<About>) -> io::Result<()> {
    let mut found = false;
    let mut world = world_to_change();
    for live in SELECTORS.iter() {
        let shared = live.get();
        found |= shared.registered.change(fd, |token, about| change(&mut world, shared, token, about))?;
    }
    if found {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("descriptor {fd} is not registered with any `Registry`")))
    }
}

/// Whether `fd` is an end, or a duplicate of an end, of a stream socket pair made in this process: what
/// [`ForkPolicy::Renew`] can renew beside wakers.
pub fn is_pair_end(fd: RawFd) -> bool {
    descriptor::is_unix_stream(fd)
        && descriptor::identity(fd).is_ok_and(|identity| find_pair(&world().pairs, identity).is_some())
}

/// What `source`, an I/O object or a descriptor number, is by the looks of it, registered or not. A pair made in this
/// process is a [`Stream`](SourceKind::Stream) or [`Datagram`](SourceKind::Datagram) here, or a pair of
/// [`Pipe`](SourceKind::Pipe) ends, and a waker [`Other`](SourceKind::Other).
///
/// # Errors
///
/// Those of `fstat(2)` and `getsockopt(2)`.
pub fn kind(source: &impl AsRawFd) -> io::Result<SourceKind> {
    let _world = world();
    descriptor::kind(source.as_raw_fd())
}

/// Has every child of this process, from the next fork on, get a pair of its own in place of the one that `source` is an
/// end, or a duplicate of an end, of, whether or not an end is registered then: a self-pipe that a signal handler writes to.
/// What is registered of it is still to be tagged with [`ForkPolicy::Renew`].
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if `source` belongs to no [pair](is_pair_end).
pub fn renew_pair_in_children(source: &impl AsRawFd) -> io::Result<()> {
    let identity = descriptor::identity(source.as_raw_fd())?;
    let mut world = world_to_change();
    let (end, peer) = find_pair(&world.pairs, identity).ok_or_else(no_pair)?;
    if !world.private_pairs.iter().any(|known| [end, peer].contains(known)) {
        world.private_pairs.push(end);
        HAS_PRIVATE.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes `source`, an end or a duplicate of an end of a [pair](is_pair_end), readable: one byte is written at the other
/// end.
///
/// # Errors
///
/// As [`renew_pair_in_children`], and those of `send(2)`.
pub fn nudge_pair_end(source: &impl AsRawFd) -> io::Result<()> {
    let identity = descriptor::identity(source.as_raw_fd())?;
    let world = world();
    let (_, peer) = find_pair(&world.pairs, identity).ok_or_else(no_pair)?;
    match descriptor::send_byte(peer) {
        // Full is readable.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

fn no_pair() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "not an end of a socket pair that was made in this process")
}

/// How many bytes wait to be read at `source`, as `ioctl(FIONREAD)` counts them.
///
/// # Errors
///
/// Those of `ioctl(2)`.
pub fn pending_bytes(source: &impl AsRawFd) -> io::Result<usize> {
    descriptor::pending_bytes(source.as_raw_fd())
}
