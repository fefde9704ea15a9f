//! Limits of each worker.

use std::time::Duration;

use super::Prefork;

impl Prefork {
    /// Replaces a worker after this many requests, plus [`jitter`](Prefork::jitter). 0 means no limit, as `None` does.
    pub fn max_requests(mut self, requests: impl Into<Option<u64>>) -> Prefork {
        self.settings.limits.requests = requests.into().filter(|requests| *requests > 0);
        self
    }

    /// Replaces a worker at this age, plus [`jitter`](Prefork::jitter). Zero means no limit, as `None` does.
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Prefork {
        self.settings.limits.age = age.into().filter(|age| !age.is_zero());
        self
    }

    /// Replaces a worker whose resident memory, including shared pages, exceeds this many bytes. 0 means no limit, as `None`
    /// does.
    ///
    /// # Platforms
    ///
    /// Linux. Other systems ignore the limit.
    pub fn max_rss(mut self, bytes: impl Into<Option<u64>>) -> Prefork {
        self.settings.limits.rss = bytes.into().filter(|bytes| *bytes > 0);
        self
    }

    /// Replaces a worker whose proportional set size (PSS) exceeds this many bytes. The PSS divides each page by the number of
    /// processes that share it. 0 means no limit, as `None` does.
    ///
    /// # Platforms
    ///
    /// Linux. Other systems ignore the limit.
    pub fn max_pss(mut self, bytes: impl Into<Option<u64>>) -> Prefork {
        self.settings.limits.pss = bytes.into().filter(|bytes| *bytes > 0);
        self
    }

    /// Stops a worker from accepting while it has this many connections open. New connections then wake the other
    /// workers, unless they arrive in a queue that only this worker accepts from. 0 means no limit, as `None` does.
    pub fn max_connections(mut self, connections: impl Into<Option<usize>>) -> Prefork {
        self.settings.worker.max_connections = connections.into().filter(|connections| *connections > 0);
        self
    }

    /// Sets the largest fraction of [`max_requests`](Prefork::max_requests) and [`max_age`](Prefork::max_age) that is added to
    /// them at random for each worker, so that workers do not reach these limits together. 0.1 unless set. In any case the
    /// supervisor replaces one worker at a time. A negative fraction and NaN count as 0, and a fraction above 1 counts as 1.
    pub fn jitter(mut self, part: f64) -> Prefork {
        self.settings.limits.jitter = if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) };
        self
    }
}
