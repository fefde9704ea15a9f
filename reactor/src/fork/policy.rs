//! What becomes of a registration in the child.

use std::sync::atomic::{AtomicU8, Ordering};

pub use crate::source_kind::SourceKind;

/// What becomes of a registration in the child of a fork.
///
/// Given with [`Registry::register_with_policy`](crate::Registry::register_with_policy) or later with
/// [`set_policy`](super::set_policy); a registration without a policy of its own follows
/// [its kind's default](default_policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ForkPolicy {
    /// The child has the registration, armed. A source that is ready at the fork gives an event in both processes.
    Inherit = 1,
    /// The child does not have the registration: what `EV_NOFORK` would be, had FreeBSD's `kevent` a bit left for it.
    /// The descriptor itself stays open in the child.
    NoFork = 2,
    /// The child's descriptor number is re-pointed at a dead endpoint: reads give end of file, writes fail with
    /// `EPIPE`, and whoever waits is woken. What was behind it is the parent's alone, so its peer sees the end when the
    /// parent closes. It stays dead in the child's children. (A listening socket is better closed in the child: `accept`
    /// on the dead endpoint fails.)
    Sever = 3,
    /// The object is private to a process: the child gets a fresh one at the same number, with what was pending in it.
    ///
    /// - Wakers.
    /// - Timers: the child's expires after the time that remains, keeps period and phase, and has the expirations that
    ///   nobody has taken. Exactly so for a `unix::Timer`. Of a timerfd that is registered by number only the kernel
    ///   and `/proc` tell: its phase is good to a few microseconds, and it is set to the absolute time, also if it was set
    ///   to a relative one. Duplicates of it become timers of their own.
    /// - Stream socket pairs made in this process: both ends, whatever the other end's policy, and those registered
    ///   duplicates that are tagged so too. Bytes that wait to be read are copied; descriptors in transit (`SCM_RIGHTS`)
    ///   and a half that was shut down are not.
    Renew = 4,
}

impl ForkPolicy {
    pub(crate) fn from_bits(bits: u8) -> Option<ForkPolicy> {
        match bits {
            1 => Some(ForkPolicy::Inherit),
            2 => Some(ForkPolicy::NoFork),
            3 => Some(ForkPolicy::Sever),
            4 => Some(ForkPolicy::Renew),
            _ => None,
        }
    }
}

/// By kind, offset by the smallest discriminant. The reactor's own are those of a kernel that copies the queue: all
/// is inherited but what the process waits on itself with, and the watches on its children.
static DEFAULTS: [AtomicU8; SourceKind::ALL.len()] = {
    let mut defaults = [const { AtomicU8::new(ForkPolicy::Inherit as u8) }; SourceKind::ALL.len()];
    defaults[SourceKind::Waker as usize - 1] = AtomicU8::new(ForkPolicy::Renew as u8);
    defaults[SourceKind::Timer as usize - 1] = AtomicU8::new(ForkPolicy::Renew as u8);
    defaults[SourceKind::Process as usize - 1] = AtomicU8::new(ForkPolicy::NoFork as u8);
    defaults
};

/// The policy of registrations of this kind that have none of their own.
///
/// Until [`set_default_policy`](super::set_default_policy) says otherwise: [`Inherit`](ForkPolicy::Inherit) for all kinds but
/// wakers and timers, which are [renewed](ForkPolicy::Renew), and processes, which are the parent's to wait for
/// ([`NoFork`](ForkPolicy::NoFork)).
pub fn default_policy(kind: SourceKind) -> ForkPolicy {
    ForkPolicy::from_bits(DEFAULTS[kind as usize - 1].load(Ordering::Relaxed)).unwrap_or(ForkPolicy::Inherit)
}

/// Sets the [default](default_policy), and returns the one before.
pub(super) fn replace_default(kind: SourceKind, policy: ForkPolicy) -> ForkPolicy {
    let before = DEFAULTS[kind as usize - 1].swap(policy as u8, Ordering::Relaxed);
    ForkPolicy::from_bits(before).unwrap_or(ForkPolicy::Inherit)
}
