//! Reconciling at once: the child of an unplanned fork does not wait until it uses a selector.
//!
//! Without this module the child of a fork that other code has made reconciles when it first uses a selector. That is all
//! that most programs need. But until then the child holds its parent's connections: a peer does not see the end of a
//! connection that only the parent closes. [`install`] registers a handler with the C library (`pthread_atfork(3)`), so
//! that the child reconciles inside `fork(2)`.
//!
//! # Costs
//!
//! The parent pays nothing. Every child of `fork(2)` pays for its reconciliation, even one that only calls `exec`: it makes
//! the objects that [`prepare`](super::prepare) makes for a planned fork. `posix_spawn(3)`, `system(3)`, `popen(3)` and
//! `vfork(2)` run no handlers in glibc and musl, and cost nothing. `std::process::Command` uses `posix_spawn`, unless it has
//! a `pre_exec`, a user, a group, or a `PATH` of its own: then it forks. `_Fork(3)` runs no handlers either: its child
//! reconciles when it first uses a selector.
//!
//! # Other handlers
//!
//! The C library calls the handlers of a child in the order in which they were registered. Handlers that were registered
//! before `install` still find the parent's objects. If one of them uses a selector, the child reconciles then.
//!
//! Handlers cannot be removed. The C library forgets them when the shared object that they are in is unloaded.
//!
//! # Threads
//!
//! As after every `fork(2)`, the child has only the thread that forked. Its selectors work, unless another thread was
//! changing forkio's state at the fork: then they are [poisoned](super::InheritedState). A runtime that another thread was
//! running cannot continue: build another one. If the thread of a single-threaded runtime forks, such as in a function that
//! a task calls, the child continues the runtime.
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
    extern "C" fn in_child() {
        reconcile::at_fork();
    }

    static IS_INSTALLED: AtomicBool = AtomicBool::new(false);
    if IS_INSTALLED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    process::at_fork_in_child(in_child).inspect_err(|_| IS_INSTALLED.store(false, Ordering::Relaxed))
}
