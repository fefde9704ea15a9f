//! Forks made by other code, such as Python's `os.fork`, `daemon(3)`, or any library that calls `fork(2)`.
//!
//! This module needs [the patch](crate#the-patch). Without it, the child shares the epoll instances and the signal pipe of
//! its parent's runtimes that are not in a [`ProcessRuntime`](crate::ProcessRuntime).
//!
//! The child of such an *unplanned* fork reconciles when it first uses a selector: it gets selectors of its own, with this
//! crate's policies. Nothing needs to be installed for that. After [`install`], the child reconciles inside `fork(2)`, so
//! that its connections are severed even if it never uses the runtime.
//!
//! | | [`fork`](crate::fork()) | an unplanned fork |
//! |---|---|---|
//! | selectors and descriptors | by policy | by policy |
//! | an object that the child needs cannot be made | `fork` returns an error | the child's runtimes fail: [`failure`] says why |
//! | other threads | `fork` waits for them to end, or returns an error | the child does not have them |
//! | [`Child`](crate::Child), [`parent_only`](crate::parent_only()) | fail with `NotInChild` in the child | the same |
//! | [`Lineage`](crate::Lineage) | counts every fork | skips a process that used neither a runtime nor this crate, except after [`install`] |
//! | [`on_child`](crate::on_child) hooks | run before `fork` returns | run in the first turn of a runtime, or before it |
//! | [`parent_only`](crate::parent_only()) futures wake | before `fork` returns | in the first turn; if the process had other threads, only those that the forking thread polled last |
//! | [`before_fork`](crate::before_fork) hooks, buffered output | run, flushed | not run, not flushed |
//! | a signal that no stream has received yet | `fork` lets the parent receive it | both processes may receive it |
//!
//! The *first turn* of a runtime begins when it first asks its selector for events after the fork. A runtime that the
//! child has built has one too. A panic in a hook propagates from the `block_on` of the runtime whose turn runs the
//! hook. A child that only calls `exec` or `_exit` has no turn.
//!
//! This crate's policies and hooks apply once the program has called [`install`], `Lineage::current`, `on_child`,
//! `parent_only`, `set_default_policy` or a function that forks or audits, or has used a `ProcessRuntime`. `set_policy`
//! has no such effect. Before that the reactor's defaults apply, which inherit connections.
//!
//! # Threads
//!
//! The child has only the thread that forked. If this thread was running a current-thread runtime, and the runtime had no
//! other threads, the child continues the runtime. Threads of `spawn_blocking` count, unless they have ended. A runtime of
//! another thread is lost in the child: use a [`ProcessRuntime`](crate::ProcessRuntime), which builds a new one.
//!
//! # Examples
//!
//! ```no_run
//! fn main() -> std::io::Result<()> {
//!     forkio::atfork::install()?;
//!     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//!     runtime.block_on(async {
//!         let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//!         // SAFETY: this process has one thread.
//!         let in_child = unsafe { libc::fork() } == 0; // Or a library calls it.
//!         println!("child: {in_child}, generation {}", forkio::Lineage::current().generation());
//!         let (_stream, _peer) = listener.accept().await?; // In both processes.
//!         Ok(())
//!     })
//! }
//! ```

use std::io;
use std::mem::ManuallyDrop;

use forkio_reactor::fork::atfork as reactor;
use forkio_reactor::fork::{PrepareError, generation};

use crate::paused_workers::PausedWorkers;
use crate::{policy, sys};

/// Makes all later children of this process, and their children, reconcile inside `fork(2)`. This cannot be undone.
///
/// Under glibc on x86_64, the child of a process with threads also keeps the stacks of these threads inside `fork(2)`:
/// [`ProcessRuntime`](crate::ProcessRuntime#parking_lot) needs them.
///
/// The parent pays nothing. Each child pays for its reconciliation, even if it only calls `exec`. `std::process::Command`
/// and `tokio::process::Command` use `fork(2)` only if they have a `pre_exec` hook, or set a user, groups or `PATH`.
/// Their other children pay nothing. See [`forkio_reactor::fork::atfork`].
///
/// # Errors
///
/// Those of `pthread_atfork(3)`: no memory.
pub fn install() -> io::Result<()> {
    policy::install_defaults();
    reactor::install()?;
    sys::keep_stacks_at_forks()
}

/// Returns the error if this process, the child of an unplanned fork, could not reconcile.
///
/// Its inherited runtimes fail when they ask for events: tokio panics with a message that has the error, but does not name the
/// object that could not be made. Such a child can build new runtimes, or call `exec`.
pub fn failure() -> Option<&'static PrepareError> {
    reactor::failure()
}

/// Pauses the workers of each multi-threaded [`ProcessRuntime`](crate::ProcessRuntime), so that they hold no lock when other
/// code forks.
///
/// Call it where the host announces a fork, such as in `os.register_at_fork(before=...)` of Python, and drop the result after
/// the fork, in both processes. The workers pause between two polls of their tasks, unless a poll takes longer than 50
/// milliseconds. They continue after two seconds in any case, because the host may wait for their tasks before it forks.
///
/// [`fork_with_threads`](crate::fork_with_threads()) pauses the workers itself.
///
/// # Examples
///
/// ```
/// let paused = forkio::atfork::pause_workers();
/// // The host forks.
/// drop(paused);
/// ```
pub fn pause_workers() -> WorkersPaused {
    WorkersPaused { workers: ManuallyDrop::new(PausedWorkers::pause()), generation: generation() }
}

/// Workers that pause until this value is dropped; see [`pause_workers`].
#[must_use = "the workers continue when it is dropped"]
pub struct WorkersPaused {
    workers: ManuallyDrop<PausedWorkers>,
    generation: u32,
}

impl Drop for WorkersPaused {
    fn drop(&mut self) {
        // A child does not have the workers, and one of them may have held the lock of the shared state.
        if self.generation == generation() {
            // SAFETY: `workers` is not used again.
            unsafe { ManuallyDrop::drop(&mut self.workers) };
        }
    }
}

impl std::fmt::Debug for WorkersPaused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkersPaused").finish_non_exhaustive()
    }
}
