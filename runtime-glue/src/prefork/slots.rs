//! The state of the server and of each worker process, in memory that the supervisor and its workers share.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::sys;

/// The phase of the server as a whole. The supervisor writes it, and its workers read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerPhase {
    /// The server serves. A worker that is told to end leaves the queues to its siblings.
    Running = 0,
    /// The server still accepts, but asks load balancers to send no more: [`Prefork::lame_duck`](super::Prefork::lame_duck).
    LameDuck = 1,
    /// The server stops: each worker empties the queues before it closes them.
    Stopping = 2,
    /// Another program serves the same queues. Workers leave the queues to it.
    HandedOver = 3,
}

/// The worker is ready.
pub(super) const READY: u64 = 1;
/// The worker asks to be replaced.
pub(super) const WANTS_RETIRE: u64 = 1 << 1;
/// The worker asks the supervisor to stop the server.
pub(super) const WANTS_HALT: u64 = 1 << 2;
/// No other worker will serve this worker's own queue: the worker must empty that queue before closing it. The supervisor
/// sets this flag.
pub(super) const EMPTIES_OWN_QUEUE: u64 = 1 << 3;
/// The worker has begun as many requests as it may.
pub(super) const REACHED_REQUESTS: u64 = 1 << 4;
/// The worker retires: the supervisor or a signal of another process has told it to end, and the server continues.
pub(super) const DRAINS: u64 = 1 << 5;
/// The worker must not start, because the supervisor no longer needs it.
pub(super) const CANCELLED: u64 = 1 << 6;
/// The supervisor has told the worker to end.
pub(super) const TOLD: u64 = 1 << 7;
/// The worker could not change its privileges. Another attempt would fail too, because all workers have the same settings.
pub(super) const UNFIT: u64 = 1 << 8;

/// The last heartbeat of a process, and when the supervisor first saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenHeartbeat {
    heartbeat: u64,
    at: Instant,
}

impl SeenHeartbeat {
    pub(super) fn new(heartbeat: u64, now: Instant) -> SeenHeartbeat {
        SeenHeartbeat { heartbeat, at: now }
    }

    /// Whether the process has had the same heartbeat for `limit`. If it `is_excused`, its time begins again.
    pub(super) fn is_stuck(&mut self, heartbeat: u64, is_excused: bool, limit: Duration, now: Instant) -> bool {
        if heartbeat != self.heartbeat || is_excused {
            *self = SeenHeartbeat::new(heartbeat, now);
            return false;
        }
        now.saturating_duration_since(self.at) >= limit
    }
}

const HEADER: usize = 8;
const PHASE: usize = 0;
const USED: usize = 1;
const OWNS_LISTENERS: usize = 2;
const SERVICE_HEARTBEAT: usize = 3;

const SLOT: usize = 8;
const PID: usize = 0;
const INDEX: usize = 1;
const GENERATION: usize = 2;
const FLAGS: usize = 3;
const HEARTBEAT: usize = 4;
const REQUESTS: usize = 5;
const ENDED_REQUESTS: usize = 6;
const SINCE: usize = 7;

/// One slot per worker process: workers of several generations with the same index have one each. The supervisor
/// assigns slots and clears them.
///
/// Every field is one atomic word, so a worker that is killed leaves nothing half-written.
#[derive(Debug)]
pub(super) struct Slots {
    words: sys::SharedWords,
    capacity: usize,
}

impl Slots {
    pub(super) fn new(capacity: usize) -> io::Result<Slots> {
        Ok(Slots { words: sys::SharedWords::new(HEADER + capacity * SLOT)?, capacity })
    }

    pub(super) fn phase(&self) -> ServerPhase {
        match self.words[PHASE].load(Ordering::Acquire) {
            0 => ServerPhase::Running,
            1 => ServerPhase::LameDuck,
            2 => ServerPhase::Stopping,
            _ => ServerPhase::HandedOver,
        }
    }

    pub(super) fn set_phase(&self, phase: ServerPhase) {
        self.words[PHASE].store(phase as u64, Ordering::Release);
    }

    /// Whether no process outside this server has the listeners open.
    pub(super) fn owns_listeners(&self) -> bool {
        self.words[OWNS_LISTENERS].load(Ordering::Acquire) != 0
    }

    pub(super) fn set_owns_listeners(&self, owns: bool) {
        self.words[OWNS_LISTENERS].store(owns.into(), Ordering::Release);
    }

    /// Gives the lowest free slot to a process that will be worker `index`. Returns `None` if all are taken.
    pub(super) fn assign(&self, index: usize, generation: u64) -> Option<usize> {
        let free = (0..self.capacity).find(|slot| self.word(*slot, INDEX).load(Ordering::Relaxed) == 0)?;
        for field in 0..SLOT {
            self.word(free, field).store(0, Ordering::Relaxed);
        }
        self.word(free, GENERATION).store(generation, Ordering::Relaxed);
        self.word(free, SINCE).store(sys::monotonic_nanoseconds(), Ordering::Relaxed);
        self.word(free, INDEX).store(index as u64 + 1, Ordering::Release);
        self.words[USED].fetch_max(free as u64 + 1, Ordering::AcqRel);
        Some(free)
    }

    /// Clears the slot of a process that has ended.
    pub(super) fn clear(&self, slot: usize) {
        for field in 0..SLOT {
            self.word(slot, field).store(0, Ordering::Release);
        }
    }

    /// Returns the number of slots that have ever been assigned. They are the first slots.
    pub(super) fn used(&self) -> usize {
        // Each worker can write this memory, and must not make the other processes panic.
        self.capacity.min(self.words[USED].load(Ordering::Acquire) as usize)
    }

    /// Returns the worker index of the process in a slot.
    pub(super) fn index(&self, slot: usize) -> Option<usize> {
        (self.word(slot, INDEX).load(Ordering::Acquire) as usize).checked_sub(1)
    }

    /// Whether a process other than the one in `slot` has a slot.
    pub(super) fn has_others(&self, slot: usize) -> bool {
        (0..self.used()).any(|other| other != slot && self.index(other).is_some())
    }

    pub(super) fn set_pid(&self, slot: usize, pid: u32) {
        self.word(slot, PID).store(pid.into(), Ordering::Release);
    }

    pub(super) fn pid(&self, slot: usize) -> u32 {
        self.word(slot, PID).load(Ordering::Acquire) as u32
    }

    pub(super) fn flags(&self, slot: usize) -> u64 {
        self.word(slot, FLAGS).load(Ordering::Acquire)
    }

    /// Sets a flag. Returns whether it was set before.
    pub(super) fn raise(&self, slot: usize, flag: u64) -> bool {
        self.word(slot, FLAGS).fetch_or(flag, Ordering::AcqRel) & flag != 0
    }

    pub(super) fn beat(&self, slot: usize) {
        self.word(slot, HEARTBEAT).store(sys::monotonic_nanoseconds(), Ordering::Relaxed);
    }

    /// Returns the time of the last heartbeat, by the monotonic clock in nanoseconds.
    pub(super) fn heartbeat(&self, slot: usize) -> u64 {
        self.word(slot, HEARTBEAT).load(Ordering::Relaxed)
    }

    #[cfg(feature = "status")]
    pub(super) fn beat_of_service(&self) {
        self.words[SERVICE_HEARTBEAT].store(sys::monotonic_nanoseconds(), Ordering::Relaxed);
    }

    /// Returns the time of the service worker's last heartbeat, like [`heartbeat`](Slots::heartbeat).
    pub(super) fn heartbeat_of_service(&self) -> u64 {
        self.words[SERVICE_HEARTBEAT].load(Ordering::Relaxed)
    }

    /// Counts a request of the worker, which is in flight from now on. Returns how many it has begun.
    pub(super) fn begin_request(&self, slot: usize) -> u64 {
        // The worker is the only writer, but it may have threads.
        self.word(slot, REQUESTS).fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn requests(&self, slot: usize) -> u64 {
        self.word(slot, REQUESTS).load(Ordering::Relaxed)
    }

    /// Counts a request of the worker that is no longer in flight.
    pub(super) fn end_request(&self, slot: usize) {
        // Pairs with the load in `in_flight`: a reader that sees the end sees the beginning too.
        self.word(slot, ENDED_REQUESTS).fetch_add(1, Ordering::Release);
    }

    fn word(&self, slot: usize, field: usize) -> &AtomicU64 {
        &self.words[HEADER + slot * SLOT + field]
    }
}

/// Functions for the service worker.
#[cfg(feature = "status")]
impl Slots {
    /// Returns how many requests of the worker are in flight, or more if requests begin meanwhile.
    pub(super) fn in_flight(&self, slot: usize) -> u64 {
        // Read `ended` first, so that a request which begins and ends meanwhile does not make the result negative.
        let ended = self.word(slot, ENDED_REQUESTS).load(Ordering::Acquire);
        self.requests(slot).saturating_sub(ended)
    }

    /// Returns when the slot was assigned, by the monotonic clock in nanoseconds.
    pub(super) fn since(&self, slot: usize) -> u64 {
        self.word(slot, SINCE).load(Ordering::Relaxed)
    }

    pub(super) fn generation(&self, slot: usize) -> u64 {
        self.word(slot, GENERATION).load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_has_a_slot_of_its_own() {
        let slots = Slots::new(3).unwrap();
        let old = slots.assign(0, 1).unwrap();
        assert!(!slots.has_others(old));
        slots.begin_request(old);
        let new = slots.assign(0, 2).unwrap();
        assert_ne!(old, new);
        assert!(slots.has_others(old) && slots.has_others(new));
        slots.begin_request(new);
        assert_eq!((slots.requests(old), slots.requests(new)), (1, 1));
        assert_eq!((slots.index(old), slots.index(new), slots.used()), (Some(0), Some(0), 2));
        slots.assign(1, 2).unwrap();
        assert_eq!(slots.assign(2, 2), None, "all are taken");
        slots.clear(old);
        assert_eq!(slots.assign(2, 2), Some(old));
        assert_eq!((slots.requests(old), slots.flags(old)), (0, 0), "nothing is left of the process before");
    }

    #[test]
    fn a_wrong_count_of_used_slots_is_bounded() {
        let slots = Slots::new(2).unwrap();
        slots.words[USED].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(slots.used(), 2);
        assert!(!slots.has_others(0));
    }

    #[test]
    fn flags_and_phases() {
        let slots = Slots::new(1).unwrap();
        let slot = slots.assign(0, 1).unwrap();
        assert!(!slots.raise(slot, READY) && slots.raise(slot, READY));
        assert!(!slots.raise(slot, WANTS_RETIRE));
        assert_eq!(slots.flags(slot), READY | WANTS_RETIRE);
        for phase in [ServerPhase::LameDuck, ServerPhase::Stopping, ServerPhase::HandedOver, ServerPhase::Running] {
            slots.set_phase(phase);
            assert_eq!(slots.phase(), phase);
        }
    }
}
