//! The scoreboard: the state that the service worker shows, in memory that all processes of the server share.
//!
//! It has three parts, each with one kind of writer:
//!
//! | part | written by |
//! |---|---|
//! | the state of the server, the last restarts, the totals of workers that have ended | the supervisor |
//! | a latency histogram per slot | the worker of that slot |
//! | the memory of each worker | the supervisor, when the service worker asks for it |
//!
//! The states, heartbeats and request counts of workers are in [`Slots`].
//!
//! Every field is one atomic word, and no process waits for another. If a worker is killed in the middle of a request,
//! some counts lack that request. When a worker ends, the supervisor moves its counts to the totals. Readers notice the
//! move by a sequence number, and read again, so that no count is missing or counted twice.

use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::histogram::{BUCKETS, Histogram, bucket_of};
use super::restart::{RESTARTS, Restart, age, unix_time};
use crate::prefork::reason::Reason;
use crate::prefork::slots::Slots;
use crate::sys;

/// One of 2^`TIMED` requests is timed: reading a clock twice costs more than all the counts.
const TIMED: u32 = 4;

const SEQUENCE: usize = 0;
const STARTED: usize = 1;
const WANTED: usize = 2;
const GENERATION: usize = 3;
const NEXT_GENERATION: usize = 4;
const IS_UP: usize = 5;
const SERVICE_STARTS: usize = 6;
const START_UNIX_TIME: usize = 7;
const HEADER: usize = 8;

/// Words of a worker index: requests of workers that have ended, and how many ended for each reason.
const PLACE: usize = 16;
const ENDED_REQUESTS: usize = 0;
const REASONS: usize = 1;
const _: () = assert!(REASONS + Reason::ALL.len() <= PLACE);

/// Words of a histogram: the sum of all durations in nanoseconds, then the buckets.
const HISTOGRAM: usize = 1 + BUCKETS;

/// Words of a slot: its memory, then the histogram on other cache lines.
const SLOT: usize = (8 + HISTOGRAM).next_multiple_of(8);
const RSS: usize = 0;
const PSS: usize = 1;
const SHARED: usize = 2;
const SLOT_HISTOGRAM: usize = 8;

/// The largest count that is shown, so that the sum of a million counts does not overflow.
const LARGEST: u64 = u64::MAX >> 20;

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// Resident pages, shared ones included.
    pub(super) rss: u64,
    /// Resident pages, each divided by the number of processes that share it.
    pub(super) pss: u64,
    /// The resident pages that another process has too.
    pub(super) shared: u64,
}

/// The state of the server as a whole, as the supervisor writes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// How many workers there should be.
    pub(super) wanted: usize,
    pub(super) generation: u64,
    /// The generation that a reload starts.
    pub(super) next_generation: Option<u64>,
    /// Whether all workers have been ready at the same time.
    pub(super) is_up: bool,
    pub(super) service_starts: u64,
    /// The Unix time at which the server started. A time computed from the uptime would change with the clock.
    pub(super) start_unix_time: u64,
}

/// The counts of all workers, including those that have ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Requests by worker index.
    pub(super) requests: Vec<u64>,
    pub(super) latency: Histogram,
    /// The latency of the worker in each slot.
    pub(super) slots: Vec<Histogram>,
    /// How many workers ended, by worker index, in the order of [`Reason::ALL`].
    pub(super) restarts: Vec<[u64; Reason::ALL.len()]>,
}

/// The start of a request, if it is timed.
pub(in crate::prefork) type RequestStart = Option<Instant>;

#[derive(Debug)]
pub(in crate::prefork) struct Scoreboard {
    words: sys::SharedWords,
    capacity: usize,
    /// Whether there is a service worker that shows the figures. Otherwise no request is timed.
    is_shown: bool,
}

impl Scoreboard {
    pub(in crate::prefork) fn new(capacity: usize, is_shown: bool) -> io::Result<Scoreboard> {
        let size = HEADER + RESTARTS + HISTOGRAM + capacity * (PLACE + SLOT) + 8;
        // The kernel adds the pages of these words when they are first used.
        let words = sys::SharedWords::new(size)?;
        words[STARTED].store(sys::monotonic_nanoseconds(), Ordering::Relaxed);
        words[START_UNIX_TIME].store(unix_time(Duration::ZERO), Ordering::Relaxed);
        Ok(Scoreboard { words, capacity, is_shown })
    }

    /// Begins a request of this worker. `number` requests have begun before it.
    pub(in crate::prefork) fn begin(&self, number: u64) -> RequestStart {
        // A multiplicative hash chooses the requests, because they may come in a pattern. It chooses the first one, then
        // about one of sixteen.
        let is_timed = self.is_shown && number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - TIMED) == 0;
        is_timed.then(Instant::now)
    }

    /// Ends a request of the worker in `slot`. Adds its duration to the histogram if it was timed.
    pub(in crate::prefork) fn end(&self, slot: usize, started: RequestStart) {
        if let Some(started) = started {
            let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let histogram = self.slot(slot, SLOT_HISTOGRAM);
            // The worker is the only writer, but it may have several threads.
            histogram[0].fetch_add(nanoseconds, Ordering::Relaxed);
            histogram[1 + bucket_of(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stores the state of the server. Only the supervisor calls it.
    pub(in crate::prefork) fn set_server(&self, wanted: usize, generations: (u64, Option<u64>), is_up: bool) {
        let state = [
            (WANTED, wanted as u64),
            (GENERATION, generations.0),
            (NEXT_GENERATION, generations.1.unwrap_or(0)),
            (IS_UP, is_up.into()),
        ];
        for (field, value) in state {
            self.words[field].store(value, Ordering::Relaxed);
        }
    }

    /// Moves the counts of a worker that has ended to the totals, and clears its slot. Only the supervisor calls it.
    pub(in crate::prefork) fn clear(&self, slots: &Slots, slot: usize) {
        self.change(|| {
            if let Some(index) = slots.index(slot).filter(|index| *index < self.capacity) {
                self.place(index)[ENDED_REQUESTS].fetch_add(slots.requests(slot), Ordering::Relaxed);
            }
            for (ended, own) in self.ended().iter().zip(self.slot(slot, SLOT_HISTOGRAM)) {
                ended.fetch_add(own.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            }
            self.set_memory(slot, Memory::default());
            slots.clear(slot);
        });
    }

    /// Records why a worker has ended. Only the supervisor calls it.
    pub(in crate::prefork) fn record(
        &self,
        (index, pid, generation): (usize, u32, u64),
        reason: Reason,
        status: ExitStatus,
        uptime: Duration,
    ) {
        self.change(|| {
            let age = Duration::ZERO;
            Restart { age, index: index as u64, pid: pid.into(), generation, reason, status, uptime }
                .record(self.restart_words());
            if index < self.capacity {
                self.place(index)[REASONS + reason as usize].fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Counts a start of the service worker. Only the supervisor calls it.
    pub(super) fn service_starts(&self) {
        self.words[SERVICE_STARTS].fetch_add(1, Ordering::Relaxed);
    }

    /// Stores the memory of the worker in `slot`. Only the supervisor calls it.
    pub(super) fn set_memory(&self, slot: usize, memory: Memory) {
        let fields = self.slot(slot, 0);
        for (field, value) in [(RSS, memory.rss), (PSS, memory.pss), (SHARED, memory.shared)] {
            fields[field].store(value, Ordering::Relaxed);
        }
    }

    /// Returns the memory of the worker in `slot`, or `None` if it is not known.
    pub(super) fn memory(&self, slot: usize) -> Option<Memory> {
        let fields = self.slot(slot, 0);
        let load = |field: usize| fields[field].load(Ordering::Relaxed);
        Some(Memory { rss: load(RSS), pss: load(PSS), shared: load(SHARED) }).filter(|memory| memory.rss > 0)
    }

    pub(super) fn server(&self) -> Server {
        let load = |field: usize| self.words[field].load(Ordering::Relaxed);
        Server {
            wanted: load(WANTED) as usize,
            generation: load(GENERATION),
            next_generation: Some(load(NEXT_GENERATION)).filter(|generation| *generation > 0),
            is_up: load(IS_UP) > 0,
            service_starts: load(SERVICE_STARTS),
            start_unix_time: load(START_UNIX_TIME),
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        age(self.words[STARTED].load(Ordering::Relaxed))
    }

    /// Returns the counts of all workers. Call it in [`read_at_once`](Scoreboard::read_at_once).
    pub(super) fn totals(&self, slots: &Slots) -> Totals {
        let mut totals = Totals::default();
        for place in (0..self.capacity).map(|index| self.place(index)) {
            totals.requests.push(count(&place[ENDED_REQUESTS]));
            totals.restarts.push(std::array::from_fn(|reason| count(&place[REASONS + reason])));
        }
        totals.latency = histogram(self.ended());
        for slot in 0..slots.used() {
            if let Some(requests) = slots.index(slot).and_then(|index| totals.requests.get_mut(index)) {
                *requests += slots.requests(slot).min(LARGEST);
            }
            let own = histogram(self.slot(slot, SLOT_HISTOGRAM));
            totals.latency.add(&own);
            totals.slots.push(own);
        }
        totals
    }

    /// Returns the last restarts, the newest first. Call it in [`read_at_once`](Scoreboard::read_at_once).
    pub(super) fn restarts(&self) -> Vec<Restart> {
        Restart::last(self.restart_words())
    }

    fn restart_words(&self) -> &[AtomicU64] {
        &self.words[HEADER..][..RESTARTS]
    }

    /// Returns the histogram of workers that have ended.
    fn ended(&self) -> &[AtomicU64] {
        &self.words[HEADER + RESTARTS..][..HISTOGRAM]
    }

    fn place(&self, index: usize) -> &[AtomicU64] {
        &self.words[HEADER + RESTARTS + HISTOGRAM + index * PLACE..][..PLACE]
    }

    /// Returns the histogram of a slot, or its other words if `field` is 0.
    fn slot(&self, slot: usize, field: usize) -> &[AtomicU64] {
        // Each slot begins on a new cache line.
        let first = (HEADER + RESTARTS + HISTOGRAM + self.capacity * PLACE).next_multiple_of(8);
        let length = if field == SLOT_HISTOGRAM { HISTOGRAM } else { SLOT_HISTOGRAM };
        &self.words[first + slot * SLOT + field..][..length]
    }

    /// Changes several words. Only the supervisor calls it. Readers see all of the changes or none.
    fn change(&self, change: impl FnOnce()) {
        let sequence = &self.words[SEQUENCE];
        sequence.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        sequence.fetch_add(1, Ordering::Release);
    }

    /// Calls `read` until no change happens during the call, so that its result shows the state of one moment. If the
    /// supervisor was killed in the middle of a change, or makes changes all the time, the result of the last attempt may be
    /// inconsistent.
    pub(super) fn read_at_once<T>(&self, read: impl Fn() -> T) -> T {
        const ATTEMPTS: usize = 100;
        for _ in 0..ATTEMPTS {
            let before = self.words[SEQUENCE].load(Ordering::Acquire);
            let result = read();
            fence(Ordering::Acquire);
            if before & 1 == 0 && before == self.words[SEQUENCE].load(Ordering::Relaxed) {
                return result;
            }
            std::thread::yield_now();
        }
        read()
    }
}

/// Reads a count. Each worker can write this memory, and must not make a sum overflow in the service worker.
fn count(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed).min(LARGEST)
}

fn histogram(words: &[AtomicU64]) -> Histogram {
    let mut histogram = Histogram::default();
    histogram.add_to_sum(words[0].load(Ordering::Relaxed));
    for (bucket, word) in words[1..].iter().enumerate() {
        histogram.add_to_bucket(bucket, count(word));
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_ended_leaves_its_counts_only() {
        let (scoreboard, slots) = (Scoreboard::new(1, true).unwrap(), Slots::new(1).unwrap());
        for ended in 1..=3 {
            let slot = slots.assign(0, 1).unwrap();
            assert_eq!(scoreboard.memory(slot), None, "the slot does not have the memory of the worker before");
            scoreboard.set_memory(slot, Memory { rss: 1, pss: 1, shared: 1 });
            slots.begin_request(slot);
            scoreboard.end(slot, Some(Instant::now()));
            let running = scoreboard.totals(&slots);
            assert_eq!((running.requests[0], running.latency.count()), (ended, ended));
            assert_eq!(running.slots[slot].count(), 1);
            scoreboard.clear(&slots, slot);
            let totals = scoreboard.totals(&slots);
            assert_eq!((totals.requests[0], totals.latency.count()), (ended, ended));
        }
    }

    #[test]
    fn sums_of_overwritten_counts_do_not_overflow() {
        let (scoreboard, slots) = (Scoreboard::new(2, true).unwrap(), Slots::new(2).unwrap());
        for index in 0..2 {
            slots.assign(index, 1).unwrap();
        }
        for word in &scoreboard.words[HEADER..] {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        let totals = scoreboard.totals(&slots);
        assert_eq!(totals.requests.iter().sum::<u64>(), 2 * LARGEST);
        let buckets = totals.latency.octaves();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 3 * BUCKETS as u64 * LARGEST);
        assert!(totals.latency.quantile(0.5).is_some());
    }

    #[test]
    fn restarts_are_counted() {
        let scoreboard = Scoreboard::new(1, true).unwrap();
        for _ in 0..100 {
            scoreboard.record((0, 1, 1), Reason::Died, ExitStatus::default(), Duration::ZERO);
        }
        assert_eq!(scoreboard.totals(&Slots::new(1).unwrap()).restarts[0][Reason::Died as usize], 100);
    }
}
