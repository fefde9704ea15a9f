//! Hooks that the parent runs before it forks.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ForkError;
use crate::hooks::Hooks;

type Hook = Box<dyn FnMut() -> io::Result<()> + Send>;

pub(crate) static HOOKS: Hooks<Hook> = Hooks::new();

/// Calls `hook` in the parent right before every fork that this crate makes from now on, including those of
/// [`Prefork`](crate::prefork::Prefork).
///
/// In a hook, flush the buffers of the application: otherwise both processes would write them. Also
/// [audit](crate::audit::shared_descriptors) the descriptors that both processes would share. [`fork`](crate::fork()) flushes
/// the standard library's output and C's stdio by itself, after the hooks.
///
/// The hook that was registered last runs first, as with `pthread_atfork(3)`. No task of the thread runs between the hooks and
/// the fork. [`fork`](crate::fork()) blocks signals before it runs the hooks, and returns an error if a hook has started threads.
/// A hook must not fork: [`fork_with_threads`](crate::fork_with_threads()) would wait forever for the fork that the hook belongs
/// to.
///
/// Children have the hooks too, for forks of their own. The counterpart in the child is [`on_child`](crate::on_child).
///
/// # Errors
///
/// If a hook returns an error or panics, the fork fails with [`ForkError::Hook`], and the remaining hooks do not run.
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
    HOOKS.lock().push(Box::new(hook));
}

/// Runs the hooks. Returns whether there were any.
pub(crate) fn run_hooks() -> Result<bool, ForkError> {
    // A panic must not end a supervisor.
    let run =
        |hook: &mut Hook| catch_unwind(AssertUnwindSafe(hook)).unwrap_or_else(|_| Err(io::Error::other("it panicked")));
    HOOKS.run(|hooks| {
        hooks.iter_mut().rev().try_for_each(run).map_err(ForkError::Hook)?;
        Ok(!hooks.is_empty())
    })
}
