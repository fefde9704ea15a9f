use std::sync::atomic::{AtomicU8, Ordering};

pub use crate::source_kind::SourceKind;

/// What the child of a fork gets for a registration.
///
/// Set it with [`Registry::register_with_policy`](crate::Registry::register_with_policy), or later with
/// [`set_policy`](super::set_policy). A registration without a policy of its own follows [its kind's
/// default](default_policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum ForkPolicy {
    /// The child has the registration, armed. A source that is ready at the fork gives an event in both processes.
    Inherit = 1,
    /// The child does not have the registration (`EV_NOFORK`). The descriptor stays open in the child.
    NoFork = 2,
    /// The child's descriptor refers to a dead endpoint: reads return end of file, writes fail with `EPIPE`, and waiting tasks
    /// wake. Only the parent has the original object, so the peer sees the end when the parent closes that object. The
    /// descriptor stays dead in the child's children. (Close a listening socket in the child instead: `accept` on the dead
    /// endpoint fails.)
    Sever = 3,
    /// The child gets a fresh private object behind the same descriptor, pending state included. This is possible for
    /// wakers, timers, and stream socket pairs made in this process. With any other source, preparing a fork fails.
    ///
    /// - The child's timer expires after the time that remains, keeps period and phase, and has the expirations that were not
    ///   taken. For a `unix::Timer` this is exact. The phase of a timerfd that is registered as a bare descriptor is good to a
    ///   few microseconds. The child's timerfd is set to an absolute time, even if the parent's was set to a relative one.
    ///   Duplicates of a timerfd become timers of their own.
    /// - Both ends of a pair are renewed, even if the other end has another policy. A registered duplicate that has this policy
    ///   is renewed too. The fork copies bytes that wait to be read. The fresh pair has no descriptors in transit
    ///   (`SCM_RIGHTS`), and neither half is shut down.
    Renew = 4,
}

impl ForkPolicy {
    pub(crate) fn from_bits(bits: u8) -> Option<ForkPolicy> {
        use ForkPolicy::{Inherit, NoFork, Renew, Sever};
        [Inherit, NoFork, Sever, Renew].get(usize::from(bits).checked_sub(1)?).copied()
    }
}

/// The defaults, in the order of [`SourceKind::ALL`].
static DEFAULTS: [AtomicU8; SourceKind::ALL.len()] = {
    let mut defaults = [const { AtomicU8::new(ForkPolicy::Inherit as u8) }; SourceKind::ALL.len()];
    defaults[SourceKind::Waker as usize - 1] = AtomicU8::new(ForkPolicy::Renew as u8);
    defaults[SourceKind::Timer as usize - 1] = AtomicU8::new(ForkPolicy::Renew as u8);
    defaults[SourceKind::Process as usize - 1] = AtomicU8::new(ForkPolicy::NoFork as u8);
    defaults
};

/// Returns the policy of registrations of this kind that have no policy of their own.
///
/// Most kinds begin with [`Inherit`](ForkPolicy::Inherit), as in a kernel that copies queues. Wakers and timers begin with
/// [`Renew`](ForkPolicy::Renew), and processes with [`NoFork`](ForkPolicy::NoFork), because only their parent can wait for
/// them. [`set_default_policy`](super::set_default_policy) changes the policy of a kind.
pub fn default_policy(kind: SourceKind) -> ForkPolicy {
    ForkPolicy::from_bits(DEFAULTS[kind as usize - 1].load(Ordering::Relaxed)).unwrap_or(ForkPolicy::Inherit)
}

/// Sets the [default](default_policy), and returns the previous one.
pub(super) fn replace_default(kind: SourceKind, policy: ForkPolicy) -> ForkPolicy {
    let before = DEFAULTS[kind as usize - 1].swap(policy as u8, Ordering::Relaxed);
    ForkPolicy::from_bits(before).unwrap_or(ForkPolicy::Inherit)
}
