//! The fork gate: whether registrations may be changed now, and whether this process has reconciled.
//!
//! One word for the whole process, on the page that the kernel wipes in the child of a fork. A thread that changes a
//! registration first marks its table entry, then reads the word. A fork first closes the gate, then reads the entries. So
//! either the fork sees the mark and waits, or the thread sees the closed gate and removes its mark.

use std::io;

use crate::sys::process::id;
use crate::sys::process_word::{self, heavy_fence, light_fence, wiped_word, word};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// This is the child of an unplanned fork, and its selectors are still the parent's.
pub(super) const WIPED: u32 = 0;
/// A thread of this process reconciles.
pub(super) const RECONCILING: u32 = 1;
/// Registrations may be changed. The heavy fence of a fork turns the light fences of other threads into full fences.
const OPEN: u32 = 2;
/// Registrations may be changed, with a full fence for each change.
const OPEN_WITH_FENCES: u32 = 3;
/// A fork is being made or is prepared ahead, or `registrations::with_gate_closed` runs.
const CLOSED: u32 = 4;

/// Takes the place of the word on systems that cannot wipe it: the process id in the upper half, the state in the lower half.
/// Each check then costs a getpid(2). On every system, 0 means that fork detection has not started.
static STATE_BY_ID: AtomicU64 = AtomicU64::new(0);

/// [`OPEN`] or [`OPEN_WITH_FENCES`].
static OPEN_STATE: AtomicU32 = AtomicU32::new(OPEN_WITH_FENCES);

/// Starts fork detection. Call it before any lock is used, and before there is anything to reconcile. Several threads may call
/// it at the same time. Fails if mmap(2) has no memory.
#[cold]
pub(super) fn start() -> io::Result<()> {
    if process_word::make_fences_asymmetric() {
        OPEN_STATE.store(OPEN, Ordering::Relaxed);
    }
    let open = OPEN_STATE.load(Ordering::Relaxed);
    process_word::make_word(open)?;
    // Another thread may have been faster, and may have closed the gate since.
    let _ = STATE_BY_ID.compare_exchange(0, state_by_id(open), Ordering::SeqCst, Ordering::Relaxed);
    Ok(())
}

pub(super) fn has_started() -> bool {
    STATE_BY_ID.load(Ordering::Acquire) != 0
}

/// Whether the selectors certainly belong to this process. If this returns `false`, call [`state`].
#[inline(always)]
pub(super) fn is_settled() -> bool {
    word().load(Ordering::Acquire) >= OPEN
}

/// Whether the gate is open, for a change whose entry is marked already.
#[inline(always)]
pub(super) fn is_open_after_mark() -> bool {
    light_fence();
    word().load(Ordering::Acquire) == OPEN || is_open_after_fence()
}

#[cold]
fn is_open_after_fence() -> bool {
    fence(Ordering::SeqCst);
    matches!(state(), OPEN | OPEN_WITH_FENCES)
}

#[cold]
pub(super) fn state() -> u32 {
    match (wiped_word(), STATE_BY_ID.load(Ordering::Acquire)) {
        (Some(word), _) => word.load(Ordering::Acquire),
        // There is nothing to reconcile.
        (None, 0) => OPEN,
        (None, known) if (known >> 32) as u32 == id() => known as u32,
        (None, _) => WIPED,
    }
}

/// Closes the gate to new changes. Changes under way continue: their entries are marked. Call it with the process state
/// locked.
pub(super) fn close() {
    set(CLOSED);
    heavy_fence(OPEN_STATE.load(Ordering::Relaxed) == OPEN);
}

/// Opens the gate. Async-signal-safe.
pub(super) fn open() {
    set(OPEN_STATE.load(Ordering::Relaxed));
}

/// In a child that has not reconciled, makes the calling thread the one that reconciles. Returns `false` if another thread
/// reconciles or has reconciled.
pub(super) fn claim() -> bool {
    let Some(word) = wiped_word() else {
        let own = state_by_id(RECONCILING);
        let claimed = |known| (known != 0 && known >> 32 != own >> 32).then_some(own);
        return STATE_BY_ID.fetch_update(Ordering::AcqRel, Ordering::Acquire, claimed).is_ok();
    };
    word.compare_exchange(WIPED, RECONCILING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

fn set(state: u32) {
    if let Some(word) = wiped_word() {
        word.store(state, Ordering::SeqCst);
    } else if has_started() {
        STATE_BY_ID.store(state_by_id(state), Ordering::SeqCst);
    }
}

/// Returns the value of [`STATE_BY_ID`] for a state of this process.
fn state_by_id(state: u32) -> u64 {
    u64::from(id()) << 32 | u64::from(state)
}
