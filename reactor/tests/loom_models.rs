//! Model checks: the modules under test are compiled here with loom's types in place of the standard library's.

// The models use a part of what the modules offer, and some of it is public elsewhere.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

    pub(crate) fn is_single_threaded() -> bool {
        false
    }

    /// Gives way; loom explores who goes on.
    pub(crate) fn pause(_round: u32) {
        loom::thread::yield_now();
    }

    /// So that there is little to go through before a table has to grow.
    pub(crate) const FIRST_ENTRIES: usize = 1;

    /// Loom's atomics are more than their value.
    pub(crate) unsafe fn zeroed<T>(length: usize, one_by_one: impl Fn() -> T) -> Box<[T]> {
        (0..length).map(|_| one_by_one()).collect()
    }
}

mod sys {
    pub(crate) mod process {
        /// Never, where there is something to check.
        pub(crate) struct SingleThreaded;

        impl SingleThreaded {
            pub(crate) fn find() -> SingleThreaded {
                SingleThreaded
            }

            pub(crate) fn holds(&self) -> bool {
                false
            }
        }
    }
}

#[path = "../src/fork/gate.rs"]
mod gate;
#[path = "../src/interest.rs"]
mod interest;
#[path = "../src/fork/policy.rs"]
mod policy;
#[path = "../src/source_kind.rs"]
mod source_kind;
#[path = "../src/fork/table.rs"]
mod table;
#[path = "../src/token.rs"]
mod token;
#[path = "../src/wake_flag.rs"]
mod wake_flag;
#[path = "../src/wake_slots.rs"]
mod wake_slots;

use gate::Gate;
use interest::Interest;
use source_kind::{SourceKind, SourceTag};
use sync::Ordering;
use table::{About, PolicyTag, Table};
use token::Token;
use wake_flag::WakeFlag;
use wake_slots::{WakeSlot, WakeSlots};

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

/// What registrations and forks have in common, taken hold of in the order in which the module `fork` does it.
struct Selector {
    /// Guards what was planned ahead of a fork: the registrations that the child is to have.
    world: loom::sync::Mutex<Option<Vec<usize>>>,
    gate: Gate,
    table: Table,
    /// What the kernel has, a bit per number in use.
    kernel: AtomicUsize,
    wakers: WakeSlots,
}

/// The largest number for which a table has room from the beginning, and one for which it has to grow.
const NUMBERS: [i32; 2] = [0, 1];

impl Selector {
    fn new() -> Arc<Selector> {
        Arc::new(Selector {
            world: loom::sync::Mutex::new(None),
            gate: Gate::new(),
            table: Table::new(),
            kernel: AtomicUsize::new(0),
            wakers: WakeSlots::default(),
        })
    }

    fn enter(&self) -> gate::Inside<'_> {
        loop {
            match self.gate.try_enter() {
                Some(inside) => return inside,
                // Who has shut the gate holds the lock, or has planned ahead.
                None => drop(self.world_to_change()),
            }
        }
    }

    fn world_to_change(&self) -> loom::sync::MutexGuard<'_, Option<Vec<usize>>> {
        let mut world = self.world.lock().unwrap();
        if world.take().is_some() {
            self.gate.open();
        }
        world
    }

    fn register(&self, index: usize) {
        let fd = NUMBERS[index];
        let mut inside = self.enter();
        if self.table.get(fd).is_none() {
            drop(inside);
            {
                let _world = self.world_to_change();
                self.gate.shut();
                // SAFETY: the gate is shut and the world locked.
                unsafe { self.table.grow(fd) };
                self.gate.open();
            }
            inside = self.enter();
        }
        self.kernel.fetch_or(1 << index, Ordering::Relaxed);
        let about = About::new(Interest::READABLE, SourceTag::of(SourceKind::Waker), PolicyTag::DEFAULT);
        self.table.get(fd).unwrap().set(Token(1000 + index), about);
        drop(inside);
    }

    fn deregister(&self, index: usize) {
        let inside = self.enter();
        self.table.get(NUMBERS[index]).unwrap().clear();
        self.kernel.fetch_and(!(1 << index), Ordering::Relaxed);
        drop(inside);
    }

    /// Prepares and ends a fork: what `look` sees of this is what a child would find, whatever other threads do.
    fn fork<R>(&self, look: impl FnOnce(&[usize]) -> R) -> R {
        let mut world = self.world.lock().unwrap();
        self.gate.shut();
        let registered = self.registered();
        if let Some(planned) = world.take() {
            assert_eq!(planned, registered, "the plan is for something else");
        }
        let seen = look(&registered);
        self.gate.open();
        seen
    }

    /// Plans ahead, and leaves the gate shut.
    fn plan_ahead(&self) {
        let mut world = self.world.lock().unwrap();
        self.gate.shut();
        *world = Some(self.registered());
    }

    /// The gate is shut.
    fn registered(&self) -> Vec<usize> {
        let entries = NUMBERS.iter().map(|fd| self.table.get(*fd).and_then(|entry| entry.get()));
        let entries: Vec<_> = entries.collect();
        let kernel = self.kernel.load(Ordering::Relaxed);
        let mut registered = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            assert_eq!(entry.is_some(), kernel & 1 << index != 0, "half a registration of {}", NUMBERS[index]);
            if let Some((token, about)) = entry {
                assert_eq!(token, Token(1000 + index), "another's token");
                assert_eq!((about.kind(), about.interest()), (Some(SourceKind::Waker), Interest::READABLE));
                registered.push(index);
            }
        }
        registered
    }
}

/// Every interleaving with up to three switches that no thread asked for; beyond that there are too many.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// One thread registers, for which the table has to grow, and one deregisters what is there.
fn change_on_threads(selector: &Arc<Selector>) -> [thread::JoinHandle<()>; 2] {
    let (growing, changing) = (Arc::clone(selector), Arc::clone(selector));
    [thread::spawn(move || growing.register(1)), thread::spawn(move || changing.deregister(0))]
}

/// Two threads register, for one of which the table has to grow, while a third one forks.
#[test]
fn a_table_grows_under_forks_and_registrations() {
    model(|| {
        let selector = Selector::new();
        selector.register(0);
        let changing = change_on_threads(&selector);
        selector.fork(|_| ());
        changing.into_iter().for_each(|thread| thread.join().unwrap());
        selector.fork(|registered| assert_eq!(registered, [1], "a registration was lost"));
    });
}

/// A plan that was made ahead is given up by whoever registers, or is still right.
#[test]
fn a_plan_made_ahead_is_for_what_is_registered_at_the_fork() {
    model(|| {
        let selector = Selector::new();
        selector.register(0);
        let changing = change_on_threads(&selector);
        selector.plan_ahead();
        selector.fork(|_| ());
        changing.into_iter().for_each(|thread| thread.join().unwrap());
        selector.plan_ahead();
        selector.register(0);
        selector.fork(|registered| assert_eq!(registered, [0, 1], "a registration was lost"));
    });
}

/// Two threads that both need room, which the first one to come makes for both.
#[test]
fn two_threads_let_a_table_grow() {
    model(|| {
        let selector = Selector::new();
        let other = {
            let selector = Arc::clone(&selector);
            thread::spawn(move || selector.register(0))
        };
        selector.register(1);
        other.join().unwrap();
        selector.fork(|registered| assert_eq!(registered, [0, 1], "a registration was lost"));
    });
}

fn make_waker(selector: &Selector, index: usize) -> Arc<WakeSlot> {
    let slot = selector.wakers.occupy(Token(1000 + index));
    // Before it is registered, as in `sys::WakeSignal`.
    slot.set_descriptors(NUMBERS[index], NUMBERS[index]);
    selector.register(index);
    slot
}

/// A fork finds the slot of each living waker that is registered, whoever has left it, and never another one's.
#[test]
fn a_fork_finds_the_slots_of_registered_wakers() {
    model(|| {
        let selector = Selector::new();
        let first = make_waker(&selector, 0);
        let other = {
            let selector = Arc::clone(&selector);
            thread::spawn(move || {
                // In the order in which a waker is dropped; its slot is free for the next one before it is deregistered.
                first.vacate();
                let second = make_waker(&selector, 1);
                second.flag.raise();
                selector.deregister(0);
            })
        };
        let find = |registered: &[usize]| {
            for index in registered {
                let slot = selector.wakers.find(NUMBERS[*index].cast_unsigned());
                assert!(slot.is_some() || *index == 0, "a living waker has no slot");
                assert!(slot.is_none_or(|(_, sending)| sending == NUMBERS[*index]), "another waker's slot");
            }
        };
        selector.fork(find);
        other.join().unwrap();
        selector.fork(|registered| {
            assert_eq!(registered, [1]);
            find(registered);
            let (slot, _) = selector.wakers.find(NUMBERS[1].cast_unsigned()).unwrap();
            assert!(slot.flag.is_raised(), "the wake was lost");
        });
    });
}

/// A thread that finds the gate shut waits for the fork of another one, and never takes it for its own.
#[test]
fn no_thread_takes_anothers_fork_for_its_own() {
    model(|| {
        let forking = Arc::new(AtomicUsize::new(0));
        let selector = Selector::new();
        let fork = |me: usize, forking: &AtomicUsize, selector: &Selector| {
            assert_ne!(forking.load(Ordering::Relaxed), me, "nested");
            let _world = selector.world.lock().unwrap();
            forking.store(me, Ordering::Relaxed);
            selector.gate.shut();
            assert_eq!(forking.load(Ordering::Relaxed), me, "whose fork it is");
            selector.gate.open();
            forking.store(0, Ordering::Relaxed);
        };
        let other = {
            let (forking, selector) = (Arc::clone(&forking), Arc::clone(&selector));
            thread::spawn(move || fork(1, &forking, &selector))
        };
        fork(2, &forking, &selector);
        if selector.gate.try_enter().is_none() {
            assert_ne!(forking.load(Ordering::Relaxed), 2, "it would wait for itself");
        }
        other.join().unwrap();
    });
}
