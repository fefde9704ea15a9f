//! [`ProcessRuntime`]: a runtime of any flavour, one per process.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use forkio_reactor::fork::{InheritedState, glue};
use tokio::runtime::{Handle, Id, Runtime};
use tokio::task::JoinHandle;

use crate::sys::{self, NotMade, PerProcess};
use crate::{ForkError, lineage, paused_workers, policy, runtime};

/// A runtime that each process builds for itself, on first use: for processes that have threads when they fork.
///
/// A multi-threaded runtime cannot continue in a child, because its threads stay in the parent. `ProcessRuntime` holds
/// the runtime together with the function that builds it. In a child, `ProcessRuntime` leaves the inherited runtime
/// alone, and builds another one on first use. A `ProcessRuntime` may be a `static`, and belong to a library or an
/// extension module.
///
/// # Fork
///
/// Any fork works: [`fork_with_threads`](crate::fork_with_threads()), or a fork made by other code. The child leaks the
/// inherited runtime, because dropping it would wait for threads that the child does not have. The tasks of the
/// inherited runtime do not continue. Its I/O objects follow their [policies](crate::set_policy): connections are
/// severed, so that their peers see the end when the parent closes them, and listeners stay open.
///
/// - **A listener** that the child should serve too: keep it as a [`std::net::TcpListener`], and give each runtime a
///   `try_clone`. Set the policy [`Sever`](crate::ForkPolicy::Sever) for a listener that the child must not hold open.
/// - **Signals** reach the streams of the process that they were sent to. A signal that the parent has received by the time of
///   the fork is not delivered in the child.
/// - **Closed descriptors**: a daemon may close all descriptors that it does not know, before it uses this runtime. The
///   first use then makes tokio's signal pipe again, at the same descriptors. If the daemon has opened other files at
///   these descriptors, the first use returns [`RuntimeError::SignalPipe`]. But if both descriptors are ends of
///   non-blocking Unix socket pairs, forkio mistakes them for a signal pipe of tokio: use this runtime before you open
///   such pairs. Call [`atfork::install`](crate::atfork::install) before the fork, so that the child reconciles while
///   it has the parent's descriptors.
/// - **Handles of the inherited runtime** must not be used in the child: spawning and aborting take a lock of that runtime,
///   which a thread of the parent may have held. So does dropping an I/O object, a timer or a `JoinSet`: pass these to
///   `mem::forget`. Dropping a `JoinHandle` or a `Handle` is harmless.
///
/// Without [the patch](crate#the-patch), the child of a fork that other code makes severs connections only when it
/// first uses this runtime. After [`atfork::install`](crate::atfork::install) it severs them inside the fork, while the
/// parent continues. In both cases, a connection stays open in the child if the parent closes it before the child
/// severs it. Its peer then does not see the end.
///
/// Some locks of tokio belong to the process: those of the signal streams, of the first stream for a signal
/// (`signal-hook-registry`), and of dropped `tokio::process::Child` handles.
/// [`fork_with_threads`](crate::fork_with_threads()) pauses the runtime's workers, so that they hold none of these
/// locks. Other threads may hold such a lock for nanoseconds, and so may workers at forks made by other code. If a
/// thread held the lock of the signal streams at the fork, the child's first use returns
/// [`RuntimeError::InheritedLock`]. No error reports the other two: a child that needs such a lock waits forever, such
/// as when it creates the first stream for a signal.
///
/// ## `parking_lot`
///
/// tokio's feature `parking_lot` is part of `full`. `parking_lot` lists all waiting threads of the process, by addresses in
/// their stacks. A child has the list without the threads, and glibc would give their stacks to new threads. So the child
/// keeps the stacks of all threads that the parent had, of any library: inside
/// [`fork_with_threads`](crate::fork_with_threads()), or when it first uses a `ProcessRuntime`. After a fork that other code
/// makes, use the runtime before the child starts other threads, or call [`atfork::install`](crate::atfork::install) in the
/// parent. [`fork_with_threads`](crate::fork_with_threads#locks-of-parking_lot) lists the cases that remain a risk.
///
/// # Platforms
///
/// Children keep stacks on Linux, under glibc on x86_64, with `/proc` mounted. Elsewhere, `fork_with_threads` and a
/// `ProcessRuntime` in the child of a process with threads return [`ForkError::ParkingLot`] if tokio has that feature. On
/// these systems, build tokio without `parking_lot` and `full`.
///
/// # Examples
///
/// ```
/// use forkio::ProcessRuntime;
/// use std::time::Duration;
/// use tokio::runtime::Builder;
///
/// static RUNTIME: ProcessRuntime = ProcessRuntime::new(|| Builder::new_multi_thread().enable_all().build());
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let task = RUNTIME.spawn(async { 6 * 7 })?;
/// assert_eq!(RUNTIME.block_on(task)??, 42);
/// RUNTIME.shutdown_timeout(Duration::from_secs(1));
/// # Ok(())
/// # }
/// ```
pub struct ProcessRuntime<F = fn() -> io::Result<Runtime>> {
    build: F,
    current: PerProcess<Current>,
}

struct Current {
    id: Id,
    /// `None` when the runtime has been shut down.
    runtime: Mutex<Option<Arc<Runtime>>>,
}

impl Current {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Runtime>>> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> ProcessRuntime<F> {
    /// Creates a `ProcessRuntime`. Each process that uses it calls `build` once. The runtime that `build` returns needs an I/O
    /// driver (`enable_all` or `enable_io`).
    pub const fn new(build: F) -> ProcessRuntime<F> {
        ProcessRuntime { build, current: PerProcess::new() }
    }

    /// Shuts down the runtime of this process, if there is one; see [`Runtime::shutdown_timeout`]. The next use builds another
    /// one.
    ///
    /// If other threads are inside [`block_on`](ProcessRuntime::block_on), their futures continue. The runtime then shuts down
    /// when the last of these calls returns, without waiting for blocking tasks.
    ///
    /// # Panics
    ///
    /// If it shuts the runtime down inside a task or a `block_on` call of any runtime, like [`Runtime::shutdown_timeout`].
    pub fn shutdown_timeout(&self, limit: Duration) {
        if let Some(runtime) = self.take() {
            runtime.shutdown_timeout(limit);
        }
    }

    /// Takes the runtime of this process, unless it is in use.
    fn take(&self) -> Option<Runtime> {
        let current = self.current.forget(sys::process_key())?;
        paused_workers::remove(current.id);
        Arc::into_inner(current.lock().take()?)
    }
}

impl<F: Fn() -> io::Result<Runtime>> ProcessRuntime<F> {
    /// Returns a handle of the runtime of this process. The first call in a process builds the runtime, and concurrent calls
    /// wait for that. A child must call `get` again.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`]. The next call tries again.
    pub fn get(&self) -> Result<Handle, RuntimeError> {
        self.with(|runtime| runtime.handle().clone())
    }

    /// Calls `act` with the runtime of this process. No thread can shut it down meanwhile.
    fn with<T>(&self, act: impl Fn(&Arc<Runtime>) -> T) -> Result<T, RuntimeError> {
        loop {
            let current = match self.current.get(sys::process_key()) {
                Some(current) => current,
                None => self.build()?,
            };
            // The result is `None` if another thread has just shut down the runtime.
            if let Some(runtime) = &*current.lock() {
                return Ok(act(runtime));
            }
        }
    }

    #[cold]
    fn build(&self) -> Result<&Current, RuntimeError> {
        let build = || {
            prepare_process()?;
            let runtime = (self.build)().map_err(RuntimeError::Build)?;
            let kept = {
                let _context = runtime.enter();
                runtime::keep_from_children()
            };
            match kept {
                Ok(()) => {
                    paused_workers::add(runtime.handle());
                    Ok(Current { id: runtime.handle().id(), runtime: Mutex::new(Some(Arc::new(runtime))) })
                }
                Err(error) => {
                    // Dropping the runtime could block, which tokio forbids in a task.
                    runtime.shutdown_background();
                    Err(error.into())
                }
            }
        };
        finish_fork()?;
        self.current.get_or_try_make(sys::process_key, build).map_err(not_made)
    }

    /// Spawns a task on the runtime; see [`Runtime::spawn`].
    ///
    /// # Errors
    ///
    /// Those of [`get`](ProcessRuntime::get). The future is then dropped.
    pub fn spawn<T>(&self, future: T) -> Result<JoinHandle<T::Output>, RuntimeError>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        Ok(self.get()?.spawn(future))
    }

    /// Runs a future to completion on the calling thread; see [`Runtime::block_on`].
    ///
    /// # Errors
    ///
    /// Those of [`get`](ProcessRuntime::get), and [`RuntimeError::InsideInherited`].
    ///
    /// # Panics
    ///
    /// Inside another runtime, like [`Runtime::block_on`].
    pub fn block_on<T: Future>(&self, future: T) -> Result<T::Output, RuntimeError> {
        let process = sys::process_key();
        let runtime = self.with(Arc::clone)?;
        if let Ok(context) = Handle::try_current() {
            if self.current.inherited(process).any(|inherited| inherited.id == context.id()) {
                return Err(RuntimeError::InsideInherited);
            }
        }
        let output = runtime.block_on(future);
        if process != sys::process_key() {
            // The future has forked, and in this child the runtime is the parent's.
            std::mem::forget(runtime);
        } else if let Some(runtime) = Arc::into_inner(runtime) {
            // Another thread has shut down the runtime meanwhile.
            runtime.shutdown_background();
        }
        Ok(output)
    }
}

fn not_made(error: NotMade<RuntimeError>) -> RuntimeError {
    match error {
        NotMade::Failed(error) => error,
        NotMade::InsideItself => RuntimeError::InsideBuild,
    }
}

/// How long to wait for the thread that renews the signal pipe. The thread takes microseconds, unless a thread of the
/// parent has left a lock locked.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Keeps inherited stacks, and runs the hooks of [`on_child`](crate::on_child), once per process. Call it before the runtime is
/// built: then a hook may use the runtime.
fn finish_fork() -> Result<(), RuntimeError> {
    static FINISHED: PerProcess<()> = PerProcess::new();
    let finish = || {
        policy::install_defaults();
        if let Some(lost) = glue::lost_state() {
            return Err(RuntimeError::InheritedState(lost));
        }
        if !lineage::ancestors_were_single_threaded() {
            // The child must keep the stacks before it starts a thread, such as in a hook. Without `parking_lot`, this is a
            // precaution for other libraries.
            if let Err(error) = sys::keep_inherited_stacks() {
                tracing::debug!(%error, "cannot keep the stacks of the parent's threads");
                check_stacks(error)?;
            }
        }
        lineage::finish_fork(glue::is_single_threaded());
        Ok(())
    };
    match FINISHED.get_or_try_make(sys::process_key, finish) {
        Ok(()) | Err(NotMade::InsideItself) => Ok(()),
        Err(NotMade::Failed(error)) => Err(error),
    }
}

/// Occupies inherited stacks, and renews tokio's signal pipe, once per process.
fn prepare_process() -> Result<(), RuntimeError> {
    static PREPARED: PerProcess<()> = PerProcess::new();
    let prepare = || {
        // tokio never makes its signal pipe again. Restore the pipe before the new runtime can get these descriptors.
        glue::restore_renewed_pairs().map_err(RuntimeError::SignalPipe)?;
        if !lineage::ancestors_were_single_threaded() && sys::may_inherit_stacks() {
            if let Err(error) = sys::occupy_inherited_stacks() {
                tracing::warn!(%error, "cannot occupy the stacks of the parent's threads: joining one of these threads may hang");
                check_stacks(error)?;
            }
        }
        // Inside a runtime no second one can run. If an ancestor had threads, `renew_signal_pipe` may hang. In both
        // cases another thread calls it.
        if lineage::ancestors_were_single_threaded() && Handle::try_current().is_err() {
            return Ok(runtime::renew_signal_pipe()?);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let renew = move || sender.send(runtime::renew_signal_pipe());
        thread::Builder::new().name("forkio-signals".to_owned()).spawn(renew).map_err(ForkError::Inspect)?;
        Ok(receiver.recv_timeout(LOCK_LIMIT).map_err(|_| RuntimeError::InheritedLock)??)
    };
    PREPARED.get_or_try_make(sys::process_key, prepare).copied().map_err(not_made)
}

/// Converts an error of keeping or occupying stacks. Returns `Ok` if tokio works without these stacks.
fn check_stacks(error: io::Error) -> Result<(), RuntimeError> {
    if error.kind() == io::ErrorKind::TimedOut {
        return Err(RuntimeError::InheritedLock);
    }
    if runtime::uses_parking_lot() { Err(ForkError::ParkingLot(error).into()) } else { Ok(()) }
}

impl<F> Drop for ProcessRuntime<F> {
    /// Drops the runtime of this process; see [`Runtime`]. An inherited runtime is leaked.
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<F> fmt::Debug for ProcessRuntime<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.current.get(sys::process_key()).map(|current| current.id);
        f.debug_struct("ProcessRuntime").field("runtime", &id).finish_non_exhaustive()
    }
}

/// Why a [`ProcessRuntime`] cannot be used.
#[non_exhaustive]
pub enum RuntimeError {
    /// The function that builds the runtime returned this error.
    Build(io::Error),
    /// A check of the runtime or the process has failed with [`ParkingLot`](ForkError::ParkingLot),
    /// [`ForeignSelector`](ForkError::ForeignSelector), [`Prepare`](ForkError::Prepare) (without the patch),
    /// [`NoIoDriver`](ForkError::NoIoDriver) or [`Inspect`](ForkError::Inspect).
    Check(ForkError),
    /// Other code has closed the descriptors of tokio's signal pipe in this child, and the pipe cannot be made again:
    /// another file may have one of these descriptors. Use the runtime before the child opens files, or keep the descriptors
    /// open.
    SignalPipe(io::Error),
    /// Another thread was changing forkio's state at an unplanned fork. This process cannot tell its parent's signal pipe and
    /// connections from its own.
    InheritedState(InheritedState),
    /// At the fork, a thread of the parent held a lock that this process needs: that of tokio's signal streams, or the
    /// one that the standard library takes when a thread starts or ends. Starting a thread or `std::process::exit` may
    /// wait for that lock forever: end this process with `_exit(2)`.
    InheritedLock,
    /// [`block_on`](ProcessRuntime::block_on) was called on a thread that was inside the inherited runtime when it forked,
    /// such as in one of its tasks.
    InsideInherited,
    /// The function that builds the runtime uses the `ProcessRuntime`.
    InsideBuild,
}

impl From<ForkError> for RuntimeError {
    fn from(error: ForkError) -> RuntimeError {
        RuntimeError::Check(error)
    }
}

impl From<RuntimeError> for io::Error {
    fn from(error: RuntimeError) -> io::Error {
        io::Error::other(error)
    }
}

debug_like_display!(RuntimeError);

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuntimeError::Build(error) => write!(f, "cannot build the runtime: {error}"),
            RuntimeError::Check(error) => error.fmt(f),
            RuntimeError::SignalPipe(error) => write!(
                f,
                "cannot restore tokio's signal pipe: {error}; use the runtime before this process opens files, or keep the \
                 pipe's descriptors open when this process closes others"
            ),
            RuntimeError::InheritedState(lost) => lost.fmt(f),
            RuntimeError::InheritedLock => f.write_str(
                "a thread of the parent was handling a signal at the fork, or was just starting or ending, and has left a lock \
                 locked: end this process with `_exit`, because `std::process::exit` may wait for the lock, and let \
                 the parent fork again",
            ),
            RuntimeError::InsideInherited => f.write_str(
                "this thread was inside the runtime of the parent at the fork, and cannot block inside another one; \
                 use another thread (`std::thread::scope`), or spawn",
            ),
            RuntimeError::InsideBuild => f.write_str(
                "the function that builds the runtime uses the `ProcessRuntime` itself: move that use after the build",
            ),
        }
    }
}

impl std::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RuntimeError::Build(error) | RuntimeError::SignalPipe(error) => Some(error),
            RuntimeError::Check(error) => Some(error),
            RuntimeError::InheritedState(lost) => Some(lost),
            _ => None,
        }
    }
}
