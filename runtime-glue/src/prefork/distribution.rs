//! Who gets the next connection.

/// Who gets the next connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Distribution {
    /// One queue, of which an arrival wakes one worker.
    #[default]
    Shared,
    /// A queue per worker.
    ReusePort,
    /// A queue per worker, and per CPU.
    ReusePortPerCpu,
    /// One queue, of which only those workers accept that have no more connections than the others.
    Balanced,
}
