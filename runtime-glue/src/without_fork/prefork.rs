//! The process that serves on systems without `fork(2)`.

/// The only worker: this process.
#[derive(Debug)]
pub struct Worker(());

impl Worker {
    pub(crate) fn new() -> Worker {
        Worker(())
    }

    /// Returns the index of this worker: 0.
    pub fn index(&self) -> usize {
        0
    }
}
