//! Makes the child of an unplanned fork reconcile at once, not when it first uses a selector.
//!
//! Most programs do not need this module. But until the child first uses a selector, it holds its parent's connections: a peer
//! does not see the end of a connection that only the parent closes. [`install`] registers a handler with the C library
//! (`pthread_atfork(3)`), so that the child reconciles inside `fork(2)`.
//!
//! The parent pays nothing. Every child of `fork(2)` makes the objects that [`prepare`](super::prepare) makes for a planned
//! fork, even if it only calls `exec`. `posix_spawn(3)`, `system(3)`, `popen(3)`, `vfork(2)` and `_Fork(3)` run no handlers in
//! glibc and musl. `std::process::Command` uses `posix_spawn`, unless it has a `pre_exec`, a user, a group, or a `PATH` of its
//! own: then it forks.
//!
//! # Other handlers
//!
//! The C library calls the handlers of a child in the order in which they were registered. Handlers that were registered
//! before `install` still find the parent's objects. If one of them uses a selector, the child reconciles then. A handler
//! stays registered until its shared object is unloaded.
//!
//! # Threads
//!
//! The child has only the thread that forked. Its selectors work, unless another thread was using forkio's state at the
//! fork: then they are [poisoned](super::InheritedState). If the thread of a single-threaded runtime forks, such as in a
//! function that a task calls, the child continues the runtime. A runtime that another thread was running cannot continue:
//! build another one.
//!
//! # Examples
//!
//! ```no_run
//! use forkio_reactor::fork::{atfork, generation};
//!
//! atfork::install()?;
//! let poll = forkio_reactor::Poll::new()?;
//! // SAFETY: this process has one thread.
//! if unsafe { libc::fork() } == 0 {
//!     // The parent does not notice anything that the child registers.
//!     assert_eq!(generation(), 1);
//! }
//! # drop(poll);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::reconcile;
pub use super::reconcile::failure;
use crate::sys::process;

/// Makes the children of every later `fork(2)`, by this process or its children, reconcile at once. Calling it again does
/// nothing.
///
/// # Errors
///
/// Those of `pthread_atfork(3)`, which fails if it cannot allocate memory.
pub fn install() -> io::Result<()> {
    static IS_INSTALLED: AtomicBool = AtomicBool::new(false);
    if IS_INSTALLED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    process::at_fork_in_child(reconcile::at_fork).inspect_err(|_| IS_INSTALLED.store(false, Ordering::Relaxed))
}
