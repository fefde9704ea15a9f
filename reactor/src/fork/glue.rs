//! Functions for the crate `forkio`. Programs do not need them, and they may change in any release.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use socket2::Type;

use super::adopting;
use super::decision;
use super::error::{PrepareError, PrepareObject};
use super::policy::SourceKind;
use super::process_state::{PROCESS, selectors};
use super::reconcile;
use super::registrations::{change, change_entry, find, registrations, with_gate_closed};
use super::selector::UNREGISTERED_WRITES;
use crate::sys::descriptor;

pub use super::decision::renew_receivers;
pub use super::protocol::{HeldOff, hold_off, is_prepared_ahead};
pub use super::reconcile::{lost_state, set_first_poll_hook};
pub use super::registrations::selector_count;
pub use crate::lock::this_thread;
pub use crate::sys::descriptor::limit_behind;
pub use crate::sys::process::is_single_threaded;
pub use crate::sys::process_word::process_id;

/// Gives children no queue for the selector that `source`, an I/O object or a descriptor, is registered with. Use it for a
/// runtime that children cannot continue because they lack its threads.
///
/// The child severs or renews the registered descriptors whose policy says so, and inherits the others without a
/// registration. In the child, polling and registering fail with `ECANCELED`. Deregistering and waking do nothing.
///
/// # Errors
///
/// Those of [`set_policy`](super::set_policy).
pub fn retire_in_children(source: &impl AsRawFd) -> io::Result<()> {
    change(source.as_raw_fd(), |_, selector, _, info| {
        selector.retire();
        Ok(info)
    })
}

/// Whether `source`, an I/O object or a descriptor, has a policy of its own in any selector, even if a fork left the
/// registration out.
pub fn is_tagged(source: &impl AsRawFd) -> bool {
    let _state = reconcile::lock_refreshed();
    find(source.as_raw_fd(), |info| info.own_policy().is_some()).is_some()
}

/// Stops delivering the events of `source`, an I/O object or a descriptor, in this process: it stays registered, and
/// children get it armed. The supervisor of a prefork server mutes its listeners, so that connections do not wake it.
///
/// Deregister a muted bare descriptor before you close it. The kernel does not have its registration, so a fork compares
/// inodes and access modes to check that the descriptor still refers to the muted file. All eventfds and timerfds share one
/// inode, so a fork cannot tell them apart.
///
/// Muting a muted source does nothing. On an error, the source may be muted in only some of its selectors.
///
/// # Errors
///
/// Those of [`set_policy`](super::set_policy), `fstat(2)`, and `epoll_ctl(2)` or `kevent(2)`.
pub fn mute(source: &impl AsRawFd) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |state, selector, _, info| {
        if !info.is_muted() {
            state.records.record(fd).muted = Some(descriptor::open_file(fd)?);
            // The kernel keeps the registration of an adopted selector, without events.
            if !selector.is_adopted() {
                selector.kernel.queue.delete(fd)?;
            }
        }
        Ok(info.with_muted(true))
    })
}

/// Ends a [`mute`], and fails like that function. A source that is ready gives an event.
pub fn unmute(source: &impl AsRawFd) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |_, selector, token, info| {
        if info.is_muted() && !selector.is_adopted() {
            selector.kernel.queue.add(fd, token, info.kernel_interest())?;
        }
        Ok(info.with_muted(false))
    })
}

/// Lets an event of `source`, an I/O object or a descriptor, wake at least one of the processes that wait for it, instead of
/// all. Use it for a listening socket from which several workers accept. `false` ends this mode. Children inherit the mode.
///
/// The woken process must accept until [`WouldBlock`](io::ErrorKind::WouldBlock), or [mute] the source until it accepts
/// again. Otherwise the connections that it left wait until another one arrives, and the kernel may wake the same
/// process. If a process that the kernel may have woken has ended, call [`rearm_exclusive`] in the others.
///
/// # Errors
///
/// Those of [`set_policy`](super::set_policy), and those of `epoll_ctl(2)`:
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for an interest in priority readiness.
///
/// # Platforms
///
/// Linux: `EPOLLEXCLUSIVE` ([epoll_ctl(2)]). Busy processes find the event when they poll again. Only reading shows that the
/// peer has closed its half, because the kernel does not allow `EPOLLRDHUP` beside `EPOLLEXCLUSIVE`. This function changes
/// nothing on kqueue systems, which have no such flag, and in an [adopted](adopt) epoll instance.
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
pub fn set_exclusive(source: &impl AsRawFd, exclusive: bool) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |_, selector, token, info| {
        // Only the owner of a selector knows that no other code changes the registration.
        let changed = info.with_exclusive(exclusive && !selector.is_adopted());
        if changed != info && !info.is_muted() {
            selector.replace(fd, (token, info.kernel_interest()), (token, changed.kernel_interest()))?;
        }
        Ok(changed)
    })
}

/// Gives an event to each [exclusive](set_exclusive) registration of this process whose source is ready.
///
/// # Errors
///
/// Those of [`set_exclusive`]. If one registration cannot be armed again, the others still are.
pub fn rearm_exclusive() -> io::Result<()> {
    with_gate_closed(|_| {
        let mut result = Ok(());
        for selector in selectors() {
            for (fd, entry) in selector.table.iter().filter(|(_, entry)| entry.info().is_exclusive()) {
                let rearmed = change_entry(selector, fd, entry, |token, info| {
                    if info.is_exclusive() && !info.is_muted() {
                        let registration = (token, info.kernel_interest());
                        selector.replace(fd, registration, registration)?;
                    }
                    Ok(info)
                });
                result = result.and(rearmed.map(drop));
            }
        }
        result
    })
}

/// Makes forks handle the epoll instances of tokio's runtimes on upstream mio. `source`, an I/O object or a descriptor, must be
/// registered with one of them. Call this function again after an unplanned fork.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported) on a system that does not list the registrations of a queue, which is every
/// system but Linux; [`NotFound`](io::ErrorKind::NotFound) if there is no such instance; otherwise the reason why forkio
/// cannot determine for certain what a child must get.
pub fn adopt(source: &impl AsRawFd) -> Result<(), PrepareError> {
    let fd = source.as_raw_fd();
    let of = PrepareError::of(PrepareObject::ForeignRegistration(fd));
    let mut state = reconcile::lock_to_add("adopting a selector").map_err(of)?;
    adopting::adopt(&mut state, fd)
}

/// Whether this system has what [`adopt`] needs: only Linux lists the registrations of a queue.
pub fn can_adopt() -> bool {
    crate::sys::adoption::CAN_LIST
}

/// Whether `source`, an I/O object or a descriptor, is registered with an [adopted](adopt) instance.
pub fn is_adopted(source: &impl AsRawFd) -> bool {
    let _state = reconcile::lock_refreshed();
    adopting::is_adopted(source.as_raw_fd())
}

/// Returns the kind of `source`, an I/O object or a descriptor, as the kernel reports it, registered or not: never
/// [`Pair`](SourceKind::Pair) or [`Waker`](SourceKind::Waker).
///
/// # Errors
///
/// Those of `fstat(2)`, `getsockopt(2)` and `readlink(2)`.
pub fn kind(source: &impl AsRawFd) -> io::Result<SourceKind> {
    reconcile::ensure();
    descriptor::kind(source.as_raw_fd())
}

/// Returns the id of the newest selector; ids count up. While it does not change, no runtime is added, so a cached
/// result of [`renewed_receivers`] stays valid.
pub fn newest_selector() -> u64 {
    reconcile::ensure();
    PROCESS.last_id.load(Ordering::Relaxed)
}

/// Returns the registered descriptors that forks renew because of [`renew_receivers`].
pub fn renewed_receivers() -> Vec<RawFd> {
    let receivers = registrations().into_iter().filter(|registration| {
        let kind = registration.kind.unwrap_or(SourceKind::Other);
        decision::is_renewed_receiver(registration.token, kind) && find_pair(registration.fd).is_ok()
    });
    receivers.map(|registration| registration.fd).collect()
}

/// Gives every later child of this process a fresh pair in place of the one that `source` belongs to, registered or not. Use it
/// for a pipe that a signal handler writes to. `source` is an end of the pair or a duplicate of an end.
///
/// # Errors
///
/// Those of `fstat(2)`; [`NotFound`](io::ErrorKind::NotFound) if `source` is no end of a pair made in this process.
pub fn renew_pair_in_children(source: &impl AsRawFd) -> io::Result<()> {
    let [end, _] = find_pair(source.as_raw_fd())?;
    reconcile::lock_to_change().records.record(end).is_always_renewed = true;
    Ok(())
}

/// Makes each pair of [`renew_pair_in_children`] again, at the same descriptors, if other code has closed an end. For
/// example, a daemon may close all descriptors that it does not know.
///
/// # Errors
///
/// If another file has such a descriptor by now; otherwise those of `socketpair(2)` and `fcntl(2)`.
pub fn restore_renewed_pairs() -> io::Result<()> {
    let mut state = reconcile::lock_to_change();
    let pairs: Vec<_> = state.records.always_renewed().collect();
    for ends in pairs {
        let is_intact = ends.map(|fd| state.records.is_intact(fd));
        if is_intact == [true; 2] {
            continue;
        }
        // If both descriptors refer to ends of a pair again, the owner has made a new one there.
        if !ends.iter().all(|fd| descriptor::is_signal_pipe_end(*fd)) {
            restore(ends, is_intact)?;
        }
        state.records.add_pair(ends)?;
    }
    Ok(())
}

/// Makes a pair again, at its former descriptors.
fn restore(ends: [RawFd; 2], is_intact: [bool; 2]) -> io::Result<()> {
    let taken = |fd| {
        let text =
            format!("other code has closed descriptor {fd}, an end of a socket pair, and has another file there");
        io::Error::new(io::ErrorKind::AlreadyExists, text)
    };
    let ends = || ends.into_iter().zip(is_intact);
    if let Some((fd, _)) = ends().find(|(fd, is_intact)| !is_intact && descriptor::is_open(*fd)) {
        return Err(taken(fd));
    }
    // The kernel chooses the lowest free descriptors, which may be those of the pair: duplicate the sockets above them.
    let above = ends().map(|(fd, _)| fd + 1).max().unwrap_or(0);
    let [a, b] = descriptor::pair(Type::STREAM)?.map(|end| rustix::io::fcntl_dupfd_cloexec(end, above));
    for (fresh, (fd, is_intact)) in [a?, b?].into_iter().zip(ends()) {
        if is_intact {
            descriptor::replace(fresh.as_raw_fd(), fd).map_err(io::Error::from_raw_os_error)?;
        } else if !descriptor::duplicate_onto_closed(&fresh, fd)? {
            return Err(taken(fd));
        }
    }
    Ok(())
}

/// Makes `source` readable by writing a byte to its peer. `source` is an end, or a duplicate of an end, of a pair made in
/// this process.
///
/// # Errors
///
/// Those of [`renew_pair_in_children`], and those of `send(2)`.
pub fn nudge_pair_end(source: &impl AsRawFd) -> io::Result<()> {
    let [_, peer] = find_pair(source.as_raw_fd())?;
    match descriptor::send_byte(peer) {
        // The buffer is full, so `source` is readable already.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

/// Finds the pair of which `fd` is an end, or a duplicate of an end. Returns the end that `fd` refers to, then its peer.
fn find_pair(fd: RawFd) -> io::Result<[RawFd; 2]> {
    let pair = reconcile::lock().records.find_pair(descriptor::identity(fd)?);
    pair.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "not an end of a socket pair that was made in this process")
    })
}

/// Returns how many bytes wait to be read at `source`, as `ioctl(FIONREAD)` counts them.
///
/// # Errors
///
/// Those of `ioctl(2)`.
pub fn pending_bytes(source: &impl AsRawFd) -> io::Result<usize> {
    descriptor::pending_bytes(source.as_raw_fd())
}

/// Returns how many writes this process and its ancestors have made through unregistered ends of stream socket pairs.
/// tokio's signal handler makes such writes, to the signal pipe.
pub fn unregistered_writes() -> usize {
    UNREGISTERED_WRITES.load(Ordering::Relaxed)
}

/// Whether `Renew` can apply to a registration of `source`.
pub fn can_renew(source: &impl AsRawFd) -> bool {
    let fd = source.as_raw_fd();
    let state = reconcile::lock_refreshed();
    let kind = find(fd, |info| info.kind().is_some()).and_then(|(_, info)| info.kind());
    drop(state);
    let kind = kind.or_else(|| descriptor::kind(fd).ok());
    matches!(kind, Some(SourceKind::Timer | SourceKind::Waker)) || find_pair(fd).is_ok()
}
