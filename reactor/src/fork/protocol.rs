//! A planned fork, from top to bottom: [`prepare`] in the parent, `fork(2)`, then [`Prepared::commit`] in the child and
//! [`Prepared::abort`] in the parent.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::adopting;
use super::error::{Error, PrepareError, PrepareObject};
use super::gate;
use super::planner::{self, Mode};
use super::process_state::{self, PROCESS, ProcessState, begin_generation, generation, is_forking_here, selectors};
use super::reconcile;
use crate::lock::{Guard, this_thread};
use crate::sys;
use crate::sys::process::{self, SignalsBlocked};

/// The side of a fork: the parent or the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkResult {
    /// The process that called [`fork`].
    Parent {
        /// The child's process id.
        child: u32,
    },
    /// The new process.
    Child,
}

/// Forks the process, with signals blocked: [`prepare`], `fork(2)`, then [`commit`](Prepared::commit) in the child and
/// [`abort`](Prepared::abort) in the parent.
///
/// # Errors
///
/// [`Error`]. No process was made, and nothing has changed.
///
/// # Safety
///
/// If the process has other threads, the child has only the calling thread, and locks that the other threads held stay
/// locked forever. The child may then only do what signal-safety(7) allows.
///
/// # Fork
///
/// The child sees
///
/// - each selector, at the same descriptor, with a kernel queue of its own. No process sees what another one does with its
///   queue;
/// - no registration whose policy is [`NoFork`](super::ForkPolicy::NoFork): deregistering its source succeeds, reregistering
///   the source fails with `NotFound`, and registering the source again works;
/// - a timer of its own in place of each `unix::Timer`, registered or not, unless the parent's timer has the policy
///   [`Inherit`](super::ForkPolicy::Inherit) or [`Sever`](super::ForkPolicy::Sever);
/// - unregistered descriptors shared with the parent, as after any fork.
pub unsafe fn fork() -> Result<ForkResult, Error> {
    let _blocked = block_signals();
    let prepared = prepare().map_err(Error::Prepare)?;
    // SAFETY: the caller's promise is the same, and signals are blocked.
    unsafe { prepared.fork() }.map_err(Error::Fork)
}

/// Blocks all signals of the calling thread until the returned value is dropped. [`fork`] does that itself. If you call
/// [`prepare`], block signals first: a handler that runs in the child before commit, and writes to a signal pipe, would
/// write to the parent's.
pub fn block_signals() -> SignalsBlocked {
    SignalsBlocked::new()
}

/// Keeps planned forks of this process waiting until it is dropped; see [`hold_off`].
#[derive(Debug)]
#[must_use = "forks wait only for as long as the value lives"]
pub struct HeldOff {
    _guard: Guard<()>,
}

/// Keeps planned forks waiting, while the process makes a change that a child must not find half done. Waits for a fork
/// that is under way.
///
/// # Errors
///
/// If the calling thread holds forks off already, or is forking.
pub fn hold_off() -> io::Result<HeldOff> {
    reconcile::ensure();
    process_state::refuse_inside_fork("holding forks off")?;
    if PROCESS.hold.is_mine() {
        return Err(io::Error::other("this thread holds forks off already: drop its `HeldOff` first"));
    }
    Ok(HeldOff { _guard: PROCESS.hold.lock() })
}

/// A prepared fork. [Commit](Prepared::commit) it in the child, and [abort](Prepared::abort) it in the parent. Dropping it
/// aborts.
///
/// 1. [`prepare`], in the parent, stops registrations, and makes every kernel object that the child will need.
/// 2. `fork(2)`.
/// 3. [`commit`](Prepared::commit), first thing in the child, moves the prepared objects over the inherited descriptors. It
///    allocates nothing, takes no lock and does not panic. [`abort`](Prepared::abort) in the parent, also if the fork failed,
///    closes the prepared objects.
///
/// A few system calls can be made only in the child. If one of them fails, the selectors that it was for are *poisoned*. If it
/// should have replaced an unregistered descriptor, all selectors are poisoned. Each [`Poll::poll`](crate::Poll::poll) of a
/// poisoned selector returns the error. Such a poll never hangs, and never uses an incomplete queue.
///
/// Until commit or abort, registrations of other threads wait. The thread that prepared may poll, wake, list
/// registrations, and drop its objects: the child then leaves their descriptors alone. The following fail: making
/// selectors, wakers and timers, registering, reregistering, deregistering, and changing the policy of a registration.
/// On kqueue systems, making a `unix::Signals` or a `unix::Process` fails too.
#[derive(Debug)]
#[must_use = "a fork that is neither committed nor aborted keeps registrations waiting"]
pub struct Prepared {
    state: Guard<ProcessState>,
    _remakes: sys::RemakesLock,
    _hold: Guard<()>,
    /// Whether nothing is left to undo: the child has committed, or the plan waits for a later fork.
    is_over: bool,
}

/// Prepares a fork: makes every kernel object that the child will need, unless that was done [ahead](prepare_ahead).
///
/// # Errors
///
/// [`PrepareError`], with everything as it was before.
pub fn prepare() -> Result<Prepared, PrepareError> {
    let mut prepared = begin()?;
    adopting::refresh(&mut prepared.state)?;
    let state = &mut *prepared.state;
    if !(state.plan.is_ahead && state.plan.still_holds(&state.records) && state.plan.complete().is_ok()) {
        planner::make_plan(state, Mode::Planned)?;
        state.plan.complete()?;
    }
    state.plan.is_ahead = false;
    Ok(prepared)
}

/// Prepares the next fork in advance, such as in a supervisor that waits until a worker must be replaced. The next
/// [`prepare`], on any thread, then has little left to do.
///
/// Any change of a registration or of its policy discards the preparation. So does making or dropping a selector, a waker, a
/// timer or a pair, or changing a default policy. Therefore prepare last, and again after each fork. While the next fork is
/// prepared ahead, and after [`adopt`](super::glue::adopt), this function does nothing.
///
/// The fork itself still copies the bytes that wait in renewed pairs, makes timers, and adds [muted](super::glue::mute)
/// registrations. It also checks each bare descriptor, because other code may close such a descriptor without notice.
///
/// Until the fork the process has fresh objects for renewed pairs and wakers, a dead endpoint if a descriptor is
/// severed, and on Linux a second queue for each selector, with the inherited registrations. All of these take
/// descriptors, close-on-exec. On Linux, each inherited registration also takes one of the user's epoll watches
/// (`/proc/sys/fs/epoll/max_user_watches`). The kernel delivers each event to the second queue too, which takes tens of
/// nanoseconds. The child of an unplanned fork closes these descriptors only if [`atfork`](super::atfork) makes it
/// reconcile inside `fork(2)`: later, the program may have closed them and opened other files at them.
///
/// # Errors
///
/// [`PrepareError`], with everything as it was before. After a success the next fork may still fail.
///
/// # Platforms
///
/// On Linux a fork that is prepared ahead saves an `epoll_ctl(2)` per inherited registration. A kqueue is copied by the
/// kernel, or filled in the child: there is little to save.
///
/// # Examples
///
/// ```no_run
/// use forkio_reactor::fork::{ForkResult, fork, prepare_ahead};
///
/// prepare_ahead()?;
/// // Later, when a worker has ended:
/// // SAFETY: this process has one thread.
/// if let ForkResult::Parent { .. } = unsafe { fork()? } {
///     prepare_ahead()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn prepare_ahead() -> Result<(), PrepareError> {
    let mut prepared = begin()?;
    if prepared.state.adopted.pipe.is_some() {
        // A plan made in advance could be out of date: changes of other code's selectors do not discard it.
        return Ok(());
    }
    if !prepared.state.plan.is_ahead {
        planner::make_plan(&mut prepared.state, Mode::Planned)?;
    }
    // The gate stays closed, so that each change discards the plan.
    prepared.state.plan.is_ahead = true;
    PROCESS.forking.store(0, Ordering::Relaxed);
    prepared.is_over = true;
    Ok(())
}

/// Whether the next fork is [prepared ahead](prepare_ahead).
pub fn is_prepared_ahead() -> bool {
    reconcile::lock().plan.is_ahead
}

/// Begins to prepare a fork: takes the locks, and closes the gate, so that registrations stay as they are.
fn begin() -> Result<Prepared, PrepareError> {
    let refused = |object, text| PrepareError::of(object)(io::Error::other(text));
    if is_forking_here() {
        return Err(refused(PrepareObject::NestedFork, "end the first fork before the next one"));
    }
    if PROCESS.state.is_mine() {
        return Err(refused(PrepareObject::Interrupted, "the fork would wait for itself"));
    }
    process_state::start().map_err(PrepareError::of(PrepareObject::ForkDetection))?;
    reconcile::ensure();
    if PROCESS.hold.is_mine() {
        return Err(refused(PrepareObject::HeldOff, "drop its `HeldOff` first"));
    }
    let hold = PROCESS.hold.lock();
    let state = PROCESS.state.lock();
    let remakes = sys::Remake::lock();
    PROCESS.forking.store(this_thread(), Ordering::Relaxed);
    // From now on dropping `Prepared` undoes everything, on an error and on a panic.
    let prepared = Prepared { state, _remakes: remakes, _hold: hold, is_over: false };
    gate::close();
    Ok(prepared)
}

impl Prepared {
    /// Returns the descriptors at which the child will have objects of its own: descriptors of selectors, severed or renewed
    /// descriptors, and on kqueue systems those of `unix::Signals` and `unix::Process`. Every other descriptor refers to the
    /// same object in both processes.
    pub fn private_descriptors(&self) -> Vec<RawFd> {
        self.state.plan.private_descriptors().collect()
    }

    /// Forks, and commits or aborts.
    ///
    /// # Errors
    ///
    /// Those of `fork(2)`. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// The requirements of [`fork`]. Signals must be [blocked](block_signals).
    pub unsafe fn fork(self) -> io::Result<ForkResult> {
        // SAFETY: the caller's promise is the same. An early return drops `self`, which aborts the fork.
        let child = unsafe { process::fork() }?;
        if child == 0 {
            // SAFETY: this is the child, and nothing has happened in it yet.
            unsafe { self.commit() };
            return Ok(ForkResult::Child);
        }
        self.abort();
        Ok(ForkResult::Parent { child: child as u32 })
    }

    /// Ends the fork in the child: this process now has selectors of its own. Async-signal-safe.
    ///
    /// # Safety
    ///
    /// Call it in the child of a `fork(2)` that the same thread made after [`prepare`], with signals [blocked](block_signals).
    /// No other code of the child may have used a descriptor or a selector before.
    pub unsafe fn commit(mut self) {
        let ProcessState { records, plan, .. } = &mut *self.state;
        plan.commit(selectors(), records, generation() + 1);
        begin_generation();
        reconcile::forget_failure();
        PROCESS.forking.store(0, Ordering::Relaxed);
        gate::open();
        self.is_over = true;
    }

    /// Ends the fork in the parent, whether or not it made a child.
    pub fn abort(self) {
        // The caller may have forked.
        PROCESS.has_relatives.store(true, Ordering::Relaxed);
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.state.plan.clear();
        PROCESS.forking.store(0, Ordering::Relaxed);
        // In the child of a fork that other code has made meanwhile, the gate stays wiped, and the child reconciles.
        if gate::state() != gate::WIPED {
            gate::open();
        }
    }
}
