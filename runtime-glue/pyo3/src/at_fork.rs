//! Hooks for forks of the interpreter: no thread of the runtime may hold a lock that the child needs.
//!
//! These are the runtime's locks, the locks of `pyo3-async-runtimes` while a thread fills its caches, and pyo3's lock for
//! references that were dropped without the GIL. Before Python 3.12, a thread that attaches or detaches also takes the lock of the
//! interpreter's list of threads, without the GIL. A child that inherits that lock locked never returns from `os.fork`.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant};

use forkio::atfork::{self, WorkersPaused};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3_async_runtimes::TaskLocals;

use crate::count::{Count, Counted};

/// The number of forks that this process is making.
static FORKS: Count = Count::new();

/// The number of running calls of [`outside_of_forks`].
static WORK: Count = Count::new();

/// How long a fork waits for work, and work for a fork. Without a limit they could wait for each other forever.
const LIMIT: Duration = Duration::from_secs(2);

/// How often a fork checks [`WORK`], and work checks [`FORKS`].
const INTERVAL: Duration = Duration::from_micros(200);

/// Calls `work` when no fork is being made, or after [`LIMIT`]. A fork waits until `work` is done, for at most [`LIMIT`].
pub(crate) fn outside_of_forks<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    loop {
        // Each side adds to its own count before it reads the other one, so that one of them sees the other.
        let working = WORK.add();
        if FORKS.is_zero() || start.elapsed() >= LIMIT {
            return work();
        }
        drop(working);
        thread::sleep(INTERVAL);
    }
}

/// Pauses the workers until it is dropped. Meanwhile, new work waits, for at most [`LIMIT`]. A drop in a child does nothing.
struct Pause {
    _fork: Counted,
    _workers: WorkersPaused,
}

impl Pause {
    fn begin() -> Pause {
        let start = Instant::now();
        let fork = FORKS.add();
        while !WORK.is_zero() && start.elapsed() < LIMIT {
            thread::sleep(INTERVAL);
        }
        Pause { _fork: fork, _workers: atfork::pause_workers() }
    }
}

thread_local! {
    /// The pauses that this thread has begun and not ended: several, if a fork hook of another module forks, too.
    static PAUSES: RefCell<Vec<Pause>> = const { RefCell::new(Vec::new()) };
}

/// Fills the caches of `pyo3-async-runtimes`. A thread that is filling a cache holds the cache's lock while it imports a module.
/// This function waits for that thread. A child with the inherited lock would wait forever.
fn fill_caches(py: Python<'_>) -> PyResult<()> {
    // Without `asyncio`, no thread has begun to fill a cache: `asyncio` is imported first.
    if py.import("sys")?.getattr("modules")?.contains("asyncio")? {
        // An error means that this thread runs no event loop. The cache is filled in any case.
        let _ = pyo3_async_runtimes::get_running_loop(py);
        TaskLocals::new(py.None().into_bound(py)).copy_context(py)?;
    }
    Ok(())
}

#[pyfunction]
fn before(py: Python<'_>) {
    if let Err(error) = fill_caches(py) {
        error.write_unraisable(py, None);
    }
    // Release the GIL meanwhile: a thread of the runtime may need it to finish its work.
    let pause = py.detach(Pause::begin);
    PAUSES.with_borrow_mut(|pauses| pauses.push(pause));
}

#[pyfunction]
fn after() {
    drop(PAUSES.with_borrow_mut(Vec::pop));
}

/// Registers hooks for the interpreter's forks, and makes the child of any fork reconcile inside `fork(2)`. Forks made by other
/// code run no hooks, and pause no workers.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    atfork::install()?;
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(before, py)?)?;
    let after = wrap_pyfunction!(after, py)?;
    hooks.set_item("after_in_parent", &after)?;
    hooks.set_item("after_in_child", after)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}
