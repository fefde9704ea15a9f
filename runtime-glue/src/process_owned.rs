//! [`ProcessOwned`].

use std::fmt;

use forkio_reactor::fork::generation;

use crate::Forked;

/// A value that belongs to the process that made it: a child forked later can neither use nor drop it.
///
/// For values whose destructors act on the world: a `tokio::process::Child` with `kill_on_drop`, which in a child would
/// kill the parent's process; a temporary directory; a lock file; a buffer that writes itself out. In the child their memory
/// and descriptors stay as they are until the process ends.
///
/// # Examples
///
/// ```
/// use forkio::ProcessOwned;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let helper = tokio::process::Command::new("cat").stdin(std::process::Stdio::piped()).kill_on_drop(true).spawn()?;
/// let mut helper = ProcessOwned::new(helper);
/// // In a child this is an error, and dropping `helper` does nothing.
/// helper.get_mut()?.start_kill()?;
/// # Ok(())
/// # }
/// ```
pub struct ProcessOwned<T> {
    /// Absent only while it is dropped.
    value: Option<T>,
    generation: u32,
}

impl<T> ProcessOwned<T> {
    /// This process's `value`.
    pub fn new(value: T) -> ProcessOwned<T> {
        ProcessOwned { value: Some(value), generation: generation() }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// [`Forked`] in a child forked after the value was made.
    pub fn get(&self) -> Result<&T, Forked> {
        self.value.as_ref().filter(|_| self.is_ours()).ok_or(Forked)
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// As [`get`](ProcessOwned::get).
    pub fn get_mut(&mut self) -> Result<&mut T, Forked> {
        let is_ours = self.is_ours();
        self.value.as_mut().filter(|_| is_ours).ok_or(Forked)
    }

    /// Takes the value out: a child forked from now on can use and drop it.
    ///
    /// # Errors
    ///
    /// As [`get`](ProcessOwned::get).
    pub fn into_inner(mut self) -> Result<T, Forked> {
        if self.is_ours() { self.value.take().ok_or(Forked) } else { Err(Forked) }
    }

    fn is_ours(&self) -> bool {
        self.generation == generation()
    }
}

impl<T> Drop for ProcessOwned<T> {
    fn drop(&mut self) {
        if !self.is_ours() {
            std::mem::forget(self.value.take());
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for ProcessOwned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessOwned").field("value", &self.value).field("generation", &self.generation).finish()
    }
}
