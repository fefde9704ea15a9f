//! What the workers of a server tell each other: how many connections each has, and whether it accepts.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// A seat per worker in memory that parent and workers share.
///
/// Close together rather than a cache line apart: whoever accepts reads all of them, and changes only its own.
#[derive(Debug)]
pub(super) struct Board {
    /// How many connections have been accepted in all, then the seats.
    words: sys::SharedWords,
}

/// What a worker does with the listener, as its seat says. All changes are its own but those that are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It takes no part: it has not accepted yet, has stopped, has ended (written by the parent), or has not answered
    /// (written by another worker).
    Absent = 0,
    /// It accepts.
    Accepting = 1,
    /// It has as many as it should, and waits until it has fewer than the others.
    Waiting = 2,
    /// It has waited, and has been called (written by the caller).
    Called = 3,
}

/// A seat's word: the open connections in the lower half, the state in the upper one.
const STATE: u32 = 32;
const OPEN: u64 = (1 << STATE) - 1;

#[derive(Clone, Copy)]
struct Seat(u64);

impl Seat {
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

    fn with_state(self, state: State) -> Seat {
        Seat(self.open() | (state as u64) << STATE)
    }

    /// One that has stopped accepting begins again when it is at its fair share; one that accepts goes on a little longer,
    /// so that it does not stop and begin all the time.
    fn may_accept(self, share: Share) -> bool {
        let limit = if self.state() == State::Accepting { share.most } else { share.fair };
        self.open() < limit
    }
}

/// How many connections a worker may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// The smallest number that will do if all have as many as they should: the mean, rounded up.
    fair: u64,
    /// A quarter more than the mean, and at least `fair`.
    most: u64,
}

impl Share {
    /// Of `total` connections among `workers`.
    ///
    /// Whoever has fewest has at most the mean of those that are there, so that with one more it has at most `fair` of one
    /// more: there is always somebody who may accept.
    fn of(total: u64, workers: u64) -> Share {
        let fair = total.div_ceil(workers);
        Share { fair, most: fair.max(total * 5 / (workers * 4)) }
    }
}

// Sequentially consistent throughout: a worker that writes that it waits and then sees no room, and one that makes room and
// then sees nobody waiting, cannot both be.
impl Board {
    /// Everybody is absent.
    pub(super) fn new(workers: usize) -> io::Result<Board> {
        Ok(Board { words: sys::SharedWords::new(1 + workers)? })
    }

    fn accepted_word(&self) -> &AtomicU64 {
        &self.words[0]
    }

    fn words(&self) -> &[AtomicU64] {
        &self.words[1..]
    }

    fn seats(&self) -> impl Iterator<Item = Seat> {
        self.words().iter().map(|word| Seat(word.load(Ordering::SeqCst)))
    }

    fn seat(&self, index: usize) -> Seat {
        Seat(self.words()[index].load(Ordering::SeqCst))
    }

    /// Counted on and on, to see whether anybody accepts at all.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted_word().load(Ordering::SeqCst)
    }

    pub(super) fn open(&self, index: usize) -> usize {
        self.seat(index).open() as usize
    }

    pub(super) fn open_each(&self) -> Vec<usize> {
        self.seats().map(|seat| seat.open() as usize).collect()
    }

    pub(super) fn state(&self, index: usize) -> State {
        self.seat(index).state()
    }

    pub(super) fn set_state(&self, index: usize, state: State) {
        let set = |word| Some(Seat(word).with_state(state).0);
        // Never refused: there is always a value.
        let _ = self.words()[index].fetch_update(Ordering::SeqCst, Ordering::SeqCst, set);
    }

    /// Worker `index` has one more.
    pub(super) fn opened(&self, index: usize) {
        self.words()[index].fetch_add(1, Ordering::SeqCst);
        self.accepted_word().fetch_add(1, Ordering::SeqCst);
    }

    /// Worker `index` has one less.
    pub(super) fn closed(&self, index: usize) {
        self.words()[index].fetch_sub(1, Ordering::SeqCst);
    }

    /// Worker `index` has ended, and its connections with it.
    pub(super) fn vacate(&self, index: usize) {
        self.words()[index].store(0, Ordering::SeqCst);
    }

    /// What each may have if there is one more connection, `extra` taking part in any case.
    fn share_of_one_more(&self, extra: Option<usize>) -> Share {
        let (mut total, mut workers) = (1, 0);
        for (index, seat) in self.seats().enumerate() {
            if seat.state() != State::Absent || extra == Some(index) {
                total += seat.open();
                workers += 1;
            }
        }
        Share::of(total, workers.max(1))
    }

    /// Whether worker `index` may accept one more.
    pub(super) fn has_room(&self, index: usize) -> bool {
        let share = self.share_of_one_more(Some(index));
        self.seat(index).may_accept(share)
    }

    /// Calls those who wait and need not any longer. Whether there is anybody.
    pub(super) fn call(&self) -> bool {
        if self.seats().all(|seat| seat.state() != State::Waiting) {
            return false;
        }
        let share = self.share_of_one_more(None);
        let call = |word| {
            let seat = Seat(word);
            (seat.state() == State::Waiting && seat.may_accept(share)).then(|| seat.with_state(State::Called).0)
        };
        let mut called = false;
        for word in self.words() {
            called |= word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, call).is_ok();
        }
        called
    }

    /// Goes on without those who may accept and do not: the others do not wait for them. They are back when they next
    /// accept. `index` is the one who asks.
    pub(super) fn excuse_silent(&self, index: usize) {
        let share = self.share_of_one_more(None);
        let excuse = |word| {
            let seat = Seat(word);
            (seat.state() != State::Absent && seat.may_accept(share)).then(|| seat.with_state(State::Absent).0)
        };
        for (other, word) in self.words().iter().enumerate() {
            if other != index {
                // Refused where it is not so.
                let _ = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, excuse);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever has fewest may always have one more, whatever its state, and nobody gets beyond a quarter more than the
    /// mean, or the mean rounded up.
    #[test]
    fn a_share_leaves_room_for_somebody() {
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
    fn seats_keep_count_and_state_apart() {
        let board = Board::new(3).unwrap();
        for state in [State::Accepting, State::Waiting, State::Called, State::Absent] {
            board.set_state(1, state);
            board.opened(1);
            board.opened(1);
            board.closed(1);
            assert_eq!(board.state(1), state);
        }
        assert_eq!((board.open_each(), board.open(1), board.accepted()), (vec![0, 4, 0], 4, 8));
        board.set_state(1, State::Waiting);
        board.vacate(1);
        assert_eq!((board.open(1), board.state(1)), (0, State::Absent));
    }

    /// A worker as it goes about it: see `Connections::admits`.
    fn admits(board: &Board, index: usize) -> bool {
        let has_room = board.has_room(index);
        board.set_state(index, if has_room { State::Accepting } else { State::Waiting });
        has_room || {
            let has_room = board.has_room(index);
            if has_room {
                board.set_state(index, State::Accepting);
            }
            has_room
        }
    }

    /// Connections that come and go at random: as long as one waits, some worker takes it, and those that are in the way of
    /// nobody are called.
    #[test]
    fn there_is_always_somebody_who_accepts() {
        let mut seed = 1_u64;
        let mut random = move |below: usize| {
            // Knuth's multiplier.
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        for workers in [1, 2, 3, 5, 8, 32] {
            let board = Board::new(workers).unwrap();
            for index in 0..workers {
                assert!(admits(&board, index), "nobody has any yet");
            }
            for _ in 0..5_000 {
                if random(3) > 0 {
                    // Each worker that is not waiting looks, in some order.
                    let first = random(workers);
                    let mut order = (0..workers).map(|offset| (first + offset) % workers);
                    let is_looking = |index: &usize| board.state(*index) != State::Waiting;
                    let index = order.find(|index| is_looking(index) && admits(&board, *index));
                    let index = index.unwrap_or_else(|| panic!("nobody accepts: {board:?}"));
                    board.opened(index);
                    let total: usize = board.open_each().iter().sum();
                    let limit = (total * 5 / (workers * 4)).max(total.div_ceil(workers));
                    assert!(board.open(index) <= limit, "worker {index} has too many: {board:?}");
                    board.call();
                } else {
                    let index = random(workers);
                    if board.open(index) > 0 {
                        board.closed(index);
                        // See `Connections::closed`.
                        if board.state(index) == State::Waiting && board.has_room(index) {
                            admits(&board, index);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn those_who_do_not_answer_are_excused_until_they_do() {
        let board = Board::new(2).unwrap();
        assert!(admits(&board, 0) && admits(&board, 1));
        board.opened(0);
        assert!(!admits(&board, 0), "the other one has none");
        board.excuse_silent(0);
        assert_eq!((board.state(0), board.state(1)), (State::Waiting, State::Absent));
        assert!(board.call() && !board.call(), "called once");
        assert!(admits(&board, 0));
        board.opened(0);
        assert!(admits(&board, 0));
        // It is back.
        assert!(admits(&board, 1));
        assert!(!admits(&board, 0));
    }
}
