//! The state of forks that the whole process shares.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::{io, ptr};

use super::descriptors::Records;
use super::foreign_pairs::SignalPipe;
use super::gate;
use super::plan::Plan;
use super::selector_core::SelectorCore;
use crate::lock::{Lock, this_thread};

/// The epoll instances of tokio on upstream mio.
///
/// Before a fork, [`adopting`](super::adopting) fills a table for each instance from the kernel's list, which is exact if the
/// process has one thread. The planner and the plan then handle the instance like a selector of this crate.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) queues: Vec<AdoptedQueue>,
    /// The signal pipe that all of these instances watch. A fork recognises the instances by the pipe. `None` until an instance
    /// is adopted, and again in the child of an unplanned fork.
    pub(super) pipe: Option<SignalPipe>,
}

#[derive(Debug)]
pub(super) struct AdoptedQueue {
    pub(super) core: &'static SelectorCore,
    /// The other descriptors of the same epoll instance.
    pub(super) duplicates: Vec<RawFd>,
}

/// The state that forks handle, besides the selectors.
#[derive(Debug)]
pub(super) struct ProcessState {
    pub(super) records: Records,
    pub(super) adopted: Adopted,
    /// Kept from fork to fork, so that a child frees nothing.
    pub(super) plan: Plan,
    /// Cores that no selector and no waker uses.
    pub(super) free_cores: Vec<&'static SelectorCore>,
}

impl ProcessState {
    pub(super) const fn new() -> ProcessState {
        let adopted = Adopted { queues: Vec::new(), pipe: None };
        ProcessState { records: Records::new(), adopted, plan: Plan::new(), free_cores: Vec::new() }
    }

    /// Returns a core that no selector and no waker uses.
    pub(super) fn take_core(&mut self) -> &'static SelectorCore {
        self.free_cores.pop().unwrap_or_else(|| {
            let core = Box::leak(Box::<SelectorCore>::default());
            core.next.store(PROCESS.cores.load(Ordering::Relaxed), Ordering::Relaxed);
            PROCESS.cores.store(ptr::from_ref(core).cast_mut(), Ordering::Release);
            core
        })
    }

    /// Discards a plan that was made ahead, if there is one, and opens the gate again.
    pub(super) fn give_up_plan(&mut self) {
        if self.plan.is_ahead {
            self.plan.clear();
            gate::open();
        }
    }
}

/// The statics that a commit writes to, on one page. The kernel must copy each page that a child writes to, which takes
/// longer than a system call.
#[repr(align(512))]
pub(super) struct Process {
    /// How many forks lie between the start of the program and this process.
    pub(super) generation: AtomicU32,
    /// The process that forked this one; 0 in generation 0.
    pub(super) parent: AtomicU32,
    /// The id of this process. A child reads it as its parent's id.
    pub(super) own_id: AtomicU32,
    /// Whether another process may have duplicates of this process's descriptors. The kernel forgets a registration only
    /// when the last duplicate is closed. The parent of an unplanned fork does not notice the fork, so this may stay
    /// `false` in that parent.
    pub(super) has_relatives: AtomicBool,
    /// The thread that is between prepare and the end of a fork, or reconciles; 0: none.
    pub(super) forking: AtomicUsize,
    /// All cores, in use or not. The list only grows, by one store at a time, so that it can be read at any moment.
    cores: AtomicPtr<SelectorCore>,
    /// The id of the newest selector. It is not in `state`: a child that has lost the state must not use an id again.
    pub(super) last_id: AtomicU64,
    /// A thread holds this lock to keep forks waiting. A fork holds it from prepare to its end.
    pub(super) hold: Lock<()>,
    /// A fork holds this lock from prepare to its end, so the child's only thread holds the lock from the start.
    pub(super) state: Lock<ProcessState>,
}

const _: () = assert!(size_of::<Process>() == align_of::<Process>());

pub(super) static PROCESS: Process = Process {
    generation: AtomicU32::new(0),
    parent: AtomicU32::new(0),
    own_id: AtomicU32::new(0),
    has_relatives: AtomicBool::new(false),
    forking: AtomicUsize::new(0),
    cores: AtomicPtr::new(ptr::null_mut()),
    last_id: AtomicU64::new(0),
    hold: Lock::new(()),
    state: Lock::new(ProcessState::new()),
};

pub(super) fn generation() -> u32 {
    PROCESS.generation.load(Ordering::Relaxed)
}

pub(super) fn next_id() -> u64 {
    PROCESS.last_id.fetch_add(1, Ordering::Relaxed) + 1
}

/// Lists the selectors that exist, except those that were retired before this process was forked.
pub(super) fn selectors() -> impl Iterator<Item = &'static SelectorCore> + Clone {
    fn get(link: &AtomicPtr<SelectorCore>) -> Option<&'static SelectorCore> {
        // SAFETY: `link` is null or points to a core that `take_core` has leaked.
        unsafe { link.load(Ordering::Acquire).as_ref() }
    }
    let is_in_use = |core: &&SelectorCore| core.exists() && !(core.is_retired() && core.is_poisoned());
    std::iter::successors(get(&PROCESS.cores), |core| get(&core.next)).filter(is_in_use)
}

/// Starts fork detection, unless it has started.
pub(super) fn start() -> io::Result<()> {
    if !gate::has_started() {
        // A child that was forked while its parent started fork detection needs its parent's id until it has reconciled.
        if gate::state() != gate::WIPED {
            PROCESS.own_id.store(crate::sys::process::id(), Ordering::Relaxed);
        }
        gate::start()?;
    }
    Ok(())
}

/// Whether the calling thread is between prepare and the end of a fork, or reconciles.
pub(super) fn is_forking_here() -> bool {
    PROCESS.forking.load(Ordering::Relaxed) == this_thread()
}

/// Checks that the calling thread is not between prepare and the end of a fork.
pub(super) fn refuse_inside_fork(doing: &str) -> io::Result<()> {
    if is_forking_here() {
        let text = format!("this thread is between prepare and commit or abort of a fork: end the fork before {doing}");
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// In the child, counts the fork and notes the parent, so that the child may fork in turn. Async-signal-safe.
pub(super) fn begin_generation() {
    PROCESS.parent.store(PROCESS.own_id.load(Ordering::Relaxed), Ordering::Relaxed);
    PROCESS.own_id.store(crate::sys::process::id(), Ordering::Relaxed);
    PROCESS.has_relatives.store(true, Ordering::Relaxed);
    PROCESS.generation.fetch_add(1, Ordering::Relaxed);
}
