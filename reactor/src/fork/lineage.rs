//! The position of this process in a tree of forks.

use std::sync::atomic::Ordering;

use super::process_state::{self, PROCESS};
use super::reconcile;

/// Returns how many forks lie between the start of the program and this process: 0 in the process that was started, 1 in
/// its children, 2 in their children.
///
/// An unplanned fork counts once its child has reconciled, which this function does first. An intermediate process that
/// never used a selector, such as the middle one of a daemon's double fork, is not counted.
///
/// Forks are noticed once the process has used a selector or has called this function.
pub fn generation() -> u32 {
    reconcile::ensure();
    process_state::generation()
}

/// Returns the process id of the parent that forked this process, even if the parent has ended since; `None` in generation
/// 0.
///
/// Like [`generation`], this skips processes that never used a selector.
pub fn parent() -> Option<u32> {
    reconcile::ensure();
    Some(PROCESS.parent.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
}
