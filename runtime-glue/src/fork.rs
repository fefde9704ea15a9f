//! [`fork`].

use std::io::{self, Write};
use std::process;
use std::time::Duration;

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkResult, SignalsBlocked};

use crate::{Child, ForkError, Lineage, before_fork, lineage, no_fork, policy, runtime, sys};

/// Which side of a fork this is.
#[derive(Debug)]
#[must_use = "both processes return from the fork: tell them apart"]
pub enum Fork {
    /// The process that called [`fork`], with its new child.
    Parent(Child),
    /// The new process.
    Child(Lineage),
}

/// Forks the process, inside a task of a current-thread tokio runtime. Returns in both processes, and both go on running
/// the same runtime.
///
/// The same as `ForkOptions::new().fork()`.
///
/// # Errors
///
/// [`ForkError`]; nothing has changed then.
///
/// # Examples
///
/// See the [crate's](crate).
pub async fn fork() -> Result<Fork, ForkError> {
    ForkOptions::new().fork().await
}

/// How to fork.
#[derive(Clone, Debug)]
pub struct ForkOptions {
    idle_threads: Duration,
}

impl Default for ForkOptions {
    fn default() -> ForkOptions {
        ForkOptions::new()
    }
}

impl ForkOptions {
    /// The longest wait that [`idle_threads`](ForkOptions::idle_threads) has unless set: tokio's blocking threads go
    /// after ten seconds without work (`Builder::thread_keep_alive`).
    pub const DEFAULT_IDLE_THREADS: Duration = Duration::from_secs(12);

    /// The defaults.
    pub fn new() -> ForkOptions {
        ForkOptions { idle_threads: ForkOptions::DEFAULT_IDLE_THREADS }
    }

    /// How long to wait for other threads to end before the fork is refused. The runtime goes on meanwhile, and must:
    /// a future that another executor drives, inside `Runtime::enter`, would wait for a runtime that does not run.
    ///
    /// Threads of the blocking pool (`spawn_blocking`, `tokio::fs`, name resolution) end after they have been idle for
    /// the runtime's `thread_keep_alive`; a child that had their count without the threads would wait for ever for the
    /// first of its own.
    pub fn idle_threads(mut self, limit: Duration) -> ForkOptions {
        self.idle_threads = limit;
        self
    }

    /// Forks; see [`fork`](crate::fork()).
    ///
    /// # Errors
    ///
    /// [`ForkError`]; nothing has changed then.
    pub async fn fork(&self) -> Result<Fork, ForkError> {
        self.fork_with(|| ()).await
    }

    /// As [`fork`](ForkOptions::fork); calls `first` in the child before anything else that may panic or wait.
    pub(crate) async fn fork_with(&self, first: impl FnOnce()) -> Result<Fork, ForkError> {
        /// How often signals are given turns of the runtime to reach their streams. More than a few means that they
        /// come faster than that, and there is no point in waiting.
        const TURNS_FOR_SIGNALS: usize = 8;

        self.ready().await?;
        runtime::tag_signal_pipes().map_err(ForkError::Inspect)?;
        let mut turns = 0;
        loop {
            let blocked = reactor::block_signals();
            if turns == TURNS_FOR_SIGNALS || !runtime::is_signal_pending() {
                return fork_now(blocked, first);
            }
            // A signal that was sent to this process is not to be delivered in the child: let its streams have it now.
            drop(blocked);
            turns += 1;
            // In the first turn the driver reads the pipe, in the second one the tasks that it woke run.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            // Tasks that ran meanwhile may have used the blocking pool.
            runtime::wait_for_threads(self.idle_threads).await?;
        }
    }

    /// Checks the runtime and waits for other threads: the part of a fork that may take its time.
    pub(crate) async fn ready(&self) -> Result<(), ForkError> {
        policy::install_defaults();
        runtime::check()?;
        runtime::wait_for_threads(self.idle_threads).await
    }
}

/// The fork itself: no task runs between this and the child's first step.
fn fork_now(blocked: SignalsBlocked, first: impl FnOnce()) -> Result<Fork, ForkError> {
    if before_fork::run_hooks()? {
        // What the caller has looked at, once more.
        runtime::tag_signal_pipes().map_err(ForkError::Inspect)?;
        if !sys::is_single_threaded().map_err(ForkError::Inspect)? {
            return Err(ForkError::Threads(sys::other_threads().map_err(ForkError::Inspect)?));
        }
    }
    // What stands in the buffers would be written by both. There is nobody to tell that it could not be written.
    let _ = io::stdout().flush();
    sys::flush_stdio();
    let parent = process::id();
    let may_inherit_stacks = sys::may_inherit_stacks();
    let prepared = reactor::prepare().map_err(ForkError::Prepare)?;
    // What the parent will need to watch the child by: that there is such a thing here, and a descriptor for it.
    let reserved = sys::watch_process(parent).map_err(ForkError::Watch)?;
    // SAFETY: this thread is the only one: it has just looked, and nobody else could have made another. Signals are
    // blocked.
    let side = unsafe { prepared.fork() }.map_err(ForkError::Fork)?;
    drop(reserved);
    match side {
        ForkResult::Parent { child } => {
            drop(blocked);
            let child = Child::adopt(child.cast_unsigned())?;
            tracing::debug!(child = child.id(), "forked");
            Ok(Fork::Parent(child))
        }
        ForkResult::Child => {
            lineage::begin(parent);
            first();
            if may_inherit_stacks && let Err(error) = sys::occupy_inherited_stacks() {
                tracing::warn!(%error, "threads of this process may be taken for those of its parent");
            }
            sys::raise_child_signal();
            drop(blocked);
            tracing::debug!(pid = process::id(), parent, "forked");
            no_fork::wake_all();
            lineage::run_hooks();
            Ok(Fork::Child(lineage::lineage()))
        }
    }
}
