//! Unplanned forks: the child makes selectors of its own when it first uses one, or at once if [`atfork`](super::atfork) is
//! installed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use std::time::Duration;
use std::{io, ptr};

use super::adopting;
use super::error::{InheritedState, PrepareError};
use super::gate;
use super::plan::Plan;
use super::planner::{self, Mode};
use super::process_state::{
    self, PROCESS, ProcessState, begin_generation, is_forking_here, refuse_inside_fork, selectors,
};
use super::selector_core::Poison;
use crate::lock::{Guard, this_thread};
use crate::sync::pause;
use crate::sys;
use crate::sys::process::SignalsBlocked;

/// Gives the child of an unplanned fork its own selectors, if it does not have them yet. The child applies the policies to
/// the registrations in its own copy of the tables.
///
/// Every use of a selector does this first (polling, registering, waking, dropping). Call this function to reconcile earlier,
/// such as to sever connections at once. The parent pays nothing, and neither does a child that uses no selector.
///
/// # Fork
///
/// - An error poisons the selectors of the child: each poll of them fails. [`failure`](super::atfork::failure) returns
///   the error.
/// - If another thread was using this module's state at the fork, the child's inherited selectors are poisoned with
///   [`InheritedState`]. New ones work.
/// - A daemon keeps the connections whose policy is [`Inherit`](super::ForkPolicy::Inherit), the default of this crate. (The
///   crate `forkio` severs streams by default.)
/// - A daemon may close all inherited descriptors before it reconciles, and open its own files there: reconciling leaves
///   these files alone. On Linux, the child recognises wakers, timers and selectors with a waker by a mark (`O_APPEND`). A
///   selector without a waker has no mark: any epoll instance at its descriptor counts as the selector. If a selector's
///   descriptor is closed, none of its connections is severed. If the waker's descriptor is closed too, polling fails with
///   `EBADF`. A selector without a waker then registers the files that are open at its registered descriptors.
/// - A child that closes only some inherited descriptors must reconcile before it opens files there. Otherwise, if it keeps
///   a selector, its own socket at the descriptor of a severed connection is severed too. The kernel's queue does not tell
///   the two apart, because the parent may have ended the registration since. A child does not inherit a kqueue, so on
///   systems with kqueues this applies to every child, and to its own files of other kinds.
/// - Do not fork in a signal handler that may interrupt a registration: the child may finish the system call of that
///   registration on its parent's queue. signal-safety(7) warns of such forks too.
///
/// # Platforms
///
/// The child notices the fork by a page that the kernel wipes in the child: `MADV_WIPEONFORK` since Linux 4.14,
/// `minherit(INHERIT_ZERO)` on FreeBSD, NetBSD and OpenBSD. The check costs two loads per use of a selector. macOS and
/// DragonFly have no such page, so the check costs a `getpid(2)`, about 50 to 100 ns.
///
/// # Examples
///
/// ```no_run
/// use forkio_reactor::fork::{generation, reconcile};
///
/// let _poll = forkio_reactor::Poll::new()?;
/// // SAFETY: this process has one thread.
/// if unsafe { libc::fork() } == 0 {
///     reconcile();
///     assert_eq!(generation(), 1);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn reconcile() {
    ensure();
}

/// Like [`reconcile`]. Costs two loads if there is nothing to do.
#[inline(always)]
pub(crate) fn ensure() {
    if !gate::is_settled() {
        settle();
    }
}

#[cold]
fn settle() {
    // A child must be able to notice that a thread of the parent holds a lock, so `start` comes before the first use of a
    // lock. If `start` fails, making a selector fails too.
    let _ = process_state::start();
    let mut round = 0;
    loop {
        match gate::state() {
            // Either this thread reconciles already, or this process was forked while another fork was prepared. That other
            // fork must end first.
            _ if is_forking_here() => return,
            // The child may have closed descriptors since the fork, and have other files at them.
            gate::WIPED => reconcile_wiped(Plan::abandon),
            gate::RECONCILING => {
                pause(round);
                round += 1;
            }
            _ => return,
        }
    }
}

/// Locks the state, once this process has reconciled. A thread that is between prepare and the end of a fork holds the
/// lock already, and gets another guard.
pub(super) fn lock() -> Guard<ProcessState> {
    ensure();
    if is_forking_here() {
        // SAFETY: the thread has the lock, and borrows nothing from the state between prepare and the end of the fork.
        return unsafe { PROCESS.state.again() };
    }
    PROCESS.state.lock()
}

/// Locks the state for a change that affects forks. Discards a plan that was made ahead, because it would be out of date.
pub(super) fn lock_to_change() -> Guard<ProcessState> {
    let mut state = lock();
    state.give_up_plan();
    state
}

/// Like [`lock_to_change`], to make an object that forks must know of. Fails while this thread forks.
pub(super) fn lock_to_add(doing: &str) -> io::Result<Guard<ProcessState>> {
    refuse_inside_fork(doing)?;
    process_state::start()?;
    Ok(lock_to_change())
}

/// Locks the state, and brings the adopted selectors up to date if possible.
pub(super) fn lock_refreshed() -> Guard<ProcessState> {
    let mut state = lock();
    if !is_forking_here() {
        // The next fork returns the error.
        let _ = adopting::refresh(&mut state);
    }
    state
}

/// Reconciles inside `fork(2)`: nothing has happened in the child yet.
pub(super) extern "C" fn at_fork() {
    if gate::state() == gate::WIPED && !is_forking_here() {
        reconcile_wiped(Plan::clear);
    }
}

/// Reconciles. `discard` discards the fork that the parent may have prepared in advance.
#[cold]
fn reconcile_wiped(discard: fn(&mut Plan)) {
    if !gate::claim() {
        // Another thread reconciles.
        return;
    }
    let _blocked = SignalsBlocked::new();
    // SAFETY: the threads of the parent that may have held these locks do not exist in the child.
    let is_free = unsafe {
        PROCESS.hold.free_if_orphaned(());
        let are_remakes_free = sys::Remake::free_lock();
        PROCESS.state.free_if_orphaned(ProcessState::new()) && are_remakes_free
    };
    PROCESS.forking.store(this_thread(), Ordering::Relaxed);
    if PROCESS.state.is_mine() {
        lose_state(InheritedState::Interrupted);
    } else if is_free {
        make_own_selectors(discard);
    } else {
        discard(&mut PROCESS.state.lock().plan);
        lose_state(InheritedState::InUse);
    }
    begin_generation();
    PROCESS.forking.store(0, Ordering::Relaxed);
    if FIRST_POLL.get().is_some() && selectors().all(|selector| !selector.is_poisoned()) {
        IS_DUE.store(true, Ordering::Relaxed);
    }
    gate::open();
}

/// Plans from this process's copy of the tables, and commits.
fn make_own_selectors(discard: fn(&mut Plan)) {
    let mut state = PROCESS.state.lock();
    discard(&mut state.plan);
    adopting::keep_retired(&mut state);
    let planned = planner::make_plan(&mut state, Mode::Unplanned);
    let ProcessState { records, plan, .. } = &mut *state;
    match planned.and_then(|()| plan.complete()) {
        Ok(()) => {
            plan.commit(selectors(), records, process_state::generation() + 1);
            forget_failure();
        }
        Err(error) => {
            plan.clear();
            poison_all(Poison::Errno(error.errno()));
            FAILURE.store(Box::into_raw(Box::new(error)), Ordering::Release);
        }
    }
    adopting::abandon(&mut state);
}

/// Poisons all selectors: they no longer reach the parent's queues, and their wakers no longer wake the parent.
fn poison_all(poison: Poison) {
    for selector in selectors() {
        selector.kernel.forget_queue_if_lost();
        selector.table.iter().for_each(|(_, entry)| entry.settle_after_fork());
        // Other code polls the queue of an adopted selector, which stays shared with the parent.
        if selector.is_adopted() { selector.end() } else { selector.poison(poison) }
    }
}

fn lose_state(why: InheritedState) {
    LOST_STATE.store(why as u8 + 1, Ordering::Relaxed);
    poison_all(Poison::Lost(why));
}

/// An [`InheritedState`], plus 1; 0: none.
static LOST_STATE: AtomicU8 = AtomicU8::new(0);

/// Returns the reason why this process or an ancestor could not use its inherited selectors, timers and pairs; `None` if all
/// could.
pub fn lost_state() -> Option<InheritedState> {
    ensure();
    let lost = LOST_STATE.load(Ordering::Relaxed);
    [InheritedState::InUse, InheritedState::Interrupted].into_iter().find(|why| *why as u8 + 1 == lost)
}

/// Returns how many forks lie between the start of the program and this process: 0 in the process that was started, 1 in
/// its children, 2 in their children.
///
/// An unplanned fork counts once its child has reconciled, which this function does first. An intermediate process that
/// never used a selector, such as the middle one of a daemon's double fork, does not count. Neither do forks before the
/// first use of a selector or of this function.
pub fn generation() -> u32 {
    ensure();
    process_state::generation()
}

/// Returns the process id of the parent that forked this process, even if the parent has ended since; `None` in generation
/// 0.
///
/// Like [`generation`], this skips processes that never used a selector.
pub fn parent() -> Option<u32> {
    ensure();
    Some(PROCESS.parent.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
}

/// The error that made this process poison its selectors.
static FAILURE: AtomicPtr<PrepareError> = AtomicPtr::new(ptr::null_mut());

/// Returns the error of reconciling, if this process is the child of an unplanned fork and could not reconcile. Every poll
/// of its inherited selectors fails with the error's errno. Children have the error for as long as they have one of these
/// selectors.
pub fn failure() -> Option<&'static PrepareError> {
    ensure();
    // SAFETY: the pointer is null or refers to an error that this process or an ancestor has leaked.
    unsafe { FAILURE.load(Ordering::Acquire).as_ref() }
}

/// Forgets the error if the child can poll each of its selectors. Async-signal-safe.
pub(super) fn forget_failure() {
    // Writes only if there is an error: the kernel must copy each page that a child writes to.
    if !FAILURE.load(Ordering::Relaxed).is_null() && selectors().all(|selector| !selector.is_poisoned()) {
        FAILURE.store(ptr::null_mut(), Ordering::Release);
    }
}

static FIRST_POLL: OnceLock<fn()> = OnceLock::new();

/// Whether this process must still call the hook.
static IS_DUE: AtomicBool = AtomicBool::new(false);

/// Sets a function that each child of an unplanned fork calls before its first poll, on the thread that polls. That poll then
/// returns without waiting. A child that has a poisoned selector does not call the hook. Only the first function that is set
/// counts.
pub fn set_first_poll_hook(hook: fn()) {
    let _ = FIRST_POLL.set(hook);
}

#[inline(always)]
pub(super) fn is_first_poll_due() -> bool {
    IS_DUE.load(Ordering::Relaxed)
}

/// Calls the hook, once. Returns a timeout of zero for the poll, because the caller may wait for something that the hook has
/// done.
#[cold]
pub(super) fn first_poll() -> io::Result<Option<Duration>> {
    refuse_inside_fork("polling for the first time")?;
    if let Some(hook) = FIRST_POLL.get().filter(|_| IS_DUE.swap(false, Ordering::Relaxed)) {
        hook();
    }
    Ok(Some(Duration::ZERO))
}
