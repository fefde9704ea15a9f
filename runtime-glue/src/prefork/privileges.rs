//! How workers, templates and the service worker reduce their privileges.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::sys;
use crate::sys::Identity;

pub(super) type Hook = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The changes that a worker, a template or the service worker makes to itself before it runs other code.
#[derive(Clone, Default)]
pub(super) struct Privileges {
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    pub(super) no_new_privs: bool,
    pub(super) umask: Option<u32>,
    pub(super) nice: Option<i32>,
    pub(super) cpus: Vec<usize>,
    pub(super) hook: Option<Hook>,
    /// The result of [`resolve`](Privileges::resolve). A worker may be unable to look users up itself.
    identity: Option<Identity>,
}

impl Privileges {
    /// Looks up the user and the group. The supervisor calls this method before the first fork: the server does not start if
    /// a name is unknown, or if the supervisor could not signal workers of that user.
    pub(super) fn resolve(&mut self) -> io::Result<()> {
        if self.user.is_some() || self.group.is_some() {
            let identity = sys::look_up_identity(self.user.as_deref(), self.group.as_deref())?;
            sys::may_signal(&identity)?;
            self.identity = Some(identity);
        }
        Ok(())
    }

    /// Keeps the worker `index` on its CPU. A worker of a template inherits the template's other changes, but not this one.
    pub(super) fn stay_on_cpu(&self, index: usize) -> io::Result<()> {
        if self.cpus.is_empty() {
            return Ok(());
        }
        let cpu = self.cpus[index % self.cpus.len()];
        step(&format!("stay on CPU {cpu}"), sys::stay_on_cpu(cpu))
    }

    /// Makes the changes other than [`stay_on_cpu`](Privileges::stay_on_cpu). The child calls it.
    pub(super) fn apply(&self) -> io::Result<()> {
        // The new user may lack the privilege to lower the nice value, so this comes before the change of user.
        if let Some(nice) = self.nice {
            step("set the nice value", sys::set_nice(nice))?;
        }
        if let Some(umask) = self.umask {
            sys::set_umask(umask);
        }
        if let Some(identity) = &self.identity {
            step("change user and group", sys::assume_identity(identity))?;
        }
        if self.no_new_privs {
            step("set `no_new_privs`", sys::set_no_new_privs())?;
        }
        match &self.hook {
            Some(hook) => step("run the hook of `before_worker`", hook()),
            None => Ok(()),
        }
    }
}

fn step(what: &str, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| io::Error::new(error.kind(), format!("cannot {what}: {error}")))
}

impl fmt::Debug for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Privileges").field("user", &self.user).field("group", &self.group).finish_non_exhaustive()
    }
}
