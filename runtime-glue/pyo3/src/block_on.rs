//! [`block_on`], and the calls of it that are running.

use std::future::{Future, poll_fn};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::time::timeout;

use crate::count::Count;
use crate::process::outside_of_forks;
use crate::runtime::{RUNTIME, exception, handle};

/// How often a running call checks for signals and for a shutdown.
const SLICE: Duration = Duration::from_millis(100);

/// Runs a future to completion on the calling thread. Other Python threads run meanwhile, because `block_on` releases the
/// GIL.
///
/// On the main thread, Python's signal handlers run within a tenth of a second. `block_on` returns their exception, such as
/// `KeyboardInterrupt`, and drops the future.
///
/// # Errors
///
/// - The exception of a signal handler.
/// - `RuntimeError`, if the runtime was shut down meanwhile, if the interpreter is shutting down, or with the text of a
///   [`forkio::RuntimeError`].
///
/// # Panics
///
/// Inside a task of the runtime. Python sees a `PanicException`. In a task, await the future instead.
///
/// # Fork
///
/// While another thread forks, the future is not polled. If the future itself forks, the fork takes two seconds longer. Call
/// `os.fork` outside of the future instead. If a signal handler forks, `block_on` returns an error in the child. It leaks the
/// future, because the future's I/O objects belong to the parent.
pub fn block_on<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let call = CALLS.add();
    let interrupts = INTERRUPTS.load(Ordering::SeqCst);
    let mut future = Box::pin(future);
    loop {
        // Builds the runtime if necessary. No thread can fork meanwhile, because this one has the GIL.
        handle()?;
        if INTERRUPTS.load(Ordering::SeqCst) != interrupts {
            return Err(PyRuntimeError::new_err("the module's runtime was shut down during the call"));
        }
        // Signal handlers run outside of the runtime, so that they can call `block_on` too.
        let poll = poll_fn(|context| outside_of_forks(|| future.as_mut().poll(context)));
        let slice = || RUNTIME.block_on(async { timeout(SLICE, poll).await });
        if let Ok(output) = py.detach(slice).map_err(exception)? {
            return Ok(output);
        }
        let checked = py.check_signals();
        if !call.is_of_this_process() {
            mem::forget(future);
            checked?;
            return Err(PyRuntimeError::new_err(
                "a signal handler forked during the call, and the future belongs to the parent: end the child in the \
                 handler, with `os._exit`",
            ));
        }
        checked?;
    }
}

/// The number of running calls.
static CALLS: Count = Count::new();

/// How many times the calls were interrupted.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Makes all running calls of this process return an error.
pub(crate) fn interrupt() {
    INTERRUPTS.fetch_add(1, Ordering::SeqCst);
}

/// Returns whether a call is running in this process.
pub(crate) fn is_running() -> bool {
    !CALLS.is_zero()
}
