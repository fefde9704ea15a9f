//! [`PerProcess`]: a value that each process makes for itself.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use crate::process::generation;

/// A value that each process makes on first use, such as a client with its connections, or a sender to a task.
///
/// It may be a `static`, or belong to a `#[pyclass]`. A child leaks the value that it has inherited, because dropping it
/// could wait for a lock that a thread of the parent held.
///
/// # Examples
///
/// ```no_run
/// use forkio_pyo3::PerProcess;
/// use pyo3::prelude::*;
/// use tokio::sync::Mutex;
/// use tokio::io::AsyncWriteExt;
/// use tokio::net::TcpStream;
///
/// static LOG: PerProcess<Mutex<TcpStream>> = PerProcess::new();
///
/// /// Writes to this process's connection.
/// #[pyfunction]
/// fn log(py: Python<'_>, line: String) -> PyResult<()> {
///     let connect = || Ok(Mutex::new(forkio_pyo3::block_on(py, TcpStream::connect("127.0.0.1:5170"))??));
///     let stream = LOG.get_or_try_make(py, connect)?;
///     forkio_pyo3::block_on(py, async { stream.lock().await.write_all(line.as_bytes()).await })??;
///     Ok(())
/// }
/// ```
pub struct PerProcess<T> {
    /// Locked only while attached to the interpreter, so that no other thread holds the lock when the interpreter forks.
    slot: Mutex<Slot<T>>,
}

/// A value, and the generation of the process that made it.
type Slot<T> = Option<(u32, Arc<T>)>;

impl<T> PerProcess<T> {
    /// Creates a `PerProcess` without a value.
    pub const fn new() -> PerProcess<T> {
        PerProcess { slot: Mutex::new(None) }
    }

    /// Returns the value of this process, or makes it with `make`. If several threads call `make` at the same time,
    /// those whose call succeeds get the value of the first such call.
    ///
    /// # Errors
    ///
    /// Those of `make`. The next call tries again.
    pub fn get_or_try_make(&self, _py: Python<'_>, make: impl FnOnce() -> PyResult<T>) -> PyResult<Arc<T>> {
        if let Some(value) = current(&self.lock()) {
            return Ok(value);
        }
        // `make` is called without the lock, because it may release the GIL.
        let made = Arc::new(make()?);
        let mut slot = self.lock();
        if let Some(value) = current(&slot) {
            return Ok(value);
        }
        mem::forget(slot.replace((generation(), Arc::clone(&made))));
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the value of this process.
fn current<T>(slot: &Slot<T>) -> Option<Arc<T>> {
    slot.as_ref().filter(|(owner, _)| *owner == generation()).map(|(_, value)| Arc::clone(value))
}

impl<T> Default for PerProcess<T> {
    fn default() -> PerProcess<T> {
        PerProcess::new()
    }
}

impl<T> Drop for PerProcess<T> {
    /// Drops the value of this process. An inherited one is leaked.
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(inherited) = slot.take_if(|(owner, _)| *owner != generation()) {
            mem::forget(inherited);
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}
