//! The privileges of workers, the template and the service worker.

use std::io;
use std::sync::Arc;

use super::Prefork;

impl Prefork {
    /// Runs workers, the template and the service worker as another user, with the groups of that user. Takes a name or a
    /// number. For a number that the user database lacks, also set the [`group`](Prefork::group). The supervisor keeps its own
    /// user, for reloads and upgrades.
    pub fn user(mut self, user: impl Into<String>) -> Prefork {
        self.settings.worker.privileges.user = Some(user.into());
        self
    }

    /// Runs workers, the template and the service worker with another group. Takes a name or a number.
    pub fn group(mut self, group: impl Into<String>) -> Prefork {
        self.settings.worker.privileges.group = Some(group.into());
        self
    }

    /// Sets `no_new_privs` in workers, the template and the service worker: programs that they start gain no privileges.
    ///
    /// # Platforms
    ///
    /// Linux. On other systems, these processes do not start.
    pub fn no_new_privs(mut self, set: bool) -> Prefork {
        self.settings.worker.privileges.no_new_privs = set;
        self
    }

    /// Sets the umask of workers, the template and the service worker.
    pub fn umask(mut self, mask: u32) -> Prefork {
        self.settings.worker.privileges.umask = Some(mask);
        self
    }

    /// Sets the nice value of workers, the template and the service worker.
    pub fn nice(mut self, nice: i32) -> Prefork {
        self.settings.worker.privileges.nice = Some(nice);
        self
    }

    /// Keeps each worker on one of these CPUs: worker 0 on the first, worker 1 on the second, and so on, starting again after
    /// the last.
    ///
    /// # Platforms
    ///
    /// Linux. On other systems, the workers do not start.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Prefork {
        self.settings.worker.privileges.cpus = cpus.into_iter().collect();
        self
    }

    /// Calls `hook` in each worker and in the service worker, after they have reduced their privileges and before the code of
    /// the application. With [`load`](Prefork::load) the template calls it instead of its workers. Use it for seccomp filters
    /// or capabilities. A process whose hook fails does not start. If it is a worker or the template, and the server
    /// has never been ready, the server ends at once, as after any failed change of privileges.
    pub fn before_worker(mut self, hook: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Prefork {
        self.settings.worker.privileges.hook = Some(Arc::new(hook));
        self
    }
}
