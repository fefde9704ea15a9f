//! Copy on fork: the child gets a private copy of every selector.
//!
//! The model is FreeBSD's `KQUEUE_CPONFORK` (kqueue(2), commit b11289f87123): the child has a deep copy of the kernel
//! queue at the same descriptor number, each registration copied, and what was active active in the copy. On top of it
//! every registration has a [`ForkPolicy`]: most are inherited, some the child must not have.
//!
//! # The protocol: whatever can fail, fails before the fork
//!
//! 1. [`prepare`], in the parent: keeps registrations still, and makes every kernel object that the child will need. An
//!    error here has changed nothing, and no process was made.
//! 2. `fork(2)`.
//! 3. [`Prepared::commit`], first thing in the child: moves the prepared objects over the inherited numbers. It
//!    allocates nothing, takes no lock and does not panic; it is async-signal-safe.
//!    [`Prepared::abort`] in the parent, also when the fork failed: closes the prepared objects.
//!
//! [`fork`] does all three. What of the first step does not depend on the moment can be done [ahead](prepare_ahead).
//!
//! Should one of the few system calls that only the child can make fail, the selector is *poisoned*: its next
//! [`Poll::poll`](crate::Poll::poll) returns that error. It never hangs, and never polls a half-armed queue.
//!
//! # What the child sees
//!
//! - Each live selector, at its own number, with its own epoll instance. What a process registers, deregisters or
//!   wakes is not felt by another one.
//! - A registration whose policy is [`NoFork`](ForkPolicy::NoFork) is not there: deregistering it succeeds,
//!   reregistering is `NotFound`, registering it anew works.
//! - A [muted](mute) registration is armed.
//! - A selector that was [retired](retire_in_children) is dead: the child has the descriptors, but no queue for them.
//! - Each `unix::Timer` as one of its own, registered or not.
//!
//! All this is so after a fork made through this module. A plain `fork(2)`, by a library or a language runtime, shares the
//! queues between the processes, unless the program has asked for more: see the module `atfork`, behind the feature of that
//! name.
//!
//! What else nobody registered is none of this module's business: `fork(2)` duplicates the descriptor, and both processes
//! hold it.
//!
//! # Examples
//!
//! ```no_run
//! use forkio_reactor::fork::{ForkResult, fork};
//! use forkio_reactor::{Events, Poll, Token, Waker};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(4);
//! let waker = Waker::new(poll.registry(), Token(0))?;
//!
//! // SAFETY: this process has one thread.
//! match unsafe { fork()? } {
//!     ForkResult::Parent { child } => {
//!         waker.wake()?; // The child does not notice.
//!         poll.poll(&mut events, None)?;
//!         println!("{child} is on its own");
//!     }
//!     ForkResult::Child => {
//!         poll.poll(&mut events, Some(Duration::from_millis(10)))?;
//!         assert!(events.is_empty());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use crate::selector::WakeSlots;
use crate::sys::{descriptor, process};
use crate::{Interest, Token, sync, sys};

#[cfg(feature = "atfork")]
pub mod atfork;
mod error;
pub(crate) mod gate;
mod hold;
mod lock;
mod policy;
mod prepare;
pub(crate) mod registered;
mod registrations;
pub(crate) mod selectors;
pub(crate) mod table;
#[cfg(test)]
mod table_tests;
mod world;

pub use error::{ForkError, PrepareError, PrepareObject};
pub use hold::{HeldOff, hold_off};
pub use policy::{ForkPolicy, SourceKind, default_policy};
pub use process::SignalsBlocked;
pub use registrations::{
    Registration, is_pair_end, is_tagged, kind, mute, newest_selector, nudge_pair_end, pending_bytes, policy,
    rearm_exclusive, registrations, renew_pair_in_children, retire_in_children, selectors, set_default_policy,
    set_exclusive, set_policy, unmute,
};
#[allow(unused_imports, reason = "where a queue has others beside it")]
pub(crate) use world::keeping_forks_out;
#[cfg(feature = "net")]
pub(crate) use world::remember_pair;
pub(crate) use world::{Adopted, closing, forget_pair, given_away, is_alive};
#[cfg(feature = "os-ext")]
pub(crate) use world::{forget_timer, remember_timer};

use lock::{Guard, this_thread};
use prepare::{Plan, Preparation};
use world::{FORKER, FORKING, GENERATION, OWNER, PARENT, SELECTORS, World, is_forking_here, world};

/// A child's kernel queue in the making: what copy on fork asks of a backend.
///
/// The parent says what the child is to have; the two steps of the child only make system calls. Dropping it in the parent
/// leaves everything as it was.
pub(crate) trait QueueCopy: Sized {
    /// Parent, before the fork: for the child's copy of `queue`. Without registrations so far. What is to be closed at the
    /// end, in both processes, goes to `spares`.
    fn new(queue: &sys::Queue, spares: &mut Vec<OwnedFd>) -> io::Result<Self>;

    /// Parent, before the fork: the child is to have this registration, which the parent has, or has muted.
    fn inherit(&mut self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// Parent, before the fork: the child is not to have this registration.
    fn leave_out(&mut self, fd: RawFd, interest: Interest);

    /// Parent, before the fork: the child is to have this registration, of a number that stands for something else there.
    fn add_in_child(&mut self, fd: RawFd, token: Token, interest: Interest);

    /// Parent, before the fork: a number that was [inherited](QueueCopy::inherit) turns out to stand for something else
    /// in the child. `true`: it is taken out again, and to be [added in the child](QueueCopy::add_in_child).
    fn recall(&mut self, fd: RawFd) -> io::Result<bool>;

    /// Parent, before the fork: the child is to have the wakers that are events of the queue's own. Where wakers are
    /// descriptors there are none.
    fn renew_wakers(&mut self, _: &WakeSlots) {}

    /// Child: makes the number of `queue` stand for the child's queue. Async-signal-safe; the error is an errno.
    fn put_in_place(&mut self, queue: &sys::Queue) -> Result<(), i32>;

    /// Child, where all numbers stand for what they are to: completes the registrations. Async-signal-safe; the error is
    /// an errno.
    fn complete(&mut self, queue: &sys::Queue, wakers: &WakeSlots) -> Result<(), i32>;

    /// Child, after that: descriptors that are not open there, so that there is nothing to be registered.
    fn missing(&self) -> impl Iterator<Item = RawFd> {
        std::iter::empty()
    }
}

/// How many forks, made through this crate, lie between this process and the one that its program started as: 0 there,
/// 1 in its children, 2 in theirs.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// The process id of the process whose fork, made through this crate, made this one, also when that has ended since; `None`
/// in generation 0.
pub fn parent() -> Option<u32> {
    Some(PARENT.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
}

/// In the child: it is one, and may fork in turn.
fn begin_generation() {
    PARENT.store(FORKER.load(Ordering::Relaxed), Ordering::Relaxed);
    FORKER.store(process::id(), Ordering::Relaxed);
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Whether this process was made by a fork that this module does not know of: its selectors, and the objects that a child
/// should have of its own, are still those of another process. `false` also if there has never been a selector.
pub fn is_stray() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != std::process::id()
}

/// Whether the calling thread is certainly the only one that the process has, and has ever had. `false` says nothing:
/// only glibc, since 2.32, tells (`__libc_single_threaded`), and only once there has been a selector.
pub fn is_single_threaded() -> bool {
    process::is_single_threaded()
}

/// Blocks all signals of the calling thread until the value is dropped.
///
/// [`fork`] does so by itself. Who calls [`prepare`] should do so before it: a handler that runs in the child before
/// commit, and writes to a self-pipe, would write to the parent's.
pub fn block_signals() -> SignalsBlocked {
    SignalsBlocked::new()
}

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkResult {
    /// The process that called [`fork`].
    Parent {
        /// The child's process id.
        child: i32,
    },
    /// The new process.
    Child,
}

/// Forks: [`prepare`], `fork(2)`, [`commit`](Prepared::commit) or [`abort`](Prepared::abort), with signals blocked.
///
/// # Errors
///
/// [`ForkError`]. Nothing has changed then.
///
/// # Safety
///
/// If the process has other threads, the child has only this one, and locks that others held stay locked for ever: it
/// may then only do what signal-safety(7) allows.
pub unsafe fn fork() -> Result<ForkResult, ForkError> {
    let _blocked = block_signals();
    let prepared = prepare().map_err(ForkError::Prepare)?;
    // SAFETY: the caller's promise is the same, and signals are blocked.
    unsafe { prepared.fork() }.map_err(ForkError::Fork)
}

/// A fork that is prepared: to be [committed](Prepared::commit) in the child and [aborted](Prepared::abort) in the
/// parent. Dropping it aborts.
///
/// Until then other threads' registrations wait, and the thread that prepared should do nothing with selectors but poll,
/// wake and look around: making one, or a timer, registering, deregistering, tagging and muting fail; a selector that is
/// dropped stays, and a registered source that is closed stays in the table.
#[derive(Debug)]
#[must_use = "a fork that is neither committed nor aborted keeps registrations waiting"]
pub struct Prepared {
    world: Guard<World>,
    /// Nothing is left to undo: in the child, and where the plan waits for a fork to come.
    is_over: bool,
    _held: HeldOff,
}

/// Prepares a fork: makes every kernel object that the child will need, unless that was done [ahead](prepare_ahead).
///
/// # Errors
///
/// [`PrepareError`], with everything as it was before.
pub fn prepare() -> Result<Prepared, PrepareError> {
    let mut prepared = begin()?;
    prepared.make()?;
    Ok(prepared)
}

/// Makes now what the next fork of this process would make first, and keeps it for that: for a supervisor that waits until
/// a worker has to be replaced. The next [`prepare`], on whatever thread, has little left to do.
///
/// Any change of what the child is to have gives it up, and that fork makes all anew: a registration that is made, changed,
/// ended, tagged or muted, a selector, timer or pair that comes or goes, another default policy. So do it last, and again
/// after each fork, whose child takes it all with it. Polling, waking, reading and writing change nothing. To ask for it
/// when it is there does nothing.
///
/// What is left to the fork: bytes that wait in renewed pairs, timers, what is [muted](mute), and a look at each registration
/// made by number, because nobody tells when that is closed.
///
/// # What it costs meanwhile
///
/// A queue for each selector, with what the child inherits in it, and the fresh objects for what is renewed: so many
/// descriptors, and as many of the user's epoll watches (`/proc/sys/fs/epoll/max_user_watches`) as there are registrations
/// inherited. The kernel tells the waiting queues of each event too: some tens of nanoseconds. The child of a plain `fork(2)`
/// has the descriptors for good: it cannot know what became of their numbers. What is executed has none of them.
///
/// # Platforms
///
/// Linux: what it takes off a fork is an `epoll_ctl(2)` per inherited registration. A kqueue is copied by the kernel, or filled
/// in the child: there is little to take off there.
///
/// # Errors
///
/// [`PrepareError`], with everything as it was before. Whether a fork could be made now it does not say in all cases.
///
/// # Examples
///
/// ```no_run
/// use forkio_reactor::fork::{ForkResult, fork, prepare_ahead};
///
/// # fn example(mut worker_has_ended: impl FnMut() -> bool) -> Result<(), Box<dyn std::error::Error>> {
/// prepare_ahead()?;
/// while worker_has_ended() {
///     // SAFETY: this process has one thread.
///     match unsafe { fork()? } {
///         // There is time now. An error is one that the next fork will have to give, if it meets with it too.
///         ForkResult::Parent { .. } => drop(prepare_ahead()),
///         ForkResult::Child => break,
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub fn prepare_ahead() -> Result<(), PrepareError> {
    let mut prepared = begin()?;
    let begun_in = generation();
    if prepared.world.plan.ahead_in != FORKER.load(Ordering::Relaxed) {
        prepared.plan()?;
    }
    // Otherwise this is the child of a fork in a signal handler, which does without.
    if generation() == begun_in {
        prepared.keep();
    }
    Ok(())
}

/// Whether something is [prepared ahead](prepare_ahead) for the next fork of this process.
pub fn is_prepared_ahead() -> bool {
    let ahead_in = world().plan.ahead_in;
    ahead_in != 0 && ahead_in == process::id()
}

/// Shuts the gates.
fn begin() -> Result<Prepared, PrepareError> {
    if is_forking_here() {
        let source = io::Error::other("end the first fork before the next one");
        return Err(PrepareError { object: PrepareObject::NestedFork, source });
    }
    let held = hold_off();
    let prepared = Prepared::begin(held, world());
    for live in SELECTORS.iter() {
        live.get().registered.shut();
    }
    Ok(prepared)
}

impl Prepared {
    /// From here on dropping it undoes everything, on an error and on a panic.
    fn begin(held: HeldOff, world: Guard<World>) -> Prepared {
        FORKING.store(this_thread(), Ordering::Relaxed);
        FORKER.store(process::id(), Ordering::Relaxed);
        Prepared { world, is_over: false, _held: held }
    }

    /// Makes the plan that the fork will follow. The gates are shut.
    fn make(&mut self) -> Result<(), PrepareError> {
        let World { timers, muted, plan, .. } = &mut *self.world;
        // The child of a fork by others may have its parent's, who goes on with it. From here on it is this fork's, if it is
        // of any use.
        if plan.ahead_in == FORKER.load(Ordering::Relaxed) {
            plan.ahead_in = 0;
            if plan.still_holds(muted) && plan.complete(timers).is_ok() {
                return Ok(());
            }
        }
        self.plan()?;
        let World { timers, plan, .. } = &mut *self.world;
        plan.complete(timers)
    }

    /// What can be done ahead. The gates are shut.
    fn plan(&mut self) -> Result<(), PrepareError> {
        let World { pairs, private_pairs, muted, timers, plan } = &mut *self.world;
        Preparation::new(pairs, muted, timers, plan).run(private_pairs)
    }

    /// Lets the plan wait for a fork, with the gates shut.
    fn keep(mut self) {
        self.world.plan.ahead_in = FORKER.load(Ordering::Relaxed);
        FORKING.store(0, Ordering::Relaxed);
        self.is_over = true;
    }

    /// The numbers behind which the child will have an object of its own: selectors, and what is severed or renewed. Each
    /// other number stands for the same object in both processes.
    ///
    /// # Examples
    ///
    /// ```
    /// use forkio_reactor::fork::prepare;
    /// use std::os::fd::AsRawFd;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let poll = forkio_reactor::Poll::new()?;
    /// let prepared = prepare()?;
    /// assert!(prepared.private_numbers().contains(&poll.as_raw_fd()));
    /// prepared.abort();
    /// # Ok(())
    /// # }
    /// ```
    pub fn private_numbers(&self) -> Vec<RawFd> {
        let Plan { queues, replacements, remakes, .. } = &self.world.plan;
        let queues = queues.iter().map(|(live, _)| live.get().queue.as_fd().as_raw_fd());
        queues.chain(replacements.iter().map(|replacement| replacement.onto)).chain(remakes.numbers()).collect()
    }

    /// Forks, and commits or aborts.
    ///
    /// # Errors
    ///
    /// Those of `fork(2)`. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// As [`fork`](fork()); signals must be [blocked](block_signals).
    pub unsafe fn fork(self) -> io::Result<ForkResult> {
        // SAFETY: the caller's promise is the same.
        match unsafe { process::fork() } {
            Ok(0) => {
                // SAFETY: this is the child, and nothing has happened in it yet.
                unsafe { self.commit() };
                Ok(ForkResult::Child)
            }
            Ok(child) => {
                self.abort();
                Ok(ForkResult::Parent { child })
            }
            Err(error) => {
                self.abort();
                Err(error)
            }
        }
    }

    /// Ends the fork in the child: this process now has selectors of its own.
    ///
    /// A system call that fails here poisons the selector it was for.
    ///
    /// # Safety
    ///
    /// To be called in the child of a `fork(2)` that the thread made after [`prepare`], before anything else uses a
    /// descriptor or a selector there, with signals [blocked](block_signals).
    pub unsafe fn commit(mut self) {
        let World { pairs, timers, plan, .. } = &mut *self.world;
        for live in SELECTORS.iter() {
            let shared = live.get();
            if shared.registered.is_retired() {
                shared.registered.poison(libc::ECANCELED);
            }
        }
        for (live, copy) in &mut plan.queues {
            let shared = live.get();
            if let Err(errno) = copy.put_in_place(&shared.queue) {
                shared.poison(errno);
            }
        }
        for (fd, errno) in plan.remakes.remake() {
            let to_tell = SELECTORS.iter().filter(|live| live.get().registered.has_entry(fd));
            to_tell.for_each(|live| live.get().poison(errno));
        }
        for replacement in &plan.replacements {
            if let Err(errno) = descriptor::replace(replacement.from, replacement.onto) {
                let to_tell = SELECTORS.iter().filter(|live| replacement.selector.is_none_or(|one| one == *live));
                to_tell.for_each(|live| live.get().poison(errno));
            }
        }
        for (live, copy) in &mut plan.queues {
            let shared = live.get();
            // A poisoned one's number may still stand for the parent's queue.
            if !shared.registered.is_poisoned()
                && let Err(errno) = copy.complete(&shared.queue, &shared.wakers)
            {
                shared.poison(errno);
            }
            for fd in copy.missing() {
                // What this process is not to have anyway stays marked as left out.
                let entry = shared.registered.table.get(fd);
                let is_due =
                    |entry: &&table::Entry| !entry.about().is_some_and(|about| about.is_dropped(generation() + 1));
                entry.filter(is_due).map(table::Entry::clear);
            }
        }
        for (live, fd) in &plan.wakers {
            let shared = live.get();
            // The flag as it was at the fork: who raised it may be a thread that does not exist here.
            if !shared.registered.is_poisoned()
                && let Some((slot, sending)) = shared.wakers.find(fd.cast_unsigned())
                && slot.flag.is_raised()
                && let Err(errno) = sys::WakeSignal::send_at(sending)
            {
                shared.poison(errno);
            }
        }
        for (live, fd) in &plan.muted {
            let entry = live.get().registered.table.get(*fd);
            if let Some((entry, (token, about))) = entry.and_then(|entry| Some((entry, entry.get()?))) {
                entry.set(token, about.with_muted(false));
            }
        }
        for fd in &plan.parted {
            world::part(pairs, *fd);
            if let Some(schedule) = timers.get(fd) {
                schedule.sever();
            }
        }
        begin_generation();
        plan.close();
        let owner = process::id();
        OWNER.store(owner, Ordering::Relaxed);
        for live in SELECTORS.iter() {
            let shared = live.get();
            shared.registered.take_over(owner);
            if shared.registered.is_retired() {
                // A dead endpoint.
                shared.queue.take_over();
                SELECTORS.remove(live);
            }
        }
        #[cfg(feature = "atfork")]
        if !SELECTORS.iter().any(|live| live.get().registered.is_poisoned()) {
            atfork::forget_failure();
        }
        FORKING.store(0, Ordering::Relaxed);
        self.is_over = true;
    }

    /// Ends the fork in the parent, whether a child was made or not.
    pub fn abort(self) {
        drop(self);
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.world.plan.clear();
        for live in SELECTORS.iter() {
            live.get().registered.open();
        }
        FORKING.store(0, Ordering::Relaxed);
    }
}
