//! Which process this is.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use forkio_reactor::fork::{generation, parent};

use crate::no_fork;

/// Which process this is in a tree of forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    generation: u32,
    parent: Option<u32>,
    worker: Option<usize>,
}

impl Lineage {
    /// How many forks lie between this process and the one that its program started as: 0 there.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The process id of the process that forked this one, also when that has ended since; `None` in the first one.
    pub fn parent(&self) -> Option<u32> {
        self.parent
    }

    /// The index, from 0, of the [`Prefork`](crate::Prefork) worker that this process is.
    pub fn worker(&self) -> Option<usize> {
        self.worker
    }
}

/// The worker's index plus 1, 0 for none, and the generation of the process that it is.
static WORKER: AtomicUsize = AtomicUsize::new(0);
static WORKER_GENERATION: AtomicU32 = AtomicU32::new(0);

/// Which process this is.
pub fn lineage() -> Lineage {
    let generation = generation();
    // A worker's child is none, whoever has forked it.
    let worker = (WORKER_GENERATION.load(Ordering::Relaxed) == generation).then(|| WORKER.load(Ordering::Relaxed));
    Lineage { generation, parent: parent(), worker: worker.and_then(|number| number.checked_sub(1)) }
}

/// The generation up to which each of this process's ancestors is known to have had no other thread when it forked.
static ALONE: AtomicU32 = AtomicU32::new(0);

/// In the child: the parent had no other thread.
pub(crate) fn begin_alone() {
    let generation = generation();
    // Otherwise an ancestor had threads, and what they left in memory is here too.
    let _ = ALONE.compare_exchange(generation.wrapping_sub(1), generation, Ordering::Relaxed, Ordering::Relaxed);
}

/// Whether no ancestor of this process had other threads when it forked. `false` says nothing.
pub(crate) fn was_alone() -> bool {
    ALONE.load(Ordering::Relaxed) == generation()
}

pub(crate) fn set_worker(index: usize) {
    WORKER.store(index + 1, Ordering::Relaxed);
    WORKER_GENERATION.store(generation(), Ordering::Relaxed);
}

pub(crate) type Hook = Box<dyn FnMut(&Lineage) + Send>;

static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// Calls `hook` in every child that [`fork`](crate::fork()) makes from now on, in their children too, before `fork`
/// returns there; in order of registration. In a child that others have forked it runs in the first turn of a runtime, if
/// [`atfork`](crate::atfork) is installed.
///
/// The place to reseed what must differ between processes, to reopen what must not be shared, to forget caches of the
/// process id. The child's selectors are its own when hooks run, and it has one thread. A panic in a hook comes out of
/// the `fork().await` in the child; a [`Prefork`](crate::Prefork) worker exits with it.
///
/// # What is the same in both processes and should not be
///
/// - Generators in memory, as `rand`'s thread-local one: both processes draw the same numbers, session keys included.
///   Reseed them here, as below.
/// - The keys of `HashMap`'s default hasher, and the order in which `tokio::select!` looks at its branches: nothing can
///   reseed these. Do not hand the keys out, and use `biased;` where the order matters.
/// - Open transactions, pooled connections and their buffers: the sockets are severed in the child, so what uses them
///   finds them closed.
///
/// More of it, with what to do, is in [`guide::copied`](crate::guide::copied).
///
/// # Examples
///
/// ```
/// forkio::on_child(|lineage| {
///     // rand 0.9 and 0.10. A hook runs on the child's one thread, so this is the one generator to reseed.
///     rand::rng().reseed().expect("random numbers from the system");
///     tracing::info!(generation = lineage.generation(), "a fresh process");
/// });
/// ```
pub fn on_child(hook: impl FnMut(&Lineage) + Send + 'static) {
    hooks().push(Box::new(hook));
}

pub(crate) fn hooks() -> std::sync::MutexGuard<'static, Vec<Hook>> {
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a child, once: wakes the futures that are to find out, unless they may be those of a runtime whose threads are not
/// here, and runs the hooks.
pub(crate) fn settle_in(was_alone: bool) {
    static SETTLED: AtomicU32 = AtomicU32::new(0);
    if SETTLED.swap(generation(), Ordering::Relaxed) != generation() {
        if was_alone {
            no_fork::wake_all();
        } else if let Err(TryLockError::WouldBlock) = HOOKS.try_lock() {
            // One of those threads was about to register another one.
            tracing::warn!("hooks of `on_child` do not run: they are locked by a thread that was not forked");
            return;
        }
        run_hooks();
    }
}

fn run_hooks() {
    /// Puts the hooks back, also when one of them panics.
    struct Running(Vec<Hook>);

    impl Drop for Running {
        fn drop(&mut self) {
            let mut hooks = hooks();
            self.0.append(&mut hooks);
            *hooks = std::mem::take(&mut self.0);
        }
    }

    // Out of the lock while they run: a hook may register another one, for the next fork.
    let mut running = Running(std::mem::take(&mut *hooks()));
    let lineage = lineage();
    for hook in &mut running.0 {
        hook(&lineage);
    }
}
