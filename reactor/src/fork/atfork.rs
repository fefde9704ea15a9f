//! Forks by others: a fork by a library or a language runtime is as good as one of ours.
//!
//! [`install`] has the C library call [`prepare`](super::prepare) before every `fork(2)` of the process, and commit or
//! abort after it (`pthread_atfork(3)`). The child of Python's `os.fork`, of `daemon(3)`, of `forkpty(3)` then has a
//! private copy of every selector, by the same policies as the child of [`fork`](super::fork()), and the generation goes
//! up by one. Both kinds of fork can mix: what [`prepare`](super::prepare) has prepared, the handlers leave to its owner.
//!
//! # Who pays
//!
//! `fork(2)` does, also when `exec` follows: what a fork of ours costs, and well under a microsecond where there is no
//! selector. `posix_spawn(3)`, `system(3)`, `popen(3)`, `vfork(2)` and `std::process::Command` without `pre_exec` run no
//! handlers in glibc and musl, and pay nothing. Neither does `_Fork(3)`, whose child shares the queues with its parent.
//!
//! # A fork that cannot be prepared
//!
//! The fork of somebody else cannot be made to fail. So the child's selectors are *poisoned*: each
//! [`Poll::poll`](crate::Poll::poll) there fails at once, with the error that prepare met with, and [`failure`] tells all
//! of it. They do not reach the parent's queue, and its wakers do not wake the parent. Nothing has changed in the parent. A
//! fork cannot be prepared
//!
//! - when [`prepare`](super::prepare) fails: there is no descriptor left, say;
//! - in a signal handler, if the thread that it interrupted was registering, had the selectors locked or forks
//!   [held off](super::hold_off), and would wait
//!   for itself (`EDEADLK`). (A handler that forks while it interrupts the allocator may hang all the same, because prepare
//!   allocates. signal-safety(7) has `_Fork(3)` for signal handlers; POSIX took `fork` off the list.)
//! - inside another fork of the same thread, in a handler of another library (`EDEADLK`);
//! - when other threads do not end their registrations and forks within some seconds (`ETIMEDOUT`). They end them unless
//!   they wait for this one: glibc from 2.28 to 2.35 and musl let one thread at a time into their handlers, and a thread
//!   that has called [`prepare`](super::prepare) itself may be waiting for its turn.
//!
//! # Other handlers
//!
//! The C library runs prepare handlers in reverse order of their registration, and those of parent and child in that order.
//! What follows:
//!
//! - Handlers that were registered before `install` run between prepare and the end of the fork. In the child they still
//!   see the parent's objects: they should leave selectors and what is registered alone. What they may do with selectors is
//!   what [`Prepared`] says; making a socket, without registering it, is fine.
//! - A lock that such a prepare handler takes must not be one under which other threads register: they wait for the end of
//!   the fork, and it would wait for them. Handlers that were registered later have no such worry, so `install` before
//!   what uses selectors.
//! - Signals are blocked from prepare to the end of the fork, so that no signal handler writes to a self-pipe that is
//!   still the parent's; handlers of others in between run with signals blocked.
//!
//! Handlers cannot be removed. The C library itself forgets them when the shared object that they are in is unloaded.
//!
//! # Threads
//!
//! As after every `fork(2)`, the child has the forking thread alone. Selectors are whole there: prepare waits for
//! registrations that other threads are making. A runtime that another thread was running is not: build it anew. A child
//! made by a thread of the runtime's own, as by a function that a task calls, goes on with the runtime if it has no other
//! threads.
//!
//! # Examples
//!
//! ```no_run
//! use forkio_reactor::fork::{atfork, generation};
//!
//! # fn main() -> std::io::Result<()> {
//! atfork::install()?;
//! let poll = forkio_reactor::Poll::new()?;
//! // SAFETY: this process has one thread.
//! if unsafe { libc::fork() } == 0 {
//!     // Nothing that is registered here is felt by the parent.
//!     assert_eq!(generation(), 1);
//! }
//! # drop(poll);
//! # Ok(())
//! # }
//! ```

use std::cell::Cell;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, compiler_fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::lock::this_thread;
use super::world::{
    FORKER, FORKING, HAS_HANDLERS, HAS_PRIVATE, HOLD, OWNER, SELECTORS, WORLD, World, is_forking_here,
    refuse_inside_a_fork, world_to_change,
};
use super::{HeldOff, PrepareError, PrepareObject, Prepared, SignalsBlocked, begin_generation};
use crate::sys::process;

/// How often to look again for other threads to end their registrations and forks: a tenth of a millisecond each, so five
/// seconds or more.
const PATIENCE: u32 = 50_000;

/// Has the C library prepare every `fork(2)` of this process, and end it in parent and child. Doing so again does nothing;
/// children have it too.
///
/// From then on a registration says that it is under way, which takes it some nanoseconds: a signal handler may fork.
///
/// Do it early, before other threads start and before others register handlers of their own: see [the order of
/// handlers](self#other-handlers).
///
/// # Errors
///
/// Those of `pthread_atfork(3)`: no memory. Between prepare and the end of a fork of this thread, an error.
pub fn install() -> io::Result<()> {
    refuse_inside_a_fork("installing handlers")?;
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if !HAS_HANDLERS.load(Ordering::Relaxed) {
        // Made now, because a signal handler must not allocate.
        refusals();
        FORKER.store(std::process::id(), Ordering::Relaxed);
        process::at_fork(before_fork, in_parent, in_child)?;
        HAS_HANDLERS.store(true, Ordering::Relaxed);
        // From now on registrations say that they are under way.
        let _world = world_to_change();
        for live in SELECTORS.iter() {
            live.get().registered.shut();
            live.get().registered.open();
        }
    }
    Ok(())
}

/// What else is to happen at the forks of others.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// In the parent, on the thread that forks, right before it prepares; not for a fork that cannot be prepared because the
    /// thread would wait for itself. It may list and tag registrations. It may run in a signal handler, so it should take
    /// no lock but by trying.
    pub before: fn(),
    /// In the child, as ordinary code: before the first poll of each selector, on the thread that polls. The poll returns
    /// without waiting after it. Not in a child whose selectors are poisoned.
    pub first_poll: fn(),
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Sets the hooks. The first call counts; `false`: this was not it.
pub fn set_hooks(hooks: Hooks) -> bool {
    HOOKS.set(hooks).is_ok()
}

/// The error that this process was made in spite of: the one that keeps its selectors from being polled. Its children have it
/// for as long as they have one of these selectors. `None`: the fork that made it was prepared.
pub fn failure() -> Option<&'static PrepareError> {
    // SAFETY: null, or one that was leaked in this process or its parent.
    unsafe { FAILURE.load(Ordering::Acquire).as_ref() }
}

static FAILURE: AtomicPtr<PrepareError> = AtomicPtr::new(ptr::null_mut());

/// In a child that can poll each selector that it has. Async-signal-safe.
pub(super) fn forget_failure() {
    // Nothing is written where there is nothing to forget: a page that a child writes to is one that it has to copy.
    if !FAILURE.load(Ordering::Relaxed).is_null() {
        FAILURE.store(ptr::null_mut(), Ordering::Release);
    }
}

/// A fork that the C library has begun on this thread.
#[derive(Clone, Copy)]
enum Stage {
    /// There is none, or there was nothing to prepare.
    Idle,
    /// Prepared by somebody who will also end it.
    Theirs,
    /// Prepared here: the lock is this thread's.
    Prepared,
    /// Could not be prepared, which the child has to know.
    Refused(Refusal),
}

#[derive(Clone, Copy)]
enum Refusal {
    /// From the heap.
    Failed(*mut PrepareError),
    Known(&'static PrepareError),
}

struct UnderWay {
    /// More than one: a handler of another library forks.
    depth: Cell<u32>,
    /// Of the outermost.
    stage: Cell<Stage>,
    signals: Cell<Option<ManuallyDrop<SignalsBlocked>>>,
    /// Whether this thread is registering.
    registering: Cell<bool>,
}

thread_local! {
    // Nothing in it needs to be dropped, so threads that are ending have it too.
    static UNDER_WAY: UnderWay = const {
        UnderWay {
            depth: Cell::new(0),
            stage: Cell::new(Stage::Idle),
            signals: Cell::new(None),
            registering: Cell::new(false),
        }
    };
}

/// Marks the calling thread as registering, until dropped: a fork in a signal handler would wait for it.
pub(super) struct Registering(());

impl Registering {
    #[inline]
    pub(super) fn begin() -> Registering {
        UNDER_WAY.with(|own| own.registering.set(true));
        compiler_fence(Ordering::SeqCst);
        Registering(())
    }
}

impl Drop for Registering {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        UNDER_WAY.with(|own| own.registering.set(false));
    }
}

extern "C" fn before_fork() {
    if SELECTORS.is_empty() && !HAS_PRIVATE.load(Ordering::Relaxed) && WORLD.is_free() && HOLD.is_free() {
        // Nothing is written: each page that is costs the parent a page fault after every fork.
        return;
    }
    UNDER_WAY.with(|own| {
        own.depth.set(own.depth.get() + 1);
        if own.depth.get() > 1 {
            return;
        }
        if is_forking_here() {
            own.stage.set(Stage::Theirs);
            return;
        }
        own.signals.set(Some(ManuallyDrop::new(SignalsBlocked::new())));
        own.stage.set(if own.registering.get() || WORLD.is_mine() || HOLD.is_mine() {
            Stage::Refused(Refusal::Known(&refusals().interrupted))
        } else {
            match prepare() {
                Ok(prepared) => {
                    // Taken up again when the fork is over.
                    mem::forget(prepared);
                    Stage::Prepared
                }
                Err(error) => Stage::Refused(Refusal::Failed(Box::into_raw(Box::new(error)))),
            }
        });
    });
}

extern "C" fn in_parent() {
    UNDER_WAY.with(|own| {
        match own.depth.get() {
            0 => return,
            depth => own.depth.set(depth - 1),
        }
        if own.depth.get() > 0 {
            return;
        }
        match own.stage.replace(Stage::Idle) {
            // SAFETY: this thread has prepared it.
            Stage::Prepared => unsafe { take_up() }.abort(),
            // SAFETY: from `Box::into_raw`, and nobody else has it.
            Stage::Refused(Refusal::Failed(error)) => drop(unsafe { Box::from_raw(error) }),
            Stage::Refused(Refusal::Known(_)) | Stage::Theirs | Stage::Idle => {}
        }
        own.signals.take().map(ManuallyDrop::into_inner);
    });
}

extern "C" fn in_child() {
    UNDER_WAY.with(|own| {
        own.depth.set(own.depth.get().saturating_sub(1));
        if own.depth.get() > 0 {
            // The plans are the outer fork's, which this child is about to make too.
            if let Stage::Prepared = own.stage.get() {
                // SAFETY: this thread has prepared it, and this is a child.
                unsafe { take_up().forsake() };
                own.stage.set(Stage::Refused(Refusal::Known(&refusals().nested)));
            }
            // SAFETY: this is the child.
            unsafe { do_without(&refusals().nested) };
            return;
        }
        match own.stage.replace(Stage::Idle) {
            Stage::Theirs => {}
            Stage::Prepared => {
                // SAFETY: this thread has prepared it, and this is the child. What ran before are handlers of others, with
                // signals blocked.
                unsafe { take_up().commit() };
                announce_first_poll();
            }
            // SAFETY: this is the child; the error is nobody else's, and never freed here.
            Stage::Refused(Refusal::Failed(error)) => unsafe { do_without(&*error) },
            // SAFETY: this is the child.
            Stage::Refused(Refusal::Known(error)) => unsafe { do_without(error) },
            Stage::Idle => {
                // A selector that another thread was making is of no use here, where that thread is not.
                // SAFETY: this is the child.
                unsafe { do_without(&refusals().nested) };
                if SELECTORS.is_empty() {
                    // There was nothing to prepare, so this child has all that it should.
                    if OWNER.load(Ordering::Relaxed) != 0 {
                        OWNER.store(std::process::id(), Ordering::Relaxed);
                    }
                    FAILURE.store(ptr::null_mut(), Ordering::Release);
                    announce_first_poll();
                }
            }
        }
        own.signals.take().map(ManuallyDrop::into_inner);
    });
}

/// As [`prepare`](super::prepare), but does not wait for ever.
fn prepare() -> Result<Prepared, PrepareError> {
    let waited_in_vain =
        || PrepareError { object: PrepareObject::OtherThreads, source: io::Error::from_raw_os_error(libc::ETIMEDOUT) };
    let held = HeldOff { _guard: HOLD.lock_within(PATIENCE).ok_or_else(waited_in_vain)? };
    let mut prepared = Prepared::begin(held, WORLD.lock_within(PATIENCE).ok_or_else(waited_in_vain)?);
    if let Some(hooks) = HOOKS.get() {
        (hooks.before)();
    }
    for live in SELECTORS.iter() {
        if !live.get().registered.shut_within(PATIENCE) {
            return Err(waited_in_vain());
        }
    }
    prepared.make()?;
    Ok(prepared)
}

/// What [`before_fork`] has prepared.
///
/// # Safety
///
/// The calling thread is in [`Stage::Prepared`], and leaves it.
unsafe fn take_up() -> Prepared {
    // SAFETY: the thread has the locks, and nothing is borrowed from them.
    let (world, held) = unsafe { (WORLD.again(true), HOLD.again(true)) };
    Prepared { world, is_over: false, _held: HeldOff { _guard: held } }
}

impl Prepared {
    /// Ends a fork in a child that it was not made for. Async-signal-safe.
    ///
    /// # Safety
    ///
    /// The child has one thread, and does not use its selectors.
    unsafe fn forsake(mut self) {
        self.world.plan.close();
        FORKING.store(0, Ordering::Relaxed);
        self.is_over = true;
    }
}

/// The child of a fork that was not prepared: it has no selectors. Async-signal-safe.
///
/// # Safety
///
/// To be called in the child of a `fork(2)`, before anything else.
unsafe fn do_without(error: &'static PrepareError) {
    begin_generation();
    FAILURE.store(ptr::from_ref(error).cast_mut(), Ordering::Release);
    let owner = std::process::id();
    for live in SELECTORS.iter() {
        let shared = live.get();
        shared.poison(error.errno());
        // What is in the middle of a registration must not reach the parent's queue.
        shared.queue.detach();
        shared.registered.take_over(owner);
    }
    if FORKING.load(Ordering::Relaxed) != this_thread() {
        FORKING.store(0, Ordering::Relaxed);
    }
    // SAFETY: the child has this thread alone.
    unsafe {
        WORLD.free_if_orphaned(World::new());
        HOLD.free_if_orphaned(());
    }
}

/// Whether the process has [`Hooks::first_poll`] still before it.
static AWAITS_FIRST_POLL: AtomicBool = AtomicBool::new(false);

pub(super) fn awaits_first_poll() -> bool {
    AWAITS_FIRST_POLL.load(Ordering::Relaxed)
}

/// Async-signal-safe.
fn announce_first_poll() {
    if HOOKS.get().is_some() {
        AWAITS_FIRST_POLL.store(true, Ordering::Relaxed);
        for live in SELECTORS.iter() {
            live.get().registered.await_first_poll();
        }
    }
}

/// Selectors made from now on have nothing to wait for.
pub(super) fn first_poll() {
    AWAITS_FIRST_POLL.store(false, Ordering::Relaxed);
    if let Some(hooks) = HOOKS.get() {
        (hooks.first_poll)();
    }
}

/// Errors that a signal handler may have to give.
struct Refusals {
    interrupted: PrepareError,
    nested: PrepareError,
}

fn refusals() -> &'static Refusals {
    static REFUSALS: OnceLock<Refusals> = OnceLock::new();
    let refusal = |object| PrepareError { object, source: io::Error::from_raw_os_error(libc::EDEADLK) };
    REFUSALS.get_or_init(|| Refusals {
        interrupted: refusal(PrepareObject::Interrupted),
        nested: refusal(PrepareObject::NestedFork),
    })
}
