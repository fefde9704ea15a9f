//! Model checks: this program compiles the modules under test with loom's types in place of the standard library's.

// The models use only a part of the modules, some of whose items are public in the crate.
#![allow(dead_code, unreachable_pub)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::thread;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

    /// Makes a fence, because loom treats sequentially consistent operations as acquire and release.
    pub(crate) fn fence_between() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Yields: loom explores which thread continues.
    pub(crate) fn pause(_round: u32) {
        loom::thread::yield_now();
    }
}

/// Replaces the gate with an atomic of loom. The fork and the thread that changes an entry each make a fence.
mod gate {
    use loom::sync::atomic::{AtomicBool, Ordering, fence};

    loom::lazy_static! {
        static ref CLOSED: AtomicBool = AtomicBool::new(false);
    }

    pub(super) fn is_open_after_mark() -> bool {
        fence(Ordering::SeqCst);
        !CLOSED.load(Ordering::Acquire)
    }

    pub(super) fn close() {
        CLOSED.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn open() {
        CLOSED.store(false, Ordering::SeqCst);
    }
}

#[path = "../src/fork/entry.rs"]
mod entry;
#[path = "../src/interest.rs"]
mod interest;
#[path = "../src/fork/policy.rs"]
mod policy;
#[path = "../src/source_kind.rs"]
mod source_kind;
#[path = "../src/token.rs"]
mod token;
#[path = "../src/wake_state.rs"]
mod wake_state;

use entry::{Entry, EntryInfo};
use interest::Interest;
use source_kind::SourceKind;
use sync::Ordering;
use token::Token;
use wake_state::WakeState;

/// A selector with its waker. `signals` stands for the kernel object: a poller that blocks waits until the count rises.
struct Model {
    wake: WakeState,
    signals: AtomicUsize,
    /// Data from wakers to the poller, without an ordering of its own.
    told: AtomicUsize,
}

impl Model {
    fn new() -> Arc<Model> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Model { wake: WakeState::new(), signals: zero(), told: zero() })
    }

    fn tell(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
        if self.wake.notify() {
            self.signals.fetch_add(1, Ordering::Release);
        }
    }

    /// Polls once: blocks until there is a wake or a new signal. `taken` counts the signals that earlier polls have seen.
    fn poll(&self, taken: &mut usize) {
        if !self.wake.is_notified() && self.wake.begin_blocking() {
            while self.signals.load(Ordering::Acquire) == *taken {
                thread::yield_now();
            }
            *taken = self.signals.load(Ordering::Acquire);
            self.wake.end_blocking();
        }
        if self.wake.is_notified() {
            self.wake.take();
        }
    }
}

/// No wake is lost: a poller that polls until it has heard from every waker does not hang.
#[test]
fn no_wake_is_lost() {
    for wakers in 1..=2 {
        let mut explored = loom::model::Builder::new();
        // Exploring more preemptions takes too long.
        explored.preemption_bound = Some(2);
        explored.check(move || {
            let model = Model::new();
            let threads: Vec<_> = (0..wakers)
                .map(|_| {
                    let model = Arc::clone(&model);
                    thread::spawn(move || model.tell())
                })
                .collect();
            let mut taken = 0;
            // A late signal may make a poll return without news from a waker.
            while model.told.load(Ordering::Relaxed) < wakers {
                model.poll(&mut taken);
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

/// The writes of a thread before its wake are visible after the poll that takes the wake.
#[test]
fn a_wake_publishes() {
    loom::model(|| {
        let model = Model::new();
        let waker = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.told.store(7, Ordering::Relaxed);
                if model.wake.notify() {
                    model.signals.fetch_add(1, Ordering::Release);
                }
            })
        };
        if model.wake.is_notified() {
            model.wake.take();
            assert_eq!(model.told.load(Ordering::Relaxed), 7);
        }
        waker.join().unwrap();
    });
}

/// If the program takes the queue's descriptor, a wake signals the kernel object, even a wake that came before.
#[test]
fn an_exposed_queue_has_every_wake() {
    loom::model(|| {
        let model = Model::new();
        let waker = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.tell())
        };
        if model.wake.expose() {
            model.signals.fetch_add(1, Ordering::Release);
        }
        waker.join().unwrap();
        assert!(model.signals.load(Ordering::Acquire) >= 1);
    });
}

/// A fork that has closed the gate sees each change as a whole: entry and kernel agree. While the gate is closed, no other
/// thread overwrites what the fork writes to the entry.
#[test]
fn a_fork_sees_whole_changes() {
    loom::model(|| {
        struct Selector {
            entry: Entry,
            is_in_kernel: AtomicBool,
        }

        let selector = Arc::new(Selector { entry: Entry::default(), is_in_kernel: AtomicBool::new(false) });
        let owner = {
            let selector = Arc::clone(&selector);
            thread::spawn(move || {
                let info = EntryInfo::new(Interest::READABLE, Some(SourceKind::Stream), None);
                if selector.entry.begin().is_none() {
                    return;
                }
                selector.is_in_kernel.store(true, Ordering::Relaxed);
                selector.entry.set_token(Token(7));
                selector.entry.finish(info);
                if selector.entry.begin().is_none() {
                    return;
                }
                selector.is_in_kernel.store(false, Ordering::Relaxed);
                selector.entry.finish(EntryInfo::VACANT);
            })
        };
        gate::close();
        while !selector.entry.settles_within(1) {
            thread::yield_now();
        }
        let seen = selector.entry.get();
        assert_eq!(seen.is_some(), selector.is_in_kernel.load(Ordering::Relaxed));
        assert!(seen.is_none_or(|(token, _)| token == Token(7)));
        let left_out = selector.entry.info().absent_from(Some(1));
        selector.entry.set_info(left_out);
        // The owner gives up if it finds the gate closed.
        owner.join().unwrap();
        assert_eq!(selector.entry.info(), left_out);
        assert!(selector.entry.settles_within(1), "the owner's mark is still set");
        gate::open();
    });
}
