//! Why workers end.

use std::fmt;

/// Why a worker has ended, or must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The worker died after it was ready.
    Died,
    /// The worker ended before it was ready.
    Boot,
    /// The worker was not ready in time.
    BootTimeout,
    /// The runtime of the worker was stuck.
    Stuck,
    /// The worker asked to be replaced.
    Asked,
    /// An operator asked to replace the worker, or to retire all workers (SIGWINCH).
    Operator,
    /// The worker has begun as many requests as it may.
    Requests,
    Age,
    Rss,
    Pss,
    /// A newer generation has taken over, or the reload that started the worker has failed.
    Reload,
    /// The number of workers was reduced.
    Scaled,
    /// Another process told the worker to end.
    Signal,
}

impl Reason {
    #[cfg(feature = "status")]
    pub(super) const ALL: [Reason; 13] = [
        Reason::Died,
        Reason::Boot,
        Reason::BootTimeout,
        Reason::Stuck,
        Reason::Asked,
        Reason::Operator,
        Reason::Requests,
        Reason::Age,
        Reason::Rss,
        Reason::Pss,
        Reason::Reload,
        Reason::Scaled,
        Reason::Signal,
    ];

    /// Whether the worker has failed. The other ends are planned, or another process has asked for them.
    #[cfg(feature = "status")]
    pub(super) fn is_failure(self) -> bool {
        matches!(self, Reason::Died | Reason::Boot | Reason::BootTimeout | Reason::Stuck)
    }

    /// Returns the name in metrics, JSON and logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Reason::Died => "died",
            Reason::Boot => "boot",
            Reason::BootTimeout => "boot_timeout",
            Reason::Stuck => "stuck",
            Reason::Asked => "asked",
            Reason::Operator => "operator",
            Reason::Requests => "max_requests",
            Reason::Age => "max_age",
            Reason::Rss => "max_rss",
            Reason::Pss => "max_pss",
            Reason::Reload => "reload",
            Reason::Scaled => "scaled",
            Reason::Signal => "signal",
        }
    }

    /// Returns the text on the status page.
    #[cfg(feature = "status")]
    pub(super) fn text(self) -> &'static str {
        match self {
            Reason::Died => "died",
            Reason::Boot => "ended before it was ready",
            Reason::BootTimeout => "was not ready in time",
            Reason::Stuck => "its runtime was stuck",
            Reason::Asked => "asked to be replaced",
            Reason::Operator => "retired by an operator",
            Reason::Requests => "reached its request limit",
            Reason::Age => "reached its age limit",
            Reason::Rss => "reached its RSS limit",
            Reason::Pss => "reached its PSS limit",
            Reason::Reload => "replaced by a reload",
            Reason::Scaled => "fewer workers wanted",
            Reason::Signal => "told to end by another process",
        }
    }
}

/// Prints the [name](Reason::name).
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
