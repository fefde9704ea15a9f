//! Model checks: the modules under test are compiled here with loom's types in place of the standard library's.

// The models use a part of what the modules offer.
#![allow(dead_code)]

use std::sync::Arc;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    pub(crate) fn is_single_threaded() -> bool {
        false
    }

    /// Gives way; loom explores who goes on.
    pub(crate) fn pause(_round: u32) {
        loom::thread::yield_now();
    }
}

#[path = "../src/fork/gate.rs"]
mod gate;
#[path = "../src/wake_flag.rs"]
mod wake_flag;

use gate::Gate;
use sync::Ordering;
use wake_flag::WakeFlag;

/// A waker's kernel object: counts what was written, and the poller compares.
struct Model {
    flag: WakeFlag,
    eventfd: AtomicUsize,
    /// What wakers tell the poller, without an ordering of its own.
    work: AtomicUsize,
}

impl Model {
    fn new() -> Arc<Model> {
        Arc::new(Model { flag: WakeFlag::new(), eventfd: AtomicUsize::new(0), work: AtomicUsize::new(0) })
    }

    fn wake(&self) {
        self.work.fetch_add(1, Ordering::Relaxed);
        if self.flag.raise() {
            // A system call: ordered like a lock by the kernel.
            self.eventfd.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Polls without waiting, as `Selector::select` does: the work seen, if there was an event.
    fn poll(&self, seen: &mut usize) -> Option<usize> {
        let written = self.eventfd.load(Ordering::Acquire);
        if written == *seen {
            return None;
        }
        *seen = written;
        if self.flag.is_raised() {
            self.flag.lower();
        }
        Some(self.work.load(Ordering::Relaxed))
    }
}

/// Whatever the interleaving: once all wakes have been made, the poller has seen all work after its last event, and
/// the flag is such that the next wake writes.
#[test]
fn no_wake_is_lost() {
    loom::model(|| {
        let model = Model::new();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.wake())
            })
            .collect();
        let mut seen = 0;
        let mut work = 0;
        // Polls that may come anywhere between.
        for _ in 0..2 {
            work = model.poll(&mut seen).unwrap_or(work);
        }
        for waker in wakers {
            waker.join().unwrap();
        }
        // A poller that waits: it returns as long as there are events.
        while let Some(more) = model.poll(&mut seen) {
            work = more;
        }
        assert_eq!(work, 2, "a wake was lost");
        // The same must hold for a wake from now on.
        model.wake();
        assert_eq!(model.poll(&mut seen), Some(3), "the next wake was lost");
    });
}

/// One thread wakes twice while the poller polls: the second one may be coalesced with the first only if the poller has
/// yet to see that.
#[test]
fn a_wake_after_the_event_is_an_event() {
    loom::model(|| {
        let model = Model::new();
        let waker = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.wake();
                model.wake();
            })
        };
        let mut seen = 0;
        let mut work = model.poll(&mut seen).unwrap_or(0);
        waker.join().unwrap();
        while let Some(more) = model.poll(&mut seen) {
            work = more;
        }
        assert_eq!(work, 2, "a wake was lost");
        assert!(!model.flag.is_raised(), "the next wake would be lost");
    });
}

/// A fork that has shut the gate sees each registration whole or not at all.
#[test]
fn a_fork_sees_no_registration_half_done() {
    loom::model(|| {
        let gate = Arc::new(Gate::new());
        let kernel = Arc::new(AtomicUsize::new(0));
        let table = Arc::new(AtomicUsize::new(0));
        let registering = {
            let (gate, kernel, table) = (Arc::clone(&gate), Arc::clone(&kernel), Arc::clone(&table));
            thread::spawn(move || {
                // Once: one that comes in later is one that finds the gate open.
                if let Some(_inside) = gate.try_enter() {
                    kernel.store(1, Ordering::Relaxed);
                    table.store(1, Ordering::Relaxed);
                }
            })
        };
        gate.shut();
        let half_done = kernel.load(Ordering::Relaxed) != table.load(Ordering::Relaxed);
        // Still so at the fork, a little later.
        let later = kernel.load(Ordering::Relaxed) != table.load(Ordering::Relaxed);
        gate.open();
        registering.join().unwrap();
        assert!(!half_done && !later, "half a registration");
        // Open for everybody after it.
        assert!(gate.try_enter().is_some());
    });
}
