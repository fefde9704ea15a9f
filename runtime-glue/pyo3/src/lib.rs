//! A tokio runtime for a Python extension module whose host may fork at any time: `os.fork`, `multiprocessing`,
//! `concurrent.futures`, gunicorn.
//!
//! Each process has a runtime of its own, a [`forkio::ProcessRuntime`], which is built on first use. One line installs it:
//!
//! ```no_run
//! use pyo3::prelude::*;
//! use tokio::io::AsyncReadExt;
//! use tokio::net::TcpStream;
//!
//! async fn read(address: String) -> PyResult<String> {
//!     let mut text = String::new();
//!     TcpStream::connect(address).await?.read_to_string(&mut text).await?;
//!     Ok(text)
//! }
//!
//! /// Waits for the text. Other Python threads run meanwhile.
//! #[pyfunction]
//! fn read_text(py: Python<'_>, address: String) -> PyResult<String> {
//!     forkio_pyo3::block_on(py, read(address))?
//! }
//!
//! /// Returns an awaitable for asyncio.
//! #[pyfunction]
//! fn read_text_async(py: Python<'_>, address: String) -> PyResult<Bound<'_, PyAny>> {
//!     forkio_pyo3::future_into_py(py, read(address))
//! }
//!
//! #[pymodule]
//! fn example(module: &Bound<'_, PyModule>) -> PyResult<()> {
//!     forkio_pyo3::install(module.py())?;
//!     module.add_function(wrap_pyfunction!(read_text, module)?)?;
//!     module.add_function(wrap_pyfunction!(read_text_async, module)?)
//! }
//! ```
//!
//! | I want to | use |
//! |---|---|
//! | wait for a future in a Python function | [`block_on`] |
//! | give a future to asyncio as an awaitable | [`future_into_py`] |
//! | await a Python awaitable in Rust | [`into_future`] |
//! | run a task in the background | [`spawn`] |
//! | keep a client with its connections | [`PerProcess`] |
//! | call the generic functions of `pyo3-async-runtimes` | [`Runtime`] |
//!
//! # Fork
//!
//! - **The parent's tasks do not continue** in the child. The child's copies of the parent's connections are severed: a peer
//!   sees the end when the parent closes the connection. Listeners stay open. [`forkio::ProcessRuntime`] has the details.
//! - **The objects of a runtime belong to one process**: connections, clients with a connection pool, timers, task handles.
//!   Keep them in a [`PerProcess`].
//! - **An asyncio event loop belongs to one process**, as without Rust. A child starts its own (`asyncio.run`).
//! - **Locks**: a fork of the interpreter pauses the runtime's workers. It waits at most two seconds for polls of [`block_on`]
//!   and for blocking work that [`Runtime`] has started. The child then inherits none of their locks. Other threads do not
//!   pause. If such a thread begins or ends its outermost [`Python::attach`](pyo3::Python::attach) at the fork, a child of
//!   Python 3.11 or older never returns from `os.fork`. Let such a thread stay inside one `attach`, in which
//!   [`Python::detach`](pyo3::Python::detach) releases the interpreter, or use [`Runtime`].
//! - **A warning**: Python 3.12 and later give a `DeprecationWarning` at each `os.fork` of a process with threads, and the
//!   runtime has threads. Filter the warning if the process has no threads but those of this crate.
//! - **Daemons**, such as those of the package `python-daemon`, may close all inherited descriptors before they first
//!   use the module. If a daemon has opened many files before that, the first use may raise a `RuntimeError` that names
//!   the descriptor in use.
//! - [The patch](forkio#the-patch) is optional. Without it, a connection that the parent closes just after the fork, before the
//!   child has severed it, stays open in the child.
//!
//! # Signals
//!
//! - **A host's handlers**: if tokio watches a signal for which Python has a handler, both get the signal. A handler that
//!   Python sets later (`signal.signal`) replaces tokio's, and tokio's streams then get nothing. The handlers of celery's
//!   pool end a worker at SIGTERM, SIGHUP and SIGQUIT, and with some brokers at SIGUSR2. Watch another signal there.
//! - **The runtime's threads receive signals.** If the main thread alone blocks a signal (`signal.pthread_sigmask`),
//!   Python's handler runs nevertheless; without a handler, the signal may end the process during `signal.sigwait`. Block
//!   the signal before the process first uses the runtime, or in the `on_thread_start` of a runtime for [`install_with`].
//!   The programs that tasks start then inherit the mask.
//!
//! # The end of the interpreter
//!
//! [`install`] registers a function with `atexit`. That function ends the calls of [`block_on`] in other threads, and shuts
//! the runtime down. It waits at most five seconds for polls of tasks and blocking work. Tasks that are still running then
//! must not use Python any more. Later calls of this crate return an error.
//!
//! Children of `multiprocessing` end with `os._exit`, which needs no shutdown.
//!
//! # Platforms
//!
//! Those of [`forkio`](forkio#platforms). On Windows, which has no `fork(2)`, only the end of the interpreter matters.

mod at_exit;
#[cfg(not(any(windows, forkio_without_fork)))]
mod at_fork;
mod block_on;
mod count;
mod per_process;
#[cfg_attr(any(windows, forkio_without_fork), path = "process_without_fork.rs")]
mod process;
mod runtime;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3_async_runtimes::generic;

pub use at_exit::shutdown;
pub use block_on::block_on;
pub use per_process::PerProcess;
pub use runtime::{JoinError, JoinHandle, Runtime, handle, spawn};

/// Installs the runtime for the extension module that this crate is part of. Call it in the `#[pymodule]`.
///
/// The runtime is multi-threaded, and has one worker per CPU. [`install_with`] installs another one.
///
/// Calls after the first one do nothing.
///
/// # Errors
///
/// Those of `atexit.register` and `os.register_at_fork`, and those of [`forkio::atfork::install`].
pub fn install(py: Python<'_>) -> PyResult<()> {
    install_with(py, runtime::multi_thread)
}

/// Installs the runtime that `build` returns, like [`install`]. Each process that uses the runtime calls `build`.
///
/// The runtime must be multi-threaded, because no thread would run the tasks of a current-thread runtime. It needs an I/O
/// driver and timers (`enable_all`).
///
/// # Errors
///
/// Those of [`install`].
///
/// # Examples
///
/// ```no_run
/// # use pyo3::prelude::*;
/// #[pymodule]
/// fn example(module: &Bound<'_, PyModule>) -> PyResult<()> {
///     let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
///     forkio_pyo3::install_with(module.py(), build)
/// }
/// ```
pub fn install_with(py: Python<'_>, build: fn() -> io::Result<tokio::runtime::Runtime>) -> PyResult<()> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    runtime::set_builder(build);
    #[cfg(not(any(windows, forkio_without_fork)))]
    at_fork::install(py)?;
    at_exit::install(py)
}

/// Converts a Rust future to a Python awaitable, for asyncio. The future runs as a task of this process's runtime.
///
/// If the awaitable is cancelled, the future is dropped. A panic in the future becomes the Python exception `RustPanic`. See
/// [`generic::future_into_py`].
///
/// # Errors
///
/// Those of [`handle`], and `RuntimeError` if no event loop is running in this thread.
pub fn future_into_py<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    handle()?;
    generic::future_into_py::<Runtime, F, T>(py, future)
}

/// Converts a Python awaitable, such as a coroutine, to a Rust future. The awaitable runs in the event loop of the task or
/// thread that calls this function; see [`generic::into_future`].
///
/// # Errors
///
/// `RuntimeError` if there is no such event loop.
///
/// # Examples
///
/// ```no_run
/// # use pyo3::prelude::*;
/// /// Calls `callback`, an `async def`, and returns its result twice.
/// #[pyfunction]
/// fn twice<'py>(py: Python<'py>, callback: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
///     let future = forkio_pyo3::into_future(callback.call0()?)?;
///     forkio_pyo3::future_into_py(py, async move {
///         let result = future.await?;
///         let result: String = Python::attach(|py| result.extract(py))?;
///         Ok(format!("{result} {result}"))
///     })
/// }
/// ```
pub fn into_future(awaitable: Bound<'_, PyAny>) -> PyResult<impl Future<Output = PyResult<Py<PyAny>>> + Send + use<>> {
    generic::into_future::<Runtime>(awaitable)
}

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
