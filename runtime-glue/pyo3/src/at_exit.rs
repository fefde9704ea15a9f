//! The end of the runtime: [`shutdown`], and the end of the interpreter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::block_on;
use crate::runtime::RUNTIME;

/// How long the end of the interpreter waits for the runtime.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Whether the interpreter is shutting down. [`check`] then returns an error, and no runtime is built.
static IS_SHUTTING_DOWN: AtomicBool = AtomicBool::new(false);

/// Fails if the interpreter is shutting down.
pub(crate) fn check() -> PyResult<()> {
    if IS_SHUTTING_DOWN.load(Ordering::SeqCst) {
        return Err(PyRuntimeError::new_err(
            "the interpreter is shutting down, and has shut down the module's runtime: use the runtime earlier, such as \
             in a function that is registered with `atexit` after the module was imported",
        ));
    }
    Ok(())
}

/// Shuts down the runtime of this process, if there is one. The next use builds another one.
///
/// Calls of [`block_on`](crate::block_on()) in other threads return an error. Tasks are dropped when they next wait. This
/// call waits at most `limit` for these calls and tasks, and for blocking work. Other Python threads run meanwhile.
///
/// The end of the interpreter does the same, with a limit of five seconds.
///
/// # Panics
///
/// If it shuts the runtime down inside a task or a `block_on` call of any runtime, like
/// [`tokio::runtime::Runtime::shutdown_timeout`].
pub fn shutdown(py: Python<'_>, limit: Duration) {
    let start = Instant::now();
    block_on::interrupt();
    py.detach(|| {
        while block_on::is_running() && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(1));
        }
        RUNTIME.shutdown_timeout(limit.saturating_sub(start.elapsed()));
    });
}

#[pyfunction]
fn at_exit(py: Python<'_>) {
    IS_SHUTTING_DOWN.store(true, Ordering::SeqCst);
    shutdown(py, EXIT_LIMIT);
    // A thread that read `IS_SHUTTING_DOWN` just before the store may have built another runtime.
    py.detach(|| RUNTIME.shutdown_timeout(EXIT_LIMIT));
}

/// Registers a function for the end of the interpreter. Children inherit it.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    py.import("atexit")?.call_method1("register", (wrap_pyfunction!(at_exit, py)?,))?;
    Ok(())
}
