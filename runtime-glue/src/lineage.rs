//! The lineage of a process, and hooks that run in children.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use forkio_reactor::fork::{generation, parent};

use crate::hooks::Hooks;
use crate::{parent_only, policy};

/// The position of this process in a tree of forks.
///
/// # Examples
///
/// ```
/// use forkio::Lineage;
///
/// let lineage = Lineage::current();
/// assert_eq!((lineage.generation(), lineage.parent(), lineage.worker()), (0, None, None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    generation: u32,
    parent: Option<u32>,
    worker: Option<usize>,
}

impl Lineage {
    /// Returns the lineage of this process.
    ///
    /// From the first call on, children of unplanned forks follow this crate's policies.
    pub fn current() -> Lineage {
        policy::install_defaults();
        let generation = generation();
        // A process that a worker forks is not a worker.
        let worker = (WORKER_GENERATION.load(Ordering::Relaxed) == generation).then(|| WORKER.load(Ordering::Relaxed));
        Lineage { generation, parent: parent(), worker: worker.and_then(|number| number.checked_sub(1)) }
    }

    /// Returns the number of forks between this process and the first process of its program, which is generation 0.
    ///
    /// A process in between that used neither a runtime nor this crate does not count, such as the middle one of a daemon's
    /// double fork. After [`atfork::install`](crate::atfork::install) every fork counts.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the process id of the process that forked this one, even if that process has ended. `None` in generation 0.
    ///
    /// Like [`generation`](Lineage::generation), this skips a process that used neither a runtime nor this crate.
    pub fn parent(&self) -> Option<u32> {
        self.parent
    }

    /// Returns the index, from 0, of this worker of a [`Prefork`](crate::prefork::Prefork) server. `None` in other processes.
    pub fn worker(&self) -> Option<usize> {
        self.worker
    }
}

/// The index plus 1 of this worker, or of the worker that forked this process or its ancestor. 0 in other processes.
static WORKER: AtomicUsize = AtomicUsize::new(0);

/// The generation of the worker. In any other generation, [`WORKER`] is an ancestor's.
static WORKER_GENERATION: AtomicU32 = AtomicU32::new(0);

/// The generation of this process, if each of its ancestors had one thread when it forked.
static SINGLE_THREADED: AtomicU32 = AtomicU32::new(0);

/// Records, in the child, that the parent had one thread.
pub(crate) fn note_single_threaded_parent() {
    let generation = generation();
    // If another ancestor had threads, this process has inherited the state of those threads.
    let parent = generation.wrapping_sub(1);
    let _ = SINGLE_THREADED.compare_exchange(parent, generation, Ordering::Relaxed, Ordering::Relaxed);
}

/// Whether each ancestor of this process had one thread when it forked. `false` if that is not known.
pub(crate) fn ancestors_were_single_threaded() -> bool {
    SINGLE_THREADED.load(Ordering::Relaxed) == generation()
}

pub(crate) fn set_worker(index: usize) {
    WORKER.store(index + 1, Ordering::Relaxed);
    WORKER_GENERATION.store(generation(), Ordering::Relaxed);
}

type Hook = Box<dyn FnMut(&Lineage) + Send>;

pub(crate) static HOOKS: Hooks<Hook> = Hooks::new();

/// Calls `hook` in every child that this process forks from now on, and in their children.
///
/// Reseed generators in a hook, reopen files that must not be shared, and forget a cached process id. When hooks run, the child
/// has its own selectors. Hooks run in the order of registration.
///
/// In the child of [`fork`](crate::fork()) or [`fork_with_threads`](crate::fork_with_threads()), hooks run before the call
/// returns, in the only thread. In the child of a fork made by other code, they run in the first turn of a runtime, or before
/// that when a [`ProcessRuntime`](crate::ProcessRuntime) builds one. The child may have started threads by then. Those that use a
/// `ProcessRuntime` wait for the hooks, so a hook must not wait for them. If a hook forks, no hooks run in that child.
///
/// [`guide::copied`](crate::guide::copied) lists the state that both processes have in common unless a hook changes it.
///
/// # Panics
///
/// A panic in a hook propagates, in the child, from the call that runs the hook, such as `fork().await`. A
/// [`Prefork`](crate::prefork::Prefork) worker then exits with code 101.
///
/// # Examples
///
/// ```
/// forkio::on_child(|lineage| {
///     // With rand 0.9 or 0.10. Each thread has its own generator, and only this thread has inherited one.
///     rand::rng().reseed().expect("random numbers from the system");
///     tracing::info!(generation = lineage.generation(), "a fresh process");
/// });
/// ```
pub fn on_child(hook: impl FnMut(&Lineage) + Send + 'static) {
    policy::install_defaults();
    HOOKS.lock().push(Box::new(hook));
}

/// Finishes a fork in the child, once: wakes [`ParentOnly`](crate::ParentOnly) futures, and runs the hooks. If the parent had
/// other threads, wakes only the futures of this thread.
pub(crate) fn finish_fork(parent_was_single_threaded: bool) {
    static FINISHED: AtomicU32 = AtomicU32::new(0);
    if FINISHED.swap(generation(), Ordering::Relaxed) == generation() {
        return;
    }
    if parent_was_single_threaded {
        parent_only::wake_all();
    } else {
        parent_only::wake_own();
        if HOOKS.is_locked() {
            tracing::warn!("hooks of `on_child` do not run: a thread of the parent was registering one at the fork");
            return;
        }
    }
    let lineage = Lineage::current();
    HOOKS.run(|hooks| hooks.iter_mut().for_each(|hook| hook(&lineage)));
}
