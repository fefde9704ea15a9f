//! The balanced distribution: how many connections each worker has open, and whether it accepts.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// One word per slot in memory that the supervisor and its workers share.
///
/// The words are close together rather than a cache line apart: a worker that accepts reads all of them and changes only
/// its own.
#[derive(Debug)]
pub(super) struct Balance {
    /// How many connections have been accepted (0 if no listener is balanced), how many slots have been used, then a word per
    /// slot.
    words: sys::SharedWords,
}

const ACCEPTED: usize = 0;
const USED: usize = 1;
const FIRST: usize = 2;

/// Whether a worker accepts from balanced listeners. The worker itself writes its state, except as noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The worker takes no part. It has not accepted yet, has stopped, has ended (written by the supervisor), or has
    /// left a connection waiting for too long (written by another worker).
    Absent = 0,
    /// The worker accepts.
    Accepting = 1,
    /// The worker has its share of connections, and waits for room.
    Waiting = 2,
    /// The worker has waited, and has room again (written in [`Balance::call`], by any worker or the supervisor).
    Called = 3,
}

/// A slot's word: the open connections in the lower half, the state in the upper one.
const STATE: u32 = 32;
const OPEN: u64 = (1 << STATE) - 1;

#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    fn state(self) -> State {
        match self.0 >> STATE {
            1 => State::Accepting,
            2 => State::Waiting,
            3 => State::Called,
            _ => State::Absent,
        }
    }

    fn open(self) -> u64 {
        self.0 & OPEN
    }

    fn with_state(self, state: State) -> Word {
        Word(self.open() | (state as u64) << STATE)
    }

    /// Whether the worker may accept. A worker that has stopped accepting begins again when it has fewer connections than its
    /// fair share. One that accepts stops only at `share.most`, so that it does not stop and begin all the time.
    fn may_accept(self, share: Share) -> bool {
        let limit = if self.state() == State::Accepting { share.most } else { share.fair };
        self.open() < limit
    }
}

/// How many connections a worker may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// The mean, rounded up: the smallest limit that is enough for all connections.
    fair: u64,
    /// A quarter more than the mean, and at least `fair`.
    most: u64,
}

impl Share {
    /// Computes the share of each worker, of `total` connections among `workers`.
    ///
    /// `total` includes the connection to accept. The worker with the fewest connections therefore has fewer than `fair`, and
    /// may accept.
    fn of(total: u64, workers: u64) -> Share {
        let fair = total.div_ceil(workers);
        Share { fair, most: fair.max(total * 5 / (workers * 4)) }
    }
}

// All operations are sequentially consistent. Otherwise a worker could write that it waits and miss that there is room, while
// another one makes room and misses that the first one waits.
impl Balance {
    /// Makes a table in which all slots are absent.
    pub(super) fn new(capacity: usize) -> io::Result<Balance> {
        Ok(Balance { words: sys::SharedWords::new(FIRST + capacity)? })
    }

    /// Raises the number of slots that have been used.
    pub(super) fn set_used(&self, slots: usize) {
        self.words[USED].fetch_max(slots as u64, Ordering::SeqCst);
    }

    fn accepted_word(&self) -> &AtomicU64 {
        &self.words[ACCEPTED]
    }

    fn words(&self) -> &[AtomicU64] {
        let (used, words) = (self.words[USED].load(Ordering::SeqCst) as usize, &self.words[FIRST..]);
        // Each worker can write this memory, and must not make the other processes panic.
        &words[..used.min(words.len())]
    }

    fn all(&self) -> impl Iterator<Item = Word> {
        self.words().iter().map(|word| Word(word.load(Ordering::SeqCst)))
    }

    fn word(&self, index: usize) -> Word {
        Word(self.words[FIRST + index].load(Ordering::SeqCst))
    }

    /// Returns how many connections all workers have accepted, or 0 if no listener is balanced.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted_word().load(Ordering::SeqCst)
    }

    pub(super) fn open(&self, index: usize) -> usize {
        self.word(index).open() as usize
    }

    /// Returns the open connections of each slot that has been used.
    pub(super) fn open_each(&self) -> Vec<usize> {
        self.all().map(|word| word.open() as usize).collect()
    }

    pub(super) fn state(&self, index: usize) -> State {
        self.word(index).state()
    }

    pub(super) fn set_state(&self, index: usize, state: State) {
        let set = |word| Some(Word(word).with_state(state).0);
        // This cannot fail, because `set` always returns a value.
        let _ = self.words[FIRST + index].fetch_update(Ordering::SeqCst, Ordering::SeqCst, set);
    }

    /// Counts a connection that the worker in slot `index` has opened. If `is_balanced`, also adds it to the
    /// count of all workers, which costs time because all of them write it.
    pub(super) fn opened(&self, index: usize, is_balanced: bool) {
        self.words[FIRST + index].fetch_add(1, Ordering::SeqCst);
        if is_balanced {
            self.accepted_word().fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Counts a connection that the worker in slot `index` has closed.
    pub(super) fn closed(&self, index: usize) {
        self.words[FIRST + index].fetch_sub(1, Ordering::SeqCst);
    }

    /// Clears slot `index`: its worker has ended, and its connections with it.
    pub(super) fn vacate(&self, index: usize) {
        self.words[FIRST + index].store(0, Ordering::SeqCst);
    }

    /// Computes the share of each worker if there is one more connection. The worker in slot `extra` counts even if absent.
    fn share_of_one_more(&self, extra: Option<usize>) -> Share {
        let (mut total, mut workers) = (1, 0);
        for (index, word) in self.all().enumerate() {
            if word.state() != State::Absent || extra == Some(index) {
                total += word.open();
                workers += 1;
            }
        }
        Share::of(total, workers.max(1))
    }

    /// Whether the worker in slot `index` may accept one more connection.
    pub(super) fn has_room(&self, index: usize) -> bool {
        let share = self.share_of_one_more(Some(index));
        self.word(index).may_accept(share)
    }

    /// Marks the workers that wait and have room again as [`Called`](State::Called). Returns whether the caller must
    /// wake them.
    pub(super) fn call(&self) -> bool {
        if self.all().all(|word| word.state() != State::Waiting) {
            return false;
        }
        let share = self.share_of_one_more(None);
        let call = |word| {
            let word = Word(word);
            (word.state() == State::Waiting && word.may_accept(share)).then(|| word.with_state(State::Called).0)
        };
        let mut called = false;
        for word in self.words() {
            called |= word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, call).is_ok();
        }
        called
    }

    /// Excludes the workers that may accept but do not, so that the others do not wait for them. They take part again when
    /// they next accept. `index` is the slot of the calling worker, which is never excluded.
    pub(super) fn exclude_unresponsive(&self, index: usize) {
        let share = self.share_of_one_more(None);
        let exclude = |word| {
            let word = Word(word);
            (word.state() != State::Absent && word.may_accept(share)).then(|| word.with_state(State::Absent).0)
        };
        for (other, word) in self.words().iter().enumerate() {
            if other != index {
                // This fails for workers that need not be excluded.
                let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, exclude);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worker with the fewest connections may accept in any state. No worker gets more than a quarter above the mean, or
    /// the mean rounded up if that is more.
    #[test]
    fn a_share_leaves_room_for_one_worker() {
        for workers in 1..=40 {
            for total in 1..=2000 {
                let share = Share::of(total, workers);
                let fewest = (total - 1) / workers;
                assert!(fewest < share.fair && share.fair <= share.most, "{total} among {workers}: {share:?}");
                assert!(share.most == share.fair || share.most * workers * 4 <= total * 5, "{total} among {workers}");
                if total >= 4 * workers {
                    assert!(share.most * workers * 4 <= total * 5, "{total} among {workers}: {share:?}");
                }
            }
        }
    }

    #[test]
    fn a_wrong_count_of_used_slots_is_bounded() {
        let balance = Balance::new(2).unwrap();
        balance.words[USED].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(balance.open_each(), [0, 0]);
        assert!(!balance.call());
    }

    #[test]
    fn count_and_state_do_not_affect_each_other() {
        let balance = Balance::new(3).unwrap();
        balance.set_used(3);
        for state in [State::Accepting, State::Waiting, State::Called, State::Absent] {
            balance.set_state(1, state);
            balance.opened(1, true);
            balance.opened(1, true);
            balance.closed(1);
            assert_eq!(balance.state(1), state);
        }
        assert_eq!((balance.open_each(), balance.open(1), balance.accepted()), (vec![0, 4, 0], 4, 8));
        balance.set_state(1, State::Waiting);
        balance.vacate(1);
        assert_eq!((balance.open(1), balance.state(1)), (0, State::Absent));
    }

    /// Acts like a worker: see `Connections::admits`.
    fn admits(balance: &Balance, index: usize) -> bool {
        let has_room = balance.has_room(index);
        balance.set_state(index, if has_room { State::Accepting } else { State::Waiting });
        has_room || {
            let has_room = balance.has_room(index);
            if has_room {
                balance.set_state(index, State::Accepting);
            }
            has_room
        }
    }

    /// Connections come and go at random. As long as one waits, some worker takes it, and workers that have room are called.
    #[test]
    fn some_worker_always_accepts() {
        let mut seed = 1_u64;
        let mut random = move |below: usize| {
            // Multiplier and increment are Knuth's.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for workers in [1, 2, 3, 5, 8, 32] {
            let balance = Balance::new(workers).unwrap();
            balance.set_used(workers);
            for index in 0..workers {
                assert!(admits(&balance, index), "worker {index} does not accept a first connection");
            }
            for _ in 0..5_000 {
                if random(3) > 0 {
                    // Each worker that does not wait tries to accept, in some order.
                    let first = random(workers);
                    let mut order = (0..workers).map(|offset| (first + offset) % workers);
                    let is_looking = |index: &usize| balance.state(*index) != State::Waiting;
                    let index = order.find(|index| is_looking(index) && admits(&balance, *index));
                    let index = index.unwrap_or_else(|| panic!("no worker accepts: {balance:?}"));
                    balance.opened(index, true);
                    let total: usize = balance.open_each().iter().sum();
                    let limit = (total * 5 / (workers * 4)).max(total.div_ceil(workers));
                    assert!(balance.open(index) <= limit, "worker {index} has too many: {balance:?}");
                    balance.call();
                } else {
                    let index = random(workers);
                    if balance.open(index) > 0 {
                        balance.closed(index);
                        // See `Connections::closed`.
                        if balance.state(index) == State::Waiting && balance.has_room(index) {
                            admits(&balance, index);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn unresponsive_workers_are_excluded_until_they_accept() {
        let balance = Balance::new(2).unwrap();
        balance.set_used(2);
        assert!(admits(&balance, 0) && admits(&balance, 1));
        balance.opened(0, true);
        assert!(!admits(&balance, 0), "worker 0 accepts, although worker 1 has no connection");
        balance.exclude_unresponsive(0);
        assert_eq!((balance.state(0), balance.state(1)), (State::Waiting, State::Absent));
        assert!(balance.call() && !balance.call(), "worker 0 is not called exactly once");
        assert!(admits(&balance, 0));
        balance.opened(0, true);
        assert!(admits(&balance, 0));
        // The excluded worker takes part again.
        assert!(admits(&balance, 1));
        assert!(!admits(&balance, 0));
    }
}
