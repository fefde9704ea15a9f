use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::descriptors::Records;
use super::entry::EntryInfo;
use super::policy::{ForkPolicy, SourceKind, default_policy};
use super::selector_core::SelectorCore;
use crate::sys::descriptor;
use crate::{Interest, Token};

/// What the child of a fork gets for one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// No registration.
    LeaveOut,
    /// The registration, added to the child's queue before the fork.
    Inherit,
    /// The registration, which this process has muted. It is added to the child's queue last.
    HoldBack,
    /// The registration, which only the child can add to its queue.
    AddInChild,
    /// The registration of a dead endpoint, which replaces the object at the descriptor.
    Sever,
    /// The registration of a fresh timer, which replaces the object at the descriptor.
    RenewTimer,
    /// The registration of an end of a fresh socket pair, which replaces the object at the descriptor.
    RenewPair,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    pub(super) selector: &'static SelectorCore,
    pub(super) fd: RawFd,
    pub(super) token: Token,
    pub(super) interest: Interest,
    pub(super) decision: Decision,
}

impl Decision {
    /// Decides what the child gets. `is_selector` says whether the descriptor is the queue of a selector that the fork copies.
    pub(super) fn new(policy: ForkPolicy, info: EntryInfo, kind: SourceKind, is_selector: bool) -> Decision {
        match policy {
            ForkPolicy::NoFork => Decision::LeaveOut,
            ForkPolicy::Sever => Decision::Sever,
            ForkPolicy::Renew if kind == SourceKind::Timer => Decision::RenewTimer,
            ForkPolicy::Renew => Decision::RenewPair,
            // A signalfd watches the signals of the process that registers it. The descriptor of a selector refers to the
            // child's own queue after the fork.
            ForkPolicy::Inherit if kind == SourceKind::Signal || is_selector => Decision::AddInChild,
            ForkPolicy::Inherit if info.is_muted() => Decision::HoldBack,
            ForkPolicy::Inherit => Decision::Inherit,
        }
    }

    /// Whether the child has another object at the descriptor.
    pub(super) fn is_replaced(self) -> bool {
        matches!(self, Decision::Sever | Decision::RenewTimer | Decision::RenewPair)
    }
}

impl Records {
    /// Returns the policy that a fork follows for a registration. Fails if the descriptor cannot be inspected.
    pub(super) fn policy(&self, fd: RawFd, token: Token, info: EntryInfo, kind: SourceKind) -> io::Result<ForkPolicy> {
        // A stream with this token is a signal pipe only if it belongs to a pair made in this process.
        let is_own_pair = || -> io::Result<bool> {
            let identity = descriptor::if_open(descriptor::identity(fd))?;
            Ok(identity.is_some_and(|identity| self.find_pair(identity).is_some()))
        };
        Ok(match info.own_policy() {
            Some(policy) => policy,
            None if is_renewed_receiver(token, kind) && is_own_pair()? => ForkPolicy::Renew,
            None => default_policy(kind),
        })
    }
}

/// The token of [`renew_receivers`] plus 1, or 0 if that function was not called.
static RENEWED_TOKEN: AtomicU64 = AtomicU64::new(0);

/// Makes `Renew` the default policy of stream sockets that are registered with `token` and belong to a pair made in this
/// process. These are the receiving ends of tokio's signal pipe, whose policy the program cannot set itself.
pub fn renew_receivers(token: Token) {
    RENEWED_TOKEN.store(token.0 as u64 + 1, Ordering::Relaxed);
}

/// Whether [`renew_receivers`] applies to a registration. The caller must check that the socket belongs to a pair made
/// in this process.
pub(super) fn is_renewed_receiver(token: Token, kind: SourceKind) -> bool {
    kind == SourceKind::Stream && (token.0 as u64).wrapping_add(1) == RENEWED_TOKEN.load(Ordering::Relaxed)
}
