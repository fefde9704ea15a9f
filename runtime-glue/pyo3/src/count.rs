//! [`Count`]: the number of [`Counted`] values in this process.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::generation;

/// The number of [`Counted`] values that this process has made and not dropped. In a child, the number starts at zero.
pub(crate) struct Count {
    /// The generation of the process in the upper half, and its count in the lower one.
    word: AtomicU64,
}

/// Adds one to a [`Count`] until it is dropped.
#[must_use]
pub(crate) struct Counted {
    count: &'static Count,
    generation: u32,
}

impl Count {
    pub(crate) const fn new() -> Count {
        Count { word: AtomicU64::new(0) }
    }

    pub(crate) fn add(&'static self) -> Counted {
        let generation = generation();
        self.change(generation, |count| count + 1);
        Counted { count: self, generation }
    }

    pub(crate) fn is_zero(&self) -> bool {
        of(self.word.load(Ordering::SeqCst), generation()) == 0
    }

    fn change(&self, generation: u32, change: impl Fn(u32) -> u32) {
        let changed = |word| Some(u64::from(generation) << 32 | u64::from(change(of(word, generation))));
        let _ = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed);
    }
}

/// Returns the count in `word`, or zero if `word` belongs to another generation.
fn of(word: u64, generation: u32) -> u32 {
    if (word >> 32) as u32 == generation { word as u32 } else { 0 }
}

impl Counted {
    /// Returns whether this process made the value, and not an ancestor.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.generation == generation()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.is_of_this_process() {
            self.count.change(self.generation, |count| count.saturating_sub(1));
        }
    }
}
