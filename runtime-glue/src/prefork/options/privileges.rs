//! What workers and the template are allowed to do.

use std::io;
use std::sync::Arc;

use super::Prefork;

impl Prefork {
    /// Runs workers and the template as another user, with the groups of that user. A name or a number. The supervisor
    /// keeps its own user, for reloads and upgrades.
    pub fn user(mut self, user: impl Into<String>) -> Prefork {
        self.settings.worker.privileges.user = Some(user.into());
        self
    }

    /// Runs workers and the template with another group. A name or a number.
    pub fn group(mut self, group: impl Into<String>) -> Prefork {
        self.settings.worker.privileges.group = Some(group.into());
        self
    }

    /// Sets `no_new_privs` in workers and the template: programs that they start gain no privileges. Linux.
    pub fn no_new_privs(mut self, set: bool) -> Prefork {
        self.settings.worker.privileges.no_new_privs = set;
        self
    }

    /// Sets the umask of workers and the template.
    pub fn umask(mut self, mask: u32) -> Prefork {
        self.settings.worker.privileges.umask = Some(mask);
        self
    }

    /// Sets the nice value of workers and the template.
    pub fn nice(mut self, nice: i32) -> Prefork {
        self.settings.worker.privileges.nice = Some(nice);
        self
    }

    /// Keeps each worker on one of these CPUs: worker 0 on the first, worker 1 on the second, and so on, starting again after
    /// the last.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Prefork {
        self.settings.worker.privileges.cpus = cpus.into_iter().collect();
        self
    }

    /// Calls `hook` in each worker, in the template and in the service worker, after they have reduced their privileges and before the code of
    /// the application. Use it for seccomp filters or capabilities. A process whose hook fails does not start.
    pub fn before_worker(mut self, hook: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Prefork {
        self.settings.worker.privileges.hook = Some(Arc::new(hook));
        self
    }
}
