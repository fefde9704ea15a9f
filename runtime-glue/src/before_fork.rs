//! Hooks that the parent runs before it forks.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ForkError;

pub(crate) type Hook = Box<dyn FnMut() -> io::Result<()> + Send>;

static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// Calls `hook` in the parent at every fork that this crate makes from now on, [`Prefork`](crate::Prefork)'s included,
/// right before it: no task of the thread runs in between. The hook registered last runs first, as with
/// `pthread_atfork(3)`.
///
/// The place to write out what is buffered in memory, which both processes would write otherwise, and to
/// [audit](crate::audit()) what they would share. (The standard library's output and C's stdio are flushed after the hooks
/// by [`fork`](crate::fork()) itself.) The counterpart in the child is [`on_child`](crate::on_child); in the parent it is
/// what comes after `fork().await`.
///
/// A hook of a process that [`fork`](crate::fork()) is to fork must not start threads: the fork is refused then. Signals may
/// be blocked while hooks run. Children have the hooks too, for forks of their own.
///
/// # Errors
///
/// A hook that returns an error refuses the fork: [`ForkError::Hook`]. Those that were to run after it do not.
///
/// # Examples
///
/// ```
/// use std::fs::File;
/// use std::io::{BufWriter, Write};
/// use std::sync::{Arc, Mutex};
///
/// # fn main() -> std::io::Result<()> {
/// let log = Arc::new(Mutex::new(BufWriter::new(File::options().append(true).open("/dev/null")?)));
/// let flushed = Arc::clone(&log);
/// forkio::before_fork(move || flushed.lock().unwrap().flush());
/// # Ok(())
/// # }
/// ```
pub fn before_fork(hook: impl FnMut() -> io::Result<()> + Send + 'static) {
    hooks().push(Box::new(hook));
}

pub(crate) fn hooks() -> MutexGuard<'static, Vec<Hook>> {
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the hooks; whether there were any.
pub(crate) fn run_hooks() -> Result<bool, ForkError> {
    /// Puts the hooks back, also when one of them panics.
    struct Running(Vec<Hook>);

    impl Drop for Running {
        fn drop(&mut self) {
            let mut hooks = hooks();
            self.0.append(&mut hooks);
            *hooks = std::mem::take(&mut self.0);
        }
    }

    // Out of the lock while they run: a hook may register another one, for the next fork.
    let mut running = Running(std::mem::take(&mut *hooks()));
    for hook in running.0.iter_mut().rev() {
        hook().map_err(ForkError::Hook)?;
    }
    Ok(!running.0.is_empty())
}
