//! Lists the registrations of this process, and sets their policies.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::adopting;
use super::entry::{Entry, EntryInfo, PATIENCE};
use super::gate;
use super::policy::{ForkPolicy, SourceKind, replace_default};
use super::process_state::{ProcessState, generation, refuse_inside_fork, selectors};
use super::reconcile::{self, lock_refreshed, lock_to_change};
use super::selector_core::SelectorCore;
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
    /// The token of the registration.
    pub token: Token,
    /// The interest of the registration.
    pub interest: Interest,
    /// The kind of the source; `None` for a bare descriptor that has been closed or cannot be inspected.
    pub kind: Option<SourceKind>,
    /// The policy that the next fork follows.
    pub policy: ForkPolicy,
    /// Whether this process has [muted](super::glue::mute) the registration.
    pub muted: bool,
}

/// Lists the registrations of this process, in the order of selectors and descriptors. The list includes wakers that have a
/// descriptor, and leaves out registrations with a poisoned selector.
pub fn registrations() -> Vec<Registration> {
    let state = lock_refreshed();
    let mut list = Vec::new();
    // The descriptor of a poisoned selector may refer to another process's queue.
    let mut selectors: Vec<_> = selectors().filter(|selector| !selector.is_poisoned()).collect();
    selectors.sort_by_key(|selector| selector.id());
    for selector in selectors {
        let queue = selector.kernel.queue.fd();
        let first = list.len();
        for (fd, entry) in selector.table.iter() {
            let Some((token, info)) = entry.get().filter(|(_, info)| is_here(*info)) else { continue };
            let kind = info.kind().or_else(|| descriptor::kind(fd).ok());
            let known = kind.unwrap_or(SourceKind::Other);
            list.push(Registration {
                selector: queue,
                fd,
                token,
                interest: info.interest(),
                kind,
                policy: state.records.policy(fd, token, info, known).unwrap_or(info.policy(known)),
                muted: info.is_muted(),
            });
        }
        if let Some((token, waker)) = selector.kernel.waker.get().filter(|(_, waker)| waker.registered >= 0) {
            list.push(Registration {
                selector: queue,
                fd: waker.registered,
                token,
                interest: Interest::READABLE,
                kind: Some(SourceKind::Waker),
                policy: ForkPolicy::Renew,
                muted: false,
            });
            list[first..].sort_by_key(|registration| registration.fd);
        }
    }
    list
}

fn is_here(info: EntryInfo) -> bool {
    !info.is_absent(generation())
}

/// Returns how many selectors this process has.
pub fn selector_count() -> usize {
    reconcile::ensure();
    selectors().count()
}

/// Sets the policy of `source`, an I/O object or a descriptor, in every selector that it is registered with.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if `source` is not registered, [`TimedOut`](io::ErrorKind::TimedOut) if another
/// thread does not finish changing it; otherwise an error if this thread is forking, if a selector is poisoned, or if
/// an [adopted](super::glue::adopt) epoll instance cannot be read or changed.
///
/// # Examples
///
#[cfg_attr(all(feature = "os-ext", feature = "os-poll"), doc = "```")]
#[cfg_attr(not(all(feature = "os-ext", feature = "os-poll")), doc = "```ignore")]
/// use forkio_reactor::fork::{ForkPolicy, set_policy};
/// use forkio_reactor::unix::pipe;
/// use forkio_reactor::{Interest, Poll, Token};
///
/// let poll = Poll::new()?;
/// let (_sender, mut receiver) = pipe::new()?;
/// poll.registry().register(&mut receiver, Token(1), Interest::READABLE)?;
/// set_policy(&receiver, ForkPolicy::NoFork)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn set_policy(source: &impl AsRawFd, policy: ForkPolicy) -> io::Result<()> {
    change(source.as_raw_fd(), |_, _, _, info| Ok(info.with_policy(policy)))
}

/// Returns the policy that the next fork follows for `source`, an I/O object or a descriptor; `None` if `source` is not
/// registered.
pub fn policy(source: &impl AsRawFd) -> Option<ForkPolicy> {
    let fd = source.as_raw_fd();
    let state = lock_refreshed();
    let (token, info) = find(fd, is_here)?;
    let kind = info.kind().or_else(|| descriptor::kind(fd).ok()).unwrap_or(SourceKind::Other);
    Some(state.records.policy(fd, token, info, kind).unwrap_or(info.policy(kind)))
}

/// Sets the policy of registrations of this kind that have no policy of their own, for the whole process, and returns the
/// previous one. The next fork follows the new policy, even for sources that are registered already.
///
/// Wakers are always renewed, regardless of the default of their kind.
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
    let _state = lock_to_change();
    replace_default(kind, policy)
}

/// Finds a registration of `fd`, in any selector, for which `is_wanted` returns `true`. Call it with the state locked.
pub(super) fn find(fd: RawFd, is_wanted: impl Fn(EntryInfo) -> bool) -> Option<(Token, EntryInfo)> {
    selectors().find_map(|selector| selector.table.get(fd)?.get().filter(|(_, info)| is_wanted(*info)))
}

/// Changes every registration of `fd`, with the gate closed, so that the owner cannot close the descriptor meanwhile.
pub(super) fn change(
    fd: RawFd,
    change: impl Fn(&mut ProcessState, &SelectorCore, Token, EntryInfo) -> io::Result<EntryInfo>,
) -> io::Result<()> {
    let mut found = false;
    with_gate_closed(|state| {
        for selector in selectors() {
            let Some(entry) = selector.table.get(fd) else { continue };
            found |= change_entry(selector, fd, entry, |token, info| change(state, selector, token, info))?;
        }
        Ok(())
    })?;
    if found {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("descriptor {fd} is not registered with any `Registry`")))
}

/// Runs `act` with the gate closed. Forks and other changes of registrations wait meanwhile.
pub(super) fn with_gate_closed(act: impl FnOnce(&mut ProcessState) -> io::Result<()>) -> io::Result<()> {
    struct Closed;

    impl Drop for Closed {
        fn drop(&mut self) {
            gate::open();
        }
    }

    refuse_inside_fork("changing a registration")?;
    let mut state = lock_to_change();
    adopting::refresh(&mut state).map_err(io::Error::other)?;
    gate::close();
    let _closed = Closed;
    act(&mut state)
}

/// Changes one registration, and returns whether it exists. Call it with the gate closed.
pub(super) fn change_entry(
    selector: &SelectorCore,
    fd: RawFd,
    entry: &Entry,
    change: impl FnOnce(Token, EntryInfo) -> io::Result<EntryInfo>,
) -> io::Result<bool> {
    if !entry.settles_within(PATIENCE) {
        let text = "another thread has not finished changing the registration; that thread may be waiting for this one";
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    let Some((token, before)) = entry.get().filter(|(_, info)| is_here(*info)) else { return Ok(false) };
    selector.check_poison()?;
    let changed = change(token, before).and_then(|after| {
        if selector.is_adopted() && after != before {
            // The kernel's list shows neither policies nor mutes. A mark in it tells `adopting` that the table has them.
            let interest = if after.is_muted() { Interest::MARK } else { selector.kernel_interest(after) };
            selector.kernel.queue.modify(fd, token, interest)?;
        }
        Ok(after)
    });
    if changed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        entry.vacate();
    }
    entry.set_info(changed?);
    Ok(true)
}
