//! Forks: [`fork`] and [`fork_with_threads`].

use std::convert::Infallible;
use std::io::{self, Write};
use std::mem;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::{ForkResult, SignalsBlocked, glue};

use tokio::runtime::Handle;

use crate::paused_workers::PausedWorkers;
use crate::sys::PerProcess;
use crate::{Child, ForkError, Lineage, before_fork, lineage, parent_only, policy, runtime, sys};

/// The side of a fork that this process is on.
#[derive(Debug)]
#[must_use = "both processes return from the fork: tell them apart"]
pub enum Fork {
    /// The process that forked, with its new child.
    Parent(Child),
    /// The new process.
    Child(Lineage),
}

/// Forks the process, inside a task of a current-thread tokio runtime. Returns in both processes, and both continue the
/// runtime.
///
/// If the process has other threads, `fork` waits up to 12 seconds for them to end. An idle thread of `spawn_blocking` or
/// `tokio::fs` ends after ten seconds. [`ForkOptions::wait_for_threads`] sets another limit.
///
/// # Errors
///
/// [`ForkError`]. No child exists then, and the parent continues as before.
///
/// # Cancel safety
///
/// If the future is dropped before it resolves, there was no fork.
///
/// # Fork
///
/// Both processes run every task of the runtime. [What the child has](crate#what-the-child-has) says what becomes of I/O
/// objects, timers and signals.
///
/// # Examples
///
/// ```no_run
/// use forkio::Fork;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// match forkio::fork().await? {
///     Fork::Parent(mut child) => println!("{} ended: {}", child.id(), child.wait().await?),
///     Fork::Child(_) => drop(listener.accept().await?),
/// }
/// # Ok(())
/// # }
/// ```
pub async fn fork() -> Result<Fork, ForkError> {
    ForkOptions::new().fork().await
}

/// Options for forking a current-thread runtime.
///
/// # Examples
///
/// ```no_run
/// use forkio::{Fork, ForkOptions};
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), forkio::ForkError> {
/// if let Fork::Child(lineage) = ForkOptions::new().wait_for_threads(Duration::from_secs(60)).fork().await? {
///     println!("generation {}", lineage.generation());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `fork` is called"]
pub struct ForkOptions {
    wait_for_threads: Duration,
}

impl Default for ForkOptions {
    fn default() -> ForkOptions {
        ForkOptions::new()
    }
}

impl ForkOptions {
    /// Creates options with the defaults.
    pub fn new() -> ForkOptions {
        ForkOptions { wait_for_threads: Duration::from_secs(12) }
    }

    /// Sets how long `fork` waits for other threads to end before it returns an error. The default is 12 seconds.
    ///
    /// Threads of the blocking pool (`spawn_blocking`, `tokio::fs`, name resolution) end after they have been idle for the
    /// runtime's `thread_keep_alive`, which is ten seconds unless set. The child would not have them, and would wait forever
    /// for the first work that it gives to such a thread.
    ///
    /// The runtime must run meanwhile. A future that another executor drives, inside `Runtime::enter`, does not resolve.
    pub fn wait_for_threads(mut self, limit: Duration) -> ForkOptions {
        self.wait_for_threads = limit;
        self
    }

    pub(crate) fn thread_limit(&self) -> Duration {
        self.wait_for_threads
    }

    /// Forks; see [`fork`](crate::fork()).
    ///
    /// # Errors
    ///
    /// Those of [`fork`](crate::fork()).
    pub async fn fork(&self) -> Result<Fork, ForkError> {
        self.fork_with(|| ()).await
    }

    /// Forks like [`fork`](ForkOptions::fork). The child calls `first` before any code that may panic or wait.
    pub(crate) async fn fork_with(&self, first: impl FnOnce()) -> Result<Fork, ForkError> {
        /// How many times a fork lets the runtime deliver pending signals. If a signal is pending even then, signals arrive
        /// faster than the runtime delivers them.
        const ROUNDS_FOR_SIGNALS: usize = 8;
        /// How many signals had reached their tasks at the last fork. The driver may have read later signals in the last
        /// turn of the runtime, and woken tasks that have not run yet.
        static DELIVERED: AtomicUsize = AtomicUsize::new(0);

        self.ready().await?;
        let mut delivered = DELIVERED.load(Ordering::Relaxed);
        let mut rounds = 0;
        loop {
            let blocked = reactor::block_signals();
            let handled = glue::unregistered_writes();
            if rounds == ROUNDS_FOR_SIGNALS || (handled == delivered && !runtime::is_signal_pending()) {
                DELIVERED.store(handled, Ordering::Relaxed);
                return fork_now(blocked, first);
            }
            // Let the streams of this process receive the signal now, because the child must not get it.
            drop(blocked);
            delivered = handled;
            rounds += 1;
            // In the first turn the driver reads the pipe. In the second turn, the woken tasks run.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            // Tasks that ran meanwhile may have used the blocking pool.
            runtime::wait_for_threads(self.wait_for_threads).await?;
        }
    }

    /// Forks like [`fork_with`](ForkOptions::fork_with), but runs no task first. Call it only in a process that was just
    /// forked, and has one thread.
    pub(crate) fn fork_at_once(&self, first: impl FnOnce()) -> Result<Fork, ForkError> {
        fork_now(reactor::block_signals(), first)
    }

    /// Checks the runtime and waits for other threads: the part of a fork that may take long.
    pub(crate) async fn ready(&self) -> Result<(), ForkError> {
        policy::install_defaults();
        runtime::check()?;
        runtime::wait_for_threads(self.wait_for_threads).await
    }
}

/// Prepares the next fork in advance, so that it costs little more than `fork(2)`.
///
/// Registering or dropping an I/O object discards the preparation, so a supervisor calls this last. See
/// [`forkio_reactor::fork::prepare_ahead`].
pub(crate) fn prepare_ahead() -> Result<(), ForkError> {
    policy::install_defaults();
    if Handle::try_current().is_ok() {
        runtime::check()?;
    }
    reactor::prepare_ahead().map_err(ForkError::Prepare)
}

/// Forks a process that may have any number of threads, outside of any runtime. Returns in both processes.
///
/// The child has only the calling thread. It cannot continue the runtimes of other threads, but it can build new ones:
/// see [`ProcessRuntime`](crate::ProcessRuntime).
///
/// # Errors
///
/// [`ForkError`]. No child exists then, and the parent continues as before.
///
/// # Safety
///
/// A lock that another thread held at the fork stays locked in the child forever, and the data that it guards may be half
/// changed. The child must not wait for such a lock or use such data, directly or through a library (signal-safety(7)).
///
/// # Fork
///
/// The following works in the child: standard output and error, the locks of this crate, the allocators of glibc and
/// musl, and the locks of multi-threaded runtimes in a `ProcessRuntime`. The workers of these runtimes pause between two
/// polls of their tasks, unless a poll takes longer than 50 milliseconds. They continue after two seconds in any case: a
/// thread that holds the lock of standard output, which the fork needs, may wait for their tasks.
///
/// Three failures are possible:
///
/// - If the calling thread holds the lock of standard output or error while another thread calls this function too,
///   both threads wait forever.
/// - A connection that another thread has accepted and not registered yet, or deregistered and not closed yet, stays open in
///   the child.
/// - If another thread was just starting or ending, the child may be unable to start threads. Its first use of a
///   `ProcessRuntime` then returns [`InheritedLock`](crate::RuntimeError::InheritedLock) after ten seconds.
///
/// [`parent_only`](crate::parent_only()) futures do not resolve in the child.
///
/// ## Locks of `parking_lot`
///
/// tokio with the feature `full` uses these locks. The child [keeps the stacks](crate::ProcessRuntime#parking_lot) of the
/// parent's waiting threads, so their entries in the library's list are harmless. Three cases remain:
///
/// - **A part of the list is locked** if another thread was adding or removing an entry at the instant of the fork. Such a
///   lock is held for nanoseconds, and not by a worker that pauses. In the child, threads that need this part wait forever, as
///   for every lock that another thread held. No error reports this. Forks made by other code pause no workers, so this
///   happens more often in their children.
/// - **A lock that the calling thread holds**, while other threads wait for it, may be handed to one of these threads when
///   the child unlocks it. The lock then stays locked. Unlock it before the fork.
/// - **A condition variable that other threads wait for** wakes one of these threads first. Use condition variables that the
///   child has created.
///
/// # Platforms
///
/// With tokio's feature `parking_lot`: Linux, under glibc on x86_64. Other systems return [`ForkError::ParkingLot`].
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
    /// Held from the hooks to the fork. Without this lock, another fork would find no hooks while they run here.
    static FORKING: PerProcess<Mutex<()>> = PerProcess::new();

    if Handle::try_current().is_ok() {
        return Err(ForkError::InsideRuntime);
    }
    let can_keep_stacks = match sys::prepare_to_keep_stacks() {
        Err(error) if runtime::uses_parking_lot() => return Err(ForkError::ParkingLot(error)),
        result => result.is_ok(),
    };
    policy::install_defaults();
    let Ok(forking) = FORKING.get_or_try_make::<Infallible>(sys::process_key, || Ok(Mutex::new(()))) else {
        unreachable!("making a lock does not fail, and needs no other lock")
    };
    let forking = forking.lock().unwrap_or_else(PoisonError::into_inner);
    before_fork::run_hooks()?;
    let paused = PausedWorkers::pause();
    let mut stdout = io::stdout().lock();
    let stderr = io::stderr().lock();
    let locks = (runtime::signal_pipes(), before_fork::HOOKS.lock(), lineage::HOOKS.lock(), parent_only::waiters());
    let blocked = reactor::block_signals();
    let _ = stdout.flush();
    let prepared = reactor::prepare().map_err(ForkError::Prepare)?;
    let reserved = sys::reserve_watch().map_err(ForkError::Watch)?;
    // SAFETY: the caller has made the same promise, and signals are blocked.
    let side = unsafe { prepared.fork() }.map_err(ForkError::Fork)?;
    drop((reserved, locks, stdout, stderr, forking));
    match side {
        ForkResult::Parent { child } => {
            let child = Child::adopt(child)?;
            drop((paused, blocked));
            tracing::debug!(child = child.id(), "forked");
            Ok(Fork::Parent(child))
        }
        ForkResult::Child => {
            mem::forget(paused);
            if can_keep_stacks {
                // The child must keep the stacks before it starts a thread. After an error, `ProcessRuntime` tries again, and
                // returns its own error.
                let _ = sys::keep_inherited_stacks();
            }
            drop(blocked);
            lineage::finish_fork(false);
            Ok(Fork::Child(Lineage::current()))
        }
    }
}

/// Runs the hooks, and forks. No task runs between the hooks and the child's call of `first`.
fn fork_now(blocked: SignalsBlocked, first: impl FnOnce()) -> Result<Fork, ForkError> {
    if before_fork::run_hooks()? && !sys::is_single_threaded().map_err(ForkError::Inspect)? {
        return Err(ForkError::Threads(sys::other_threads().map_err(ForkError::Inspect)?));
    }
    // Without this, both processes would write the buffered bytes. An error must not prevent the fork.
    let _ = io::stdout().flush();
    sys::flush_stdio();
    let parent = process::id();
    let may_inherit_stacks = sys::may_inherit_stacks();
    let prepared = reactor::prepare().map_err(ForkError::Prepare)?;
    // If the parent cannot watch the child, fail before the fork.
    let reserved = sys::reserve_watch().map_err(ForkError::Watch)?;
    // SAFETY: the caller has found no other thread, or this process was just forked. Hooks have started no thread, and signals
    // are blocked.
    let side = unsafe { prepared.fork() }.map_err(ForkError::Fork)?;
    drop(reserved);
    match side {
        ForkResult::Parent { child } => {
            // Watch the child before signals are unblocked: a handler of SIGCHLD may reap it.
            let child = Child::adopt(child)?;
            drop(blocked);
            tracing::debug!(child = child.id(), "forked");
            Ok(Fork::Parent(child))
        }
        ForkResult::Child => {
            lineage::note_single_threaded_parent();
            first();
            if may_inherit_stacks {
                if let Err(error) = sys::occupy_inherited_stacks().and_then(|()| sys::wait_until_single_threaded()) {
                    tracing::warn!(%error, "cannot occupy the stacks of the parent's threads: joining one of these threads may hang");
                }
            }
            sys::raise_child_signal();
            drop(blocked);
            tracing::debug!(pid = process::id(), parent, "forked");
            lineage::finish_fork(true);
            Ok(Fork::Child(Lineage::current()))
        }
    }
}
