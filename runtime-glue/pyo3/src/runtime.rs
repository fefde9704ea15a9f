//! [`Runtime`]: the runtime of this process, as `pyo3-async-runtimes` uses it.

use std::any::Any;
use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use forkio::{ProcessRuntime, RuntimeError};
use pyo3::PyErr;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{self, ContextExt};
use tokio::runtime::{Builder, Handle};
use tokio::task;

use crate::at_exit;
use crate::process::outside_of_forks;

type Build = fn() -> io::Result<tokio::runtime::Runtime>;

pub(crate) static RUNTIME: ProcessRuntime = ProcessRuntime::new(build);

/// The function that [`install_with`](crate::install_with) was called with.
static BUILDER: OnceLock<Build> = OnceLock::new();

pub(crate) fn set_builder(build: Build) {
    let _ = BUILDER.set(build);
}

fn build() -> io::Result<tokio::runtime::Runtime> {
    let Some(build) = BUILDER.get() else {
        return Err(io::Error::other("the module has not called `forkio_pyo3::install`"));
    };
    build()
}

pub(crate) fn multi_thread() -> io::Result<tokio::runtime::Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

/// Returns the Python exception for an error of the runtime.
pub(crate) fn exception(error: RuntimeError) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

/// Returns a handle of this process's runtime. The first call in a process builds the runtime.
///
/// # Errors
///
/// Python's `RuntimeError`, if the interpreter is shutting down, or with the text of a [`forkio::RuntimeError`].
pub fn handle() -> PyResult<Handle> {
    at_exit::check()?;
    RUNTIME.get().map_err(exception)
}

/// Spawns a task on this process's runtime. The calling thread needs no event loop.
///
/// # Errors
///
/// Those of [`handle`]. The future is then dropped.
pub fn spawn<F>(future: F) -> PyResult<task::JoinHandle<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Ok(handle()?.spawn(future))
}

/// The runtime of this process, for the functions of [`pyo3_async_runtimes::generic`] that this crate does not wrap.
///
/// `os.fork` waits at most two seconds for running work of this type's
/// [`spawn_blocking`](generic::Runtime::spawn_blocking), so it does not interrupt shorter work. A fork may interrupt
/// work of [`tokio::task::spawn_blocking`].
///
/// # Examples
///
/// ```no_run
/// # use pyo3::prelude::*;
/// use pyo3_async_runtimes::generic;
///
/// /// Runs a future in an event loop of its own.
/// #[pyfunction]
/// fn run(py: Python<'_>) -> PyResult<u32> {
///     generic::run::<forkio_pyo3::Runtime, _, _>(py, async { Ok(6 * 7) })
/// }
/// ```
#[derive(Debug)]
pub struct Runtime {
    _private: (),
}

tokio::task_local! {
    /// The event loop and context of the Python task that this task belongs to.
    static LOCALS: OnceCell<TaskLocals>;
}

impl Runtime {
    /// Starts work on the runtime. Drops the work if the interpreter is shutting down.
    ///
    /// # Panics
    ///
    /// If [`handle`] fails for another reason. The functions of [`generic::Runtime`] cannot return an error.
    fn start(start: impl FnOnce(Handle) -> task::JoinHandle<()>) -> JoinHandle {
        match handle() {
            Ok(handle) => JoinHandle(Some(start(handle))),
            Err(_) if at_exit::check().is_err() => JoinHandle(None),
            Err(error) => panic!("{error}"),
        }
    }
}

impl generic::Runtime for Runtime {
    type JoinError = JoinError;
    type JoinHandle = JoinHandle;

    fn spawn<F>(future: F) -> JoinHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Runtime::start(|handle| handle.spawn(future))
    }

    fn spawn_blocking<F>(work: F) -> JoinHandle
    where
        F: FnOnce() + Send + 'static,
    {
        let work = || outside_of_forks(work);
        Runtime::start(|handle| handle.spawn_blocking(work))
    }
}

impl ContextExt for Runtime {
    fn scope<F, T>(locals: TaskLocals, future: F) -> Pin<Box<dyn Future<Output = T> + Send>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        Box::pin(LOCALS.scope(OnceCell::from(locals), future))
    }

    fn get_task_locals() -> Option<TaskLocals> {
        LOCALS.try_with(|locals| locals.get().cloned()).unwrap_or_default()
    }
}

/// Waits for work that [`Runtime`] has started.
#[derive(Debug)]
pub struct JoinHandle(Option<task::JoinHandle<()>>);

impl Future for JoinHandle {
    type Output = Result<(), JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), JoinError>> {
        let Some(task) = &mut self.0 else { return Poll::Ready(Err(JoinError(None))) };
        let result = ready!(Pin::new(task).poll(context));
        Poll::Ready(result.map_err(|error| JoinError(Some(error))))
    }
}

/// Why work of [`Runtime`] did not finish: it panicked, or was dropped because the runtime or interpreter shut down.
#[derive(Debug)]
pub struct JoinError(Option<task::JoinError>);

impl generic::JoinError for JoinError {
    fn is_panic(&self) -> bool {
        self.0.as_ref().is_some_and(task::JoinError::is_panic)
    }

    fn into_panic(self) -> Box<dyn Any + Send + 'static> {
        match self.0 {
            Some(error) => error.into_panic(),
            None => panic!("the task did not panic"),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(f),
            None => f.write_str("the interpreter is shutting down"),
        }
    }
}

impl std::error::Error for JoinError {}
