//! How workers start, stop and are replaced.

use std::time::Duration;

use super::Prefork;

impl Prefork {
    /// Sets how long a worker may take to finish its connections after the supervisor has told it to end. The
    /// supervisor kills a worker that still runs one second after this limit. 8 seconds unless set.
    pub fn shutdown_timeout(mut self, limit: Duration) -> Prefork {
        self.settings.worker.shutdown_timeout = limit;
        self
    }

    /// Sets how long the server still accepts connections after the signal to stop. In this time,
    /// [`is_lame_duck`](crate::prefork::WorkerHandle::is_lame_duck) returns true. Answer a readiness probe with it, so
    /// that a load balancer sends no more connections. Zero unless set. A second signal ends the wait.
    ///
    /// Meanwhile the server refuses to reload, to upgrade, to retire workers, and to change their number. If an upgrade
    /// has begun, and its new program is not ready yet, the supervisor kills that program.
    pub fn lame_duck(mut self, period: Duration) -> Prefork {
        self.settings.lame_duck = period;
        self
    }

    /// Sets how long a worker may take to become [ready](crate::prefork::Worker::ready). The supervisor kills a worker
    /// that takes longer, and counts a boot failure. It also kills a template that takes longer to fork a worker, not
    /// counting the time for which the template waits for threads to end. A minute unless set.
    pub fn boot_timeout(mut self, limit: Duration) -> Prefork {
        self.settings.boot_timeout = limit;
        self
    }

    /// Makes a worker ready only when it calls [`Worker::ready`](crate::prefork::Worker::ready), and not with its first
    /// accept. Use it for workers that accept connections before they can serve.
    pub fn explicit_ready(mut self, explicit: bool) -> Prefork {
        self.settings.worker.explicit_ready = explicit;
        self
    }

    /// Sets how long the runtime of a ready worker may be stuck, such as in a blocking call or an endless loop. The
    /// supervisor then kills and replaces the worker. 30 seconds unless set. `None` or zero turns the heartbeat off.
    /// The service worker has the same limit, or five seconds if that is longer.
    pub fn heartbeat_timeout(mut self, limit: impl Into<Option<Duration>>) -> Prefork {
        self.settings.worker.heartbeat_timeout = limit.into().filter(|limit| !limit.is_zero());
        self
    }

    /// Lets a worker that is stuck, or not ready in time, print a stack to standard error (SIGABRT) before it is killed: the
    /// stack of its first thread, or of a thread of its own runtime ([`run_on`](Prefork::run_on)). The worker also leaves a core
    /// dump, if the system is set up for that.
    pub fn abort_stuck(mut self, abort: bool) -> Prefork {
        self.settings.worker.abort_stuck = abort;
        self
    }

    /// Sets how many boot failures in a row, at one worker index, end the server. A boot failure is a worker that ends
    /// before it is ready. A server that has been ready ends only if no worker is ready. 8 unless set: with the pauses
    /// between them, these failures take about 11 seconds. 0 means no limit. Until the server has been ready, one
    /// worker that cannot change its privileges or its CPU ends the server, regardless of the limit.
    pub fn crash_limit(mut self, failures: u32) -> Prefork {
        self.settings.crash_limit = failures;
        self
    }

    /// Sets how many extra workers there may be during a reload. Unless set, the whole new generation becomes ready
    /// before a worker of the old one retires. Set a small number if memory is scarce. With 0,
    /// [`max_missing`](Prefork::max_missing) is at least 1.
    pub fn max_extra(mut self, workers: usize) -> Prefork {
        self.settings.max_extra = Some(workers);
        self
    }

    /// Sets how many workers may be missing during a reload that [`max_extra`](Prefork::max_extra) limits. 0 unless
    /// set.
    pub fn max_missing(mut self, workers: usize) -> Prefork {
        self.settings.max_missing = workers;
        self
    }

    /// Sets how many old generations may drain at the same time. A reload waits until there are fewer. 3 unless set. 0
    /// counts as 1.
    pub fn max_draining(mut self, generations: usize) -> Prefork {
        self.settings.max_draining = generations.max(1);
        self
    }

    /// Sets how long the `load` of a template may take; see [`load`](Prefork::load). Five minutes unless set.
    pub fn load_timeout(mut self, limit: Duration) -> Prefork {
        self.settings.load_timeout = limit;
        self
    }

    /// Sets how long a new program may take to become ready in an upgrade (SIGUSR2). The supervisor kills a program
    /// that takes longer, and continues. A minute unless set.
    pub fn upgrade_timeout(mut self, limit: Duration) -> Prefork {
        self.settings.upgrade_timeout = limit;
        self
    }
}
