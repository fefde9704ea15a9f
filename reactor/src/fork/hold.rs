//! Keeps forks waiting.

use super::lock::Guard;
use super::world::HOLD;

/// No fork of this process is made through this crate until it is dropped; see [`hold_off`].
#[derive(Debug)]
#[must_use = "forks wait only for as long as it lives"]
pub struct HeldOff {
    pub(super) _guard: Guard<()>,
}

/// Keeps forks waiting, for what a child must not find half done; waits for a fork that is under way.
///
/// The thread that holds forks off must not fork: it would wait for itself.
pub fn hold_off() -> HeldOff {
    HeldOff { _guard: HOLD.lock() }
}
