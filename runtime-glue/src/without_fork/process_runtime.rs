//! [`ProcessRuntime`], in a process that never forks.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

/// A runtime that is built on first use. It may be a `static`, and belong to a library or an extension module.
///
/// On systems with `fork(2)`, each process builds a runtime of its own.
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
    current: Mutex<Option<Arc<Runtime>>>,
    /// The thread that is building the runtime.
    builder: Mutex<Option<ThreadId>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F> ProcessRuntime<F> {
    /// Creates a `ProcessRuntime`. Its first use calls `build`.
    pub const fn new(build: F) -> ProcessRuntime<F> {
        ProcessRuntime { build, current: Mutex::new(None), builder: Mutex::new(None) }
    }

    /// Shuts down the runtime, if there is one; see [`Runtime::shutdown_timeout`]. The next use builds another one.
    ///
    /// If other threads are inside [`block_on`](ProcessRuntime::block_on), their futures continue. The runtime then shuts down
    /// when the last of these calls returns, without waiting for its blocking tasks.
    ///
    /// # Panics
    ///
    /// If it shuts the runtime down inside a task or a `block_on` call, like [`Runtime::shutdown_timeout`].
    pub fn shutdown_timeout(&self, limit: Duration) {
        if self.is_building() {
            return;
        }
        let current = lock(&self.current).take();
        if let Some(runtime) = current.and_then(Arc::into_inner) {
            runtime.shutdown_timeout(limit);
        }
    }

    /// Returns whether the calling thread is building the runtime. It then holds the lock of `current`.
    fn is_building(&self) -> bool {
        *lock(&self.builder) == Some(thread::current().id())
    }
}

impl<F: Fn() -> io::Result<Runtime>> ProcessRuntime<F> {
    /// Returns a handle of the runtime. The first call builds the runtime, and concurrent calls wait for the first one.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`]. The next call tries again.
    pub fn get(&self) -> Result<Handle, RuntimeError> {
        Ok(self.runtime()?.handle().clone())
    }

    fn runtime(&self) -> Result<Arc<Runtime>, RuntimeError> {
        if self.is_building() {
            return Err(RuntimeError::InsideBuild);
        }
        let mut current = lock(&self.current);
        if let Some(runtime) = &*current {
            return Ok(Arc::clone(runtime));
        }
        let building = Building::begin(&self.builder);
        let runtime = Arc::new((self.build)().map_err(RuntimeError::Build)?);
        drop(building);
        *current = Some(Arc::clone(&runtime));
        Ok(runtime)
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
    /// Those of [`get`](ProcessRuntime::get).
    ///
    /// # Panics
    ///
    /// Inside another runtime, like [`Runtime::block_on`].
    pub fn block_on<T: Future>(&self, future: T) -> Result<T::Output, RuntimeError> {
        let runtime = self.runtime()?;
        let output = runtime.block_on(future);
        if let Some(runtime) = Arc::into_inner(runtime) {
            // Another thread has shut down the runtime meanwhile.
            runtime.shutdown_background();
        }
        Ok(output)
    }
}

/// Records which thread builds the runtime, until the function that builds it returns or panics.
struct Building<'a>(&'a Mutex<Option<ThreadId>>);

impl<'a> Building<'a> {
    fn begin(builder: &'a Mutex<Option<ThreadId>>) -> Building<'a> {
        *lock(builder) = Some(thread::current().id());
        Building(builder)
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

impl<F> fmt::Debug for ProcessRuntime<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.current.try_lock().ok().and_then(|current| Some(current.as_ref()?.handle().id()));
        f.debug_struct("ProcessRuntime").field("runtime", &id).finish_non_exhaustive()
    }
}

/// Why a [`ProcessRuntime`] has no runtime.
#[non_exhaustive]
pub enum RuntimeError {
    /// The function that builds the runtime returned this error.
    Build(io::Error),
    /// The function that builds the runtime uses the `ProcessRuntime`.
    InsideBuild,
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
            RuntimeError::InsideBuild => f.write_str(
                "the function that builds the runtime uses the `ProcessRuntime` itself: move that use after the build",
            ),
        }
    }
}

impl std::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RuntimeError::Build(error) => Some(error),
            RuntimeError::InsideBuild => None,
        }
    }
}
