//! [`fork`].

use std::io::{self, Write};
use std::mem;
use std::process;
use std::time::Duration;

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkResult, SignalsBlocked};

use tokio::runtime::Handle;

use crate::rest::Resting;
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
        #[cfg(feature = "atfork")]
        crate::atfork::settle_in();
        policy::install_defaults();
        runtime::check()?;
        runtime::wait_for_threads(self.idle_threads).await
    }
}

/// Makes now what the next fork of this process would make first, and keeps it for that: for whoever waits until a process has
/// to be replaced, as [`Prefork`](crate::Prefork) does by itself. That fork then costs little more than `fork(2)`.
///
/// Whatever changes what a child is to have gives it up, as an I/O object that comes or goes, and the fork makes all anew. So
/// do it last, and again after each fork; see [`forkio_reactor::fork::prepare_ahead`] for what changes it, and what it costs
/// meanwhile. Inside a runtime it is for [`fork`], outside for [`fork_with_threads`].
///
/// # Errors
///
/// As [`fork`], but for other threads, which may be gone by then. Nothing has changed. A program has nothing to do about it: the
/// fork will tell, should it meet with the same.
///
/// # Examples
///
/// ```no_run
/// use forkio::Fork;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let Fork::Parent(mut child) = forkio::fork().await? else { return Ok(()) };
/// loop {
///     // Waiting would do it, too late.
///     child.watch()?;
///     let _may_fail = forkio::prepare_ahead();
///     child.wait().await?;
///     match forkio::fork().await? {
///         Fork::Parent(next) => child = next,
///         Fork::Child(_) => return Ok(()),
///     }
/// }
/// # }
/// ```
pub fn prepare_ahead() -> Result<(), ForkError> {
    #[cfg(feature = "atfork")]
    crate::atfork::settle_in();
    policy::install_defaults();
    if Handle::try_current().is_ok() {
        runtime::check()?;
    }
    runtime::tag_signal_pipes().map_err(ForkError::Inspect)?;
    reactor::prepare_ahead().map_err(ForkError::Prepare)
}

/// Forks a process that may have any number of threads, outside of any runtime: for the use of
/// [`ProcessRuntime`](crate::ProcessRuntime). Returns in both processes.
///
/// The child has one thread, the calling one; runtimes that other threads drove do not go on in it, nor do
/// [`no_fork`](crate::no_fork()) futures resolve there.
///
/// What can be in order at the fork is: standard output and error, the locks of this crate, and the workers of
/// multi-threaded runtimes in a `ProcessRuntime`, which rest between two polls of their tasks. (Those that do not come to
/// rest within 50 milliseconds are not waited for: they are in a long poll, and not in the runtime.) glibc and musl see to
/// their allocators. What is not: a connection that another thread has accepted and not registered yet, or deregistered
/// and not closed yet, stays open in the child. And where another thread was just starting or ending, the standard library may
/// have a lock left with which no thread starts in the child: its runtime is
/// [`InheritedLock`](crate::RuntimeError::InheritedLock) then, after some seconds.
///
/// # Errors
///
/// [`ForkError`]; nothing has changed then.
///
/// # Safety
///
/// A lock that another thread held at the fork is locked in the child for ever, and what it guards may be half changed. The
/// child must not wait for one, nor use data that another thread may have been changing; that concerns libraries too
/// (signal-safety(7)).
///
/// # Examples
///
/// ```no_run
/// use forkio::{Fork, ProcessRuntime};
/// use tokio::runtime::Builder;
///
/// static RUNTIME: ProcessRuntime = ProcessRuntime::new(|| Builder::new_multi_thread().enable_all().build());
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// RUNTIME.spawn(async { /* serve */ })?;
/// // SAFETY: the child uses nothing but the runtime that it builds, and exits.
/// match unsafe { forkio::fork_with_threads()? } {
///     Fork::Parent(mut child) => println!("{}", RUNTIME.block_on(child.wait())??),
///     Fork::Child(_) => {
///         RUNTIME.block_on(async { /* other work */ })?;
///         std::process::exit(0);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub unsafe fn fork_with_threads() -> Result<Fork, ForkError> {
    if Handle::try_current().is_ok() {
        return Err(ForkError::InsideRuntime);
    }
    runtime::check_locks()?;
    policy::install_defaults();
    before_fork::run_hooks()?;
    runtime::tag_signal_pipes().map_err(ForkError::Inspect)?;
    let resting = Resting::begin();
    let mut stdout = io::stdout().lock();
    let stderr = io::stderr().lock();
    let locks = (runtime::signal_pipes(), before_fork::hooks(), lineage::hooks(), no_fork::waiting());
    let blocked = reactor::block_signals();
    let _ = stdout.flush();
    let prepared = reactor::prepare().map_err(ForkError::Prepare)?;
    let reserved = sys::reserve_watch().map_err(ForkError::Watch)?;
    // SAFETY: the caller's promise is the same, and signals are blocked.
    let side = unsafe { prepared.fork() }.map_err(ForkError::Fork)?;
    drop((reserved, locks, stdout, stderr));
    match side {
        ForkResult::Parent { child } => {
            drop((resting, blocked));
            let child = Child::adopt(child.cast_unsigned())?;
            tracing::debug!(child = child.id(), "forked");
            Ok(Fork::Parent(child))
        }
        ForkResult::Child => {
            mem::forget(resting);
            drop(blocked);
            lineage::settle_in(false);
            Ok(Fork::Child(lineage::lineage()))
        }
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
    let reserved = sys::reserve_watch().map_err(ForkError::Watch)?;
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
            lineage::begin_alone();
            first();
            if may_inherit_stacks
                && let Err(error) = sys::occupy_inherited_stacks().and_then(|()| sys::wait_until_single_threaded())
            {
                tracing::warn!(%error, "threads of this process may be taken for those of its parent");
            }
            sys::raise_child_signal();
            drop(blocked);
            tracing::debug!(pid = process::id(), parent, "forked");
            lineage::settle_in(true);
            Ok(Fork::Child(lineage::lineage()))
        }
    }
}
