//! Fresh objects that a child gets in place of its parent's, at the same descriptors.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use socket2::Type;

use super::error::{PrepareError, PrepareObject};
use crate::sys;
use crate::sys::descriptor::{self, Identity};
use crate::timer_state::TimerState;

/// A pair or a timer that the child replaces with a fresh one in the same state. A waker is not listed: its state is in
/// memory, which the child has too.
#[derive(Debug)]
pub(super) enum Renewal {
    Pair([RenewedEnd; 2]),
    /// `state` is `None` for a timer that is known only by its descriptor.
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
    pub(super) fresh_identity: Identity,
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
    /// The file that `onto` must refer to: if it refers to another one, the child skips this step. `None` if the gate or the
    /// owner of `onto` keeps other code from closing it before the fork.
    pub(super) expected: Option<Identity>,
}

impl Replacements {
    pub(super) fn add(&mut self, fresh: OwnedFd, onto: RawFd) {
        self.steps.push(Replacement { from: fresh.as_raw_fd(), onto, expected: None });
        self.spares.push(fresh);
    }
}

/// Makes a fresh pair in place of the one with these ends.
pub(super) fn renew_pair([a, b]: [RawFd; 2], replacements: &mut Replacements) -> io::Result<[RenewedEnd; 2]> {
    let [fresh_a, fresh_b] = descriptor::pair(Type::STREAM)?;
    let mut end = |fd, fresh: OwnedFd| {
        let (identity, fresh_identity) = (descriptor::identity(fd)?, descriptor::identity(fresh.as_raw_fd())?);
        let end = RenewedEnd { fd, identity, fresh: fresh.as_raw_fd(), fresh_identity };
        replacements.add(fresh, fd);
        io::Result::Ok(end)
    };
    Ok([end(a, fresh_a.into())?, end(b, fresh_b.into())?])
}

impl Renewal {
    /// Copies the waiting bytes to a fresh pair, or makes the fresh timer. [`Plan::complete`](super::plan::Plan::complete) calls
    /// this late, because the state changes without notice.
    pub(super) fn bring_up_to_date(&self, replacements: &mut Replacements) -> Result<(), PrepareError> {
        match self {
            Renewal::Pair([a, b]) => descriptor::copy_pending(a.fd, b.fresh)
                .and_then(|()| descriptor::copy_pending(b.fd, a.fresh))
                .map_err(PrepareError::of(PrepareObject::Pair(a.fd))),
            Renewal::Timer { fd, state } => {
                let fresh = match state.as_ref().filter(|state| !state.is_severed()) {
                    Some(state) => sys::timer::renewed(state),
                    None => sys::timer::renewed_by_descriptor(*fd).map(Some),
                };
                let fresh = fresh.map_err(PrepareError::of(PrepareObject::Timer(*fd)))?;
                // If there is no fresh timer, the child opens the timer's queue again: see `sys::Remake`.
                fresh.into_iter().for_each(|fresh| replacements.add(fresh, *fd));
                Ok(())
            }
        }
    }
}
