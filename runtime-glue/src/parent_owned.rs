//! [`ParentOwned`]: a value that children neither use nor drop.

use std::fmt;

use forkio_reactor::fork::generation;

use crate::NotInChild;

/// A value that belongs to the process that made it. A child that is forked later can neither use nor drop it.
///
/// Use it for values whose destructors act outside the process: a `tokio::process::Child` with `kill_on_drop`, whose
/// program a child would kill although the parent started it; a temporary directory; a lock file; a buffer that flushes itself.
///
/// # Fork
///
/// In the child, [`get`](ParentOwned::get) and the other methods return [`NotInChild`], and dropping the
/// `ParentOwned` does nothing. The value's memory and descriptors stay as they are until the process ends.
///
/// # Examples
///
/// ```
/// use forkio::ParentOwned;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let helper = tokio::process::Command::new("cat").stdin(std::process::Stdio::piped()).kill_on_drop(true).spawn()?;
/// let mut helper = ParentOwned::new(helper);
/// // In a child this is an error, and dropping `helper` does nothing.
/// helper.get_mut()?.start_kill()?;
/// # Ok(())
/// # }
/// ```
pub struct ParentOwned<T> {
    /// `None` only while the `ParentOwned` is dropped.
    value: Option<T>,
    generation: u32,
}

impl<T> ParentOwned<T> {
    /// Makes this process the owner of `value`.
    pub fn new(value: T) -> ParentOwned<T> {
        ParentOwned { value: Some(value), generation: generation() }
    }

    /// Borrows the value.
    ///
    /// # Errors
    ///
    /// [`NotInChild`] in a child that was forked after the value was made.
    pub fn get(&self) -> Result<&T, NotInChild> {
        self.value.as_ref().filter(|_| self.is_owner()).ok_or(NotInChild)
    }

    /// Borrows the value mutably.
    ///
    /// # Errors
    ///
    /// Those of [`get`](ParentOwned::get).
    pub fn get_mut(&mut self) -> Result<&mut T, NotInChild> {
        let is_owner = self.is_owner();
        self.value.as_mut().filter(|_| is_owner).ok_or(NotInChild)
    }

    /// Takes the value out. Children that are forked from now on can use and drop it.
    ///
    /// # Errors
    ///
    /// Those of [`get`](ParentOwned::get).
    pub fn into_inner(mut self) -> Result<T, NotInChild> {
        if self.is_owner() { self.value.take().ok_or(NotInChild) } else { Err(NotInChild) }
    }

    fn is_owner(&self) -> bool {
        self.generation == generation()
    }
}

impl<T> Drop for ParentOwned<T> {
    fn drop(&mut self) {
        if !self.is_owner() {
            std::mem::forget(self.value.take());
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for ParentOwned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParentOwned").field("value", &self.value).field("generation", &self.generation).finish()
    }
}
