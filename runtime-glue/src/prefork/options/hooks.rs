//! Functions of the application that the supervisor or a worker calls.

use std::sync::Arc;

use super::Prefork;

impl Prefork {
    /// Calls `ready` in the supervisor when all workers are ready for the first time.
    pub fn on_ready(mut self, ready: impl FnOnce() + Send + 'static) -> Prefork {
        self.settings.on_ready = Some(Box::new(ready));
        self
    }

    /// Calls `reload` in the supervisor at the start of each reload, for example to read a configuration again. Without
    /// [`load`](Prefork::load), the supervisor forks the new workers after `reload` has returned. If `reload` panics, the reload
    /// fails, and the old generation continues to serve.
    pub fn on_reload(mut self, mut reload: impl FnMut() + Send + 'static) -> Prefork {
        self.settings.on_reload = Some(Box::new(move || {
            reload();
            Ok(())
        }));
        self
    }

    /// Calls `reload` before the application's own [`on_reload`](Prefork::on_reload). An error ends the reload.
    #[cfg(feature = "tls")]
    pub(crate) fn on_reload_first(
        mut self,
        mut reload: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> Prefork {
        let mut own = self.settings.on_reload.take();
        self.settings.on_reload = Some(Box::new(move || {
            reload()?;
            own.as_mut().map_or(Ok(()), |own| own())
        }));
        self
    }

    /// Calls `reopen` in the supervisor, each worker, each template and the service worker on SIGUSR1. Use it to open log files
    /// again after they were rotated. If the workers run as [another user](Prefork::user), that user must be able to write the
    /// new files: put `create 0640 USER GROUP` into the configuration of logrotate. If `reopen` panics, the process continues.
    pub fn on_reopen_logs(mut self, reopen: impl Fn() + Send + Sync + 'static) -> Prefork {
        self.settings.worker.on_reopen = Some(Arc::new(reopen));
        self
    }

    /// Calls `end` in each worker when its work and its tasks have ended, or at its shutdown timeout. The worker then
    /// exits without dropping the values that the application still holds. So flush buffers in `end`, such as those of
    /// a log writer with a thread. A worker that is killed does not call `end`.
    pub fn on_worker_end(mut self, end: impl Fn() + Send + Sync + 'static) -> Prefork {
        self.settings.worker.on_end = Some(Arc::new(end));
        self
    }
}
