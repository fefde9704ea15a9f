//! Fresh objects that a child gets in place of its parent's, at the same descriptors.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use socket2::Type;

use super::error::PrepareObject;
use crate::sys;
use crate::sys::descriptor::{self, Identity};
use crate::timer_state::TimerState;
use crate::waker_slot::WakerDescriptors;

/// An object in place of which the child gets a fresh one.
#[derive(Debug)]
pub(super) enum Renewal {
    Waker(WakerDescriptors),
    Pair([RenewedEnd; 2]),
    /// `state` is `None` for a timer that is only known by its descriptor.
    Timer {
        fd: RawFd,
        state: Option<Arc<TimerState>>,
    },
}

/// An end of a socket pair, with the end of the fresh pair that takes its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct RenewedEnd {
    pub(super) fd: RawFd,
    pub(super) identity: Identity,
    pub(super) fresh: RawFd,
}

/// Fresh objects, and the descriptors whose places they take in the child.
#[derive(Debug)]
pub(super) struct Replacements {
    pub(super) steps: Vec<Replacement>,
    /// The descriptors that both processes close after the fork.
    pub(super) spares: Vec<OwnedFd>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Replacement {
    pub(super) from: RawFd,
    pub(super) onto: RawFd,
    /// Replace only this file. `None`: the gate or the owner of `onto` keeps other code from closing it before the fork.
    pub(super) only: Option<Identity>,
}

impl Replacements {
    pub(super) const fn new() -> Replacements {
        Replacements { steps: Vec::new(), spares: Vec::new() }
    }

    pub(super) fn add(&mut self, fresh: OwnedFd, onto: RawFd) {
        self.steps.push(Replacement { from: fresh.as_raw_fd(), onto, only: None });
        self.spares.push(fresh);
    }
}

/// Makes a fresh pair for the one with these ends.
pub(super) fn renew_pair([a, b]: [RawFd; 2], replacements: &mut Replacements) -> io::Result<[RenewedEnd; 2]> {
    let identities = [descriptor::identity(a)?, descriptor::identity(b)?];
    let fresh = descriptor::pair(Type::STREAM)?;
    let ends =
        [(a, 0), (b, 1)].map(|(fd, at)| RenewedEnd { fd, identity: identities[at], fresh: fresh[at].as_raw_fd() });
    for (fresh, fd) in fresh.into_iter().zip([a, b]) {
        replacements.add(fresh.into(), fd);
    }
    Ok(ends)
}

impl Renewal {
    /// Returns the name of the object for errors.
    pub(super) fn object(&self) -> PrepareObject {
        match self {
            Renewal::Waker(waker) => PrepareObject::Waker(waker.registered),
            Renewal::Pair([end, _]) => PrepareObject::Pair(end.fd),
            Renewal::Timer { fd, .. } => PrepareObject::Timer(*fd),
        }
    }

    /// Returns the descriptors at which the child has fresh objects.
    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        match self {
            Renewal::Waker(waker) => [waker.registered, waker.sender],
            Renewal::Pair(ends) => ends.map(|end| end.fd),
            Renewal::Timer { fd, .. } => [*fd, *fd],
        }
    }

    /// Gives the fresh object the state that changes without notice, right before the fork.
    pub(super) fn bring_up_to_date(&self, replacements: &mut Replacements) -> io::Result<()> {
        match self {
            // A pending wake is noted in memory, which the child has too.
            Renewal::Waker(_) => Ok(()),
            Renewal::Pair([a, b]) => {
                descriptor::copy_pending(a.fd, b.fresh)?;
                descriptor::copy_pending(b.fd, a.fresh)
            }
            Renewal::Timer { fd, state } => {
                let fresh = match state.as_ref().filter(|state| !state.is_severed()) {
                    Some(state) => sys::timer::renewed(state)?,
                    None => Some(sys::timer::renewed_by_descriptor(*fd)?),
                };
                // If there is no fresh timer, the child makes it.
                fresh.into_iter().for_each(|fresh| replacements.add(fresh, *fd));
                Ok(())
            }
        }
    }
}
