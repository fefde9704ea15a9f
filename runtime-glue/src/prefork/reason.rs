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

#[cfg(feature = "status")]
impl Reason {
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
    pub(super) fn is_failure(self) -> bool {
        matches!(self, Reason::Died | Reason::Boot | Reason::BootTimeout | Reason::Stuck)
    }

    /// Returns the text on the status page.
    pub(super) fn text(self) -> &'static str {
        self.name_and_text().1
    }
}

impl Reason {
    /// Returns the name in metrics, JSON and logs.
    pub(super) fn name(self) -> &'static str {
        self.name_and_text().0
    }

    fn name_and_text(self) -> (&'static str, &'static str) {
        match self {
            Reason::Died => ("died", "died"),
            Reason::Boot => ("boot", "ended before it was ready"),
            Reason::BootTimeout => ("boot_timeout", "was not ready in time"),
            Reason::Stuck => ("stuck", "its runtime was stuck"),
            Reason::Asked => ("asked", "asked to be replaced"),
            Reason::Operator => ("operator", "retired by an operator"),
            Reason::Requests => ("max_requests", "reached its request limit"),
            Reason::Age => ("max_age", "reached its age limit"),
            Reason::Rss => ("max_rss", "reached its RSS limit"),
            Reason::Pss => ("max_pss", "reached its PSS limit"),
            Reason::Reload => ("reload", "replaced by a reload"),
            Reason::Scaled => ("scaled", "fewer workers wanted"),
            Reason::Signal => ("signal", "told to end by another process"),
        }
    }
}

/// Prints the [name](Reason::name).
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
