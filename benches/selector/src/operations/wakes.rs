//! Wakes of selectors that are awake, busy or blocked.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::repeat;
use crate::library::Library;
use crate::team::{LIMIT, Team};
use crate::{Batch, clock};

/// How many wakes a storm has.
pub(super) const STORM: usize = 1_000;

/// How many threads wake a selector at the same time.
const THREADS: usize = 4;

/// How many selectors [`awake`] wakes between two looks at the clock, so that the clock's own time does not matter.
const SELECTORS: usize = 128;

/// Wakes many selectors in turn, once each, and polls them all.
pub(super) fn awake<L: Library>() -> io::Result<Batch> {
    let mut polls = Vec::with_capacity(SELECTORS);
    let mut wakers = Vec::with_capacity(SELECTORS);
    for _ in 0..SELECTORS {
        let poll = L::new_poll()?;
        wakers.push(L::waker(L::registry(&poll))?);
        polls.push(poll);
    }
    let mut events = L::events();
    Ok(Box::new(move |times| {
        let (mut left, mut spent) = (times as usize, Duration::ZERO);
        while left != 0 {
            let turn = left.min(SELECTORS);
            spent += clock::thread_time(|| wakers[..turn].iter().try_for_each(L::wake))?;
            for poll in &mut polls[..turn] {
                L::poll(poll, &mut events, Some(Duration::ZERO))?;
            }
            left -= turn;
        }
        Ok(spent)
    }))
}

pub(super) fn then_poll<L: Library>(wakes: usize) -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let waker = L::waker(L::registry(&poll))?;
    repeat(move || {
        (0..wakes).try_for_each(|_| L::wake(&waker))?;
        L::poll(&mut poll, &mut events, None)
    })
}

pub(super) fn storm_of_threads<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let waker = Arc::new(L::waker(L::registry(&poll))?);
    let team = waking_team::<L>(&waker)?;
    repeat(move || {
        team.turn(STORM as u64)?;
        L::poll(&mut poll, &mut events, None)
    })
}

pub(super) fn busy<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let waker = Arc::new(L::waker(L::registry(&poll))?);
    let team = waking_team::<L>(&waker)?;
    Ok(Box::new(move |times| team.turn_beside(times, || L::poll(&mut poll, &mut events, Some(Duration::ZERO)))))
}

fn waking_team<L: Library>(waker: &Arc<L::Waker>) -> io::Result<Team> {
    Team::start(THREADS, |_| {
        let waker = Arc::clone(waker);
        Ok(move |times| (0..times).try_for_each(|_| L::wake(&waker)))
    })
}

pub(super) fn blocked<L: Library>() -> io::Result<Batch> {
    let mut poll = L::new_poll()?;
    let mut events = L::events();
    let waker = Arc::new(L::waker(L::registry(&poll))?);
    let calls: [Arc<Call>; THREADS] = std::array::from_fn(|_| Arc::default());
    let team = Team::start(THREADS, |index| {
        let (waker, call) = (Arc::clone(&waker), Arc::clone(&calls[index]));
        Ok(move |times| {
            (0..times).try_for_each(|_| {
                call.ask();
                L::wake(&waker)?;
                call.wait()
            })
        })
    })?;
    Ok(Box::new(move |times| {
        let spent = clock::process_time(|| {
            let mut unanswered = times * THREADS as u64;
            team.turn_beside(times, || {
                // Without an unanswered wake, no event would come, and a poll would never return.
                if unanswered != 0 {
                    L::poll(&mut poll, &mut events, None)?;
                    unanswered -= calls.iter().filter(|call| call.answer()).count() as u64;
                }
                Ok(())
            })?;
            Ok(())
        })?;
        Ok(spent / THREADS as u32)
    }))
}

/// Lets a thread wait until the thread that polls has woken up for it.
#[derive(Default)]
struct Call {
    is_asked: AtomicBool,
    is_answered: AtomicBool,
    caller: OnceLock<Thread>,
}

impl Call {
    fn ask(&self) {
        self.caller.get_or_init(thread::current);
        self.is_asked.store(true, Ordering::Release);
    }

    fn wait(&self) -> io::Result<()> {
        let start = Instant::now();
        while !self.is_answered.swap(false, Ordering::Acquire) {
            thread::park_timeout(LIMIT);
            if start.elapsed() > LIMIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Answers the thread if it waits. Returns whether it did.
    fn answer(&self) -> bool {
        let is_asked = self.is_asked.swap(false, Ordering::Acquire);
        if is_asked && let Some(caller) = self.caller.get() {
            self.is_answered.store(true, Ordering::Release);
            caller.unpark();
        }
        is_asked
    }
}
