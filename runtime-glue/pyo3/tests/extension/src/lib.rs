//! An HTTP client and server for Python, on the runtime of `forkio-pyo3`: the module of the tests.

mod client;
mod server;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyList;
use pyo3_async_runtimes::generic::Runtime as _;
use tokio::time::sleep;

/// Returns the number of forks between this process and the first one.
#[pyfunction]
fn generation() -> u32 {
    forkio::Lineage::current().generation()
}

/// How many calls of [`wait`] were dropped before their end.
static DROPPED: AtomicU32 = AtomicU32::new(0);

/// Waits. If the future is dropped before the end, it adds one to `DROPPED`.
async fn wait(seconds: f64) -> PyResult<f64> {
    let unfinished = Unfinished;
    sleep(Duration::from_secs_f64(seconds)).await;
    std::mem::forget(unfinished);
    Ok(seconds)
}

struct Unfinished;

impl Drop for Unfinished {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns the number of waits that were dropped before their end.
#[pyfunction]
fn dropped() -> u32 {
    DROPPED.load(Ordering::SeqCst)
}

/// Waits for a time, without the GIL.
#[pyfunction]
fn pause(py: Python<'_>, seconds: f64) -> PyResult<f64> {
    forkio_pyo3::block_on(py, wait(seconds))?
}

/// Returns an awaitable that waits for a time.
#[pyfunction]
fn pause_async(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
    forkio_pyo3::future_into_py(py, wait(seconds))
}

/// Returns an awaitable that panics.
#[pyfunction]
fn panic_async(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    forkio_pyo3::future_into_py(py, async { panic!("on purpose") as PyResult<()> })
}

/// Calls an `async def` without arguments. Returns an awaitable for twice its result.
#[pyfunction]
fn twice<'py>(py: Python<'py>, callback: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let future = forkio_pyo3::into_future(callback.call0()?)?;
    forkio_pyo3::future_into_py(py, async move {
        let result = future.await?;
        Python::attach(|py| Ok(result.bind(py).add(result.bind(py))?.unbind()))
    })
}

/// Starts background tasks that use Python again and again, until the runtime ends.
#[pyfunction]
fn use_python_forever(tasks: usize) -> PyResult<()> {
    for _ in 0..tasks {
        forkio_pyo3::spawn(async {
            loop {
                let list = Python::attach(|py| PyList::empty(py).unbind());
                // The list is dropped without the GIL.
                drop(list);
                let attach = || Python::attach(|py| drop(PyList::empty(py)));
                if forkio_pyo3::Runtime::spawn_blocking(attach).await.is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(())
}

/// Blocks a thread of the runtime for a time. That thread uses no Python.
#[pyfunction]
fn block_a_thread(seconds: f64) -> PyResult<()> {
    forkio_pyo3::handle()?.spawn_blocking(move || std::thread::sleep(Duration::from_secs_f64(seconds)));
    Ok(())
}

/// Shuts the runtime of this process down.
#[pyfunction]
fn shutdown(py: Python<'_>, seconds: f64) {
    forkio_pyo3::shutdown(py, Duration::from_secs_f64(seconds));
}

#[pymodule]
fn forkio_http(module: &Bound<'_, PyModule>) -> PyResult<()> {
    forkio_pyo3::install_with(module.py(), || {
        // The runtime has few worker threads on every machine, so tests notice work that blocks several threads at a time.
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
    })?;
    module.add_class::<client::Client>()?;
    module.add_class::<server::Server>()?;
    for function in [
        wrap_pyfunction!(generation, module)?,
        wrap_pyfunction!(dropped, module)?,
        wrap_pyfunction!(pause, module)?,
        wrap_pyfunction!(pause_async, module)?,
        wrap_pyfunction!(panic_async, module)?,
        wrap_pyfunction!(twice, module)?,
        wrap_pyfunction!(use_python_forever, module)?,
        wrap_pyfunction!(block_a_thread, module)?,
        wrap_pyfunction!(shutdown, module)?,
    ] {
        module.add_function(function)?;
    }
    Ok(())
}
