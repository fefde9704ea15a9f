//! A runtime of any flavour, one per process.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use forkio_reactor::fork as reactor;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use crate::sys::{self, NotMade, PerProcess};
use crate::{ForkError, lineage, policy, rest, runtime};

/// A runtime that each process builds for itself, on first use: for processes that have threads when they fork.
///
/// A multi-threaded runtime cannot go on in the child of a fork, because its threads stay behind. This holds it together
/// with the function that builds it. In a child it leaves the inherited one alone and builds another one when it is first
/// used there. It may be a `static`, as in a library, or an extension module, whose host forks when it likes.
///
/// # Fork
///
/// The inherited runtime is leaked in the child, never dropped: that would wait for threads that are not there. Its tasks
/// do not run on. What its I/O objects stand for follows the [policies](crate::set_policy) as in any fork: connections are
/// severed, so that their peers see the end when the parent closes them, and listeners stay open. What is left of it in the
/// child are the descriptor numbers of its I/O objects, and three of its own.
///
/// - **A listener** that the child is to serve too is best kept as a [`std::net::TcpListener`], of which each runtime gets
///   a `try_clone`. One that the child is not to hold open is tagged with [`Sever`](crate::ForkPolicy::Sever).
/// - **Signals** reach the streams of the process that they were sent to. One that the parent has received by the time of
///   the fork is not delivered in the child.
/// - **Handles of the inherited runtime** that the child still has: do not use them, and rather forget than drop them. To
///   drop a `JoinHandle` or a `Handle` does no harm; to drop an I/O object, a timer or a `JoinSet`, to abort, or to spawn,
///   takes a lock of the inherited runtime, which one of the parent's threads may have held.
///
/// This waits for no lock that one of the parent's threads may have held. tokio has some that are the process's: those of
/// the signal streams, of the first stream for a signal (`signal-hook-registry`), and of dropped `tokio::process::Child`
/// handles. [`fork_with_threads`](crate::fork_with_threads) has the workers of the runtime rest at the fork, so that they
/// hold none; other threads, and other forks, leave a chance that is as large as the part of the time, nanoseconds at a
/// time, that one is held for. The first use in the child finds out about the first of them
/// ([`RuntimeError::InheritedLock`]). And tokio must not use `parking_lot`; see [`ForkError::ParkingLot`].
///
/// The fork has to be one that forkio knows of: [`fork_with_threads`](crate::fork_with_threads), the reactor's, or with the
/// feature `atfork`, once it is installed, any `fork(2)`. In the child of another fork [`get`](ProcessRuntime::get) fails.
///
/// # Examples
///
/// ```
/// use std::io;
/// use forkio::ProcessRuntime;
/// use tokio::runtime::{Builder, Runtime};
///
/// static RUNTIME: ProcessRuntime = ProcessRuntime::new(|| Builder::new_multi_thread().enable_all().build());
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let task = RUNTIME.spawn(async { 6 * 7 })?;
/// assert_eq!(RUNTIME.block_on(task)??, 42);
/// # Ok(())
/// # }
/// ```
pub struct ProcessRuntime<F = fn() -> io::Result<Runtime>> {
    build: F,
    current: PerProcess<Runtime>,
}

impl<F> ProcessRuntime<F> {
    /// A runtime that `build` builds in each process that uses it. It needs an I/O driver (`enable_all` or `enable_io`).
    pub const fn new(build: F) -> ProcessRuntime<F> {
        ProcessRuntime { build, current: PerProcess::new() }
    }

    /// Takes the runtime of this process out, if there is one, as to [shut it down](Runtime::shutdown_timeout). The next
    /// use builds another one.
    pub fn take(&mut self) -> Option<Runtime> {
        let runtime = self.current.take(sys::process_key());
        runtime.iter().for_each(|runtime| rest::remove(runtime.handle().id()));
        runtime
    }
}

impl<F: Fn() -> io::Result<Runtime>> ProcessRuntime<F> {
    /// The runtime of this process. The first call in a process builds it, and others wait for that.
    ///
    /// Later calls cost two loads: no lock and no system call.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`]. The next call tries again.
    pub fn get(&self) -> Result<&Runtime, RuntimeError> {
        match self.current.get(sys::process_key()) {
            Some(runtime) => Ok(runtime),
            None => self.build(),
        }
    }

    #[cold]
    fn build(&self) -> Result<&Runtime, RuntimeError> {
        let build = || {
            prepare_process()?;
            let runtime = (self.build)().map_err(RuntimeError::Build)?;
            let kept = {
                let _context = runtime.enter();
                runtime::keep_from_children()
            };
            match kept {
                Ok(()) => {
                    rest::add(runtime.handle());
                    Ok(runtime)
                }
                Err(error) => {
                    // Not dropped: that may wait, and the caller may be a task.
                    runtime.shutdown_background();
                    Err(error.into())
                }
            }
        };
        self.current.get_or_try_make(sys::process_key, build).map_err(|error| match error {
            NotMade::Failed(error) => error,
            NotMade::InsideItself => RuntimeError::InsideBuild,
        })
    }

    /// A handle of the runtime.
    ///
    /// # Errors
    ///
    /// As [`get`](ProcessRuntime::get).
    pub fn handle(&self) -> Result<&Handle, RuntimeError> {
        self.get().map(Runtime::handle)
    }

    /// Spawns a task on the runtime; see [`Runtime::spawn`].
    ///
    /// # Errors
    ///
    /// As [`get`](ProcessRuntime::get). The future is dropped then.
    pub fn spawn<T>(&self, future: T) -> Result<JoinHandle<T::Output>, RuntimeError>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        Ok(self.get()?.spawn(future))
    }

    /// Runs a future to its end on the calling thread; see [`Runtime::block_on`].
    ///
    /// # Errors
    ///
    /// As [`get`](ProcessRuntime::get), and [`RuntimeError::InsideInherited`].
    ///
    /// # Panics
    ///
    /// Inside another runtime, as [`Runtime::block_on`].
    pub fn block_on<T: Future>(&self, future: T) -> Result<T::Output, RuntimeError> {
        let runtime = self.get()?;
        if let Ok(context) = Handle::try_current()
            && self.current.inherited(sys::process_key()).any(|inherited| inherited.handle().id() == context.id())
        {
            return Err(RuntimeError::InsideInherited);
        }
        Ok(runtime.block_on(future))
    }
}

/// How long to wait for what takes microseconds, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Once per process: what any runtime needs that is built in it.
fn prepare_process() -> Result<(), RuntimeError> {
    static PREPARED: PerProcess<()> = PerProcess::new();
    let prepare = || {
        if reactor::is_stray() {
            return Err(RuntimeError::StrayProcess);
        }
        // Not in the first turn of what follows.
        #[cfg(feature = "atfork")]
        crate::atfork::settle_in();
        policy::install_defaults();
        if !lineage::was_alone() {
            runtime::check_locks()?;
            if sys::may_inherit_stacks() {
                match sys::occupy_inherited_stacks() {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(RuntimeError::InheritedLock),
                    Err(error) => {
                        tracing::warn!(%error, "threads of this process may be taken for those of its parent");
                    }
                }
            }
        }
        // On a thread of its own if this one is inside a runtime, where another one cannot be driven, or if it may hang.
        if lineage::was_alone() && Handle::try_current().is_err() {
            return Ok(runtime::settle_signals()?);
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let settle = move || sender.send(runtime::settle_signals());
        thread::Builder::new().name("forkio-signals".to_owned()).spawn(settle).map_err(RuntimeError::Inspect)?;
        Ok(receiver.recv_timeout(PATIENCE).map_err(|_| RuntimeError::InheritedLock)??)
    };
    PREPARED.get_or_try_make(sys::process_key, prepare).copied().map_err(|error| match error {
        NotMade::Failed(error) => error,
        NotMade::InsideItself => RuntimeError::InsideBuild,
    })
}

impl<F> Drop for ProcessRuntime<F> {
    /// Drops the runtime of this process; see [`Runtime`]. An inherited one is leaked.
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<F> fmt::Debug for ProcessRuntime<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessRuntime").field("runtime", &self.current.get(sys::process_key())).finish_non_exhaustive()
    }
}

/// Why a [`ProcessRuntime`] gave no runtime.
#[non_exhaustive]
pub enum RuntimeError {
    /// The function that builds it returned this error.
    Build(io::Error),
    /// The process had threads when it was forked, and tokio uses `parking_lot`; see [`ForkError::ParkingLot`].
    ParkingLot,
    /// The runtime does not run on forkio's selector.
    ForeignSelector,
    /// The runtime has no I/O driver. (tokio can only be asked by a panic: compiled with `panic = "abort"`, the process
    /// ends instead.)
    NoIoDriver,
    /// This process was made by a fork that forkio does not know of, or could not prepare: it shares its parent's signal
    /// pipe and connections.
    StrayProcess,
    /// One of the parent's threads held a lock at the fork that this process needs: of tokio's signal streams, or the one that
    /// the standard library takes for a moment as a thread starts or ends (`std`'s `thread_info`, for stack overflows). There is
    /// no remedy in this process: no thread would start, and `std::process::exit` waits for the same lock. End it with
    /// `_exit(2)`.
    InheritedLock,
    /// [`block_on`](ProcessRuntime::block_on) was called on a thread that was inside the inherited runtime, as in one of
    /// its tasks, when it forked.
    InsideInherited,
    /// The function that builds the runtime uses it.
    InsideBuild,
    /// What the runtime is like could not be found out.
    Inspect(io::Error),
}

impl From<ForkError> for RuntimeError {
    fn from(error: ForkError) -> RuntimeError {
        match error {
            ForkError::ParkingLot => RuntimeError::ParkingLot,
            ForkError::ForeignSelector => RuntimeError::ForeignSelector,
            ForkError::NoIoDriver => RuntimeError::NoIoDriver,
            ForkError::Inspect(error) => RuntimeError::Inspect(error),
            error => RuntimeError::Inspect(io::Error::other(error)),
        }
    }
}

/// As [`Display`](fmt::Display): this is what a `main` prints that returns the error, and what to do is in there.
impl fmt::Debug for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuntimeError::Build(error) => write!(f, "cannot build the runtime: {error}"),
            RuntimeError::ParkingLot => ForkError::ParkingLot.fmt(f),
            RuntimeError::ForeignSelector => ForkError::ForeignSelector.fmt(f),
            RuntimeError::NoIoDriver => ForkError::NoIoDriver.fmt(f),
            RuntimeError::StrayProcess => f.write_str(
                "this process was forked behind forkio's back, and shares its parent's signal pipe and connections; fork \
                 with `forkio::fork_with_threads`, or have forks by others prepared (`forkio::atfork::install`)",
            ),
            RuntimeError::InheritedLock => f.write_str(
                "a thread of the parent was handling a signal at the fork, or was just starting or ending, and has left a lock \
                 behind: end this process with `_exit`, as `std::process::exit` may wait for it, and fork another one",
            ),
            RuntimeError::InsideInherited => f.write_str(
                "this thread was inside the runtime of the parent when it forked, and cannot block inside another one; \
                 use a thread of its own (`std::thread::scope`), or spawn",
            ),
            RuntimeError::InsideBuild => f.write_str("the function that builds the runtime uses it"),
            RuntimeError::Inspect(error) => write!(f, "cannot find out what the runtime is like: {error}"),
        }
    }
}

impl std::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RuntimeError::Build(error) | RuntimeError::Inspect(error) => Some(error),
            _ => None,
        }
    }
}
