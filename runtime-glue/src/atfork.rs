//! Forks by others: Python's `os.fork` and `multiprocessing`, `daemon(3)`, `forkpty(3)`, any library that calls
//! `fork(2)`.
//!
//! After [`install`] the child of such a fork has selectors of its own, with this crate's policies, as if
//! [`fork`](crate::fork()) had made it. What that function does beyond that is up to whoever forks:
//!
//! | | [`fork`](crate::fork()) | a fork by others |
//! |---|---|---|
//! | selectors and descriptors | by policy | by policy |
//! | the fork cannot be prepared | is refused | the child's runtimes fail: [`failure`] says why |
//! | other threads | are waited for, or the fork is refused | the child is without them |
//! | [`lineage`](crate::lineage()), [`Child`](crate::Child) handles, [`no_fork`](crate::no_fork()) | right | right |
//! | [`on_child`](crate::on_child) hooks | before it returns | in the first turn of a runtime |
//! | waking of `no_fork` futures | before it returns | in the first turn, if the process had one thread |
//! | [`before_fork`](crate::before_fork) hooks, buffered output | run, flushed | nobody's business |
//! | a signal that no stream has received yet | is waited for | may be seen by both |
//!
//! The first turn of a runtime is when it first has nothing to run and asks for events; a new runtime that the child builds
//! has one too. A panic in a hook comes out of its `block_on`. A child that calls `exec` or `_exit` never gets there.
//!
//! # Threads
//!
//! The child has the thread that forked, and no other. If that thread was running a current-thread runtime (a task calls
//! a function that forks; a host calls `block_on`, and forks between two calls), and the runtime had no other threads, the
//! child goes on with the runtime. A runtime that another thread was running is lost: the child can only build a fresh one.
//! Threads that `spawn_blocking` has started count as well, unless they have ended.
//!
//! # What it costs
//!
//! Each `fork(2)` then costs what a fork of ours costs, also when `exec` follows. `std::process::Command` and
//! `tokio::process::Command` do not fork, unless they have a `pre_exec` hook or set a user or groups, and pay nothing. See
//! [`forkio_reactor::fork::atfork`] for this, and for what other handlers may do.
//!
//! # Examples
//!
//! ```no_run
//! fn main() -> std::io::Result<()> {
//!     // Before threads and runtimes are made.
//!     forkio::atfork::install()?;
//!     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//!     runtime.block_on(async {
//!         let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//!         // SAFETY: this process has one thread.
//!         let in_child = unsafe { libc::fork() } == 0; // Or a library does, in a language of its own.
//!         println!("child: {in_child}, generation {}", forkio::lineage().generation());
//!         let (_stream, _peer) = listener.accept().await?; // In both.
//!         Ok(())
//!     })
//! }
//! ```

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use forkio_reactor::fork::atfork as reactor;
use forkio_reactor::fork::atfork::Hooks;
use forkio_reactor::fork::{PrepareError, generation, is_single_threaded};

use crate::{lineage, policy, runtime, sys};

/// Has every `fork(2)` of this process, and of its children, prepared and ended like one of ours. Doing so again does
/// nothing; there is no way back.
///
/// It also sets this crate's [default policies](crate#what-the-child-has), unless that has happened. To be called early:
/// before threads that fork or use runtimes, and before libraries that use them register handlers of their own.
///
/// # Errors
///
/// Those of `pthread_atfork(3)`: no memory.
pub fn install() -> io::Result<()> {
    policy::install_defaults();
    reactor::set_hooks(Hooks { before, first_poll: settle_in });
    reactor::install()
}

/// The generation whose processes others have forked from one without other threads.
static FORKED_ALONE: AtomicU32 = AtomicU32::new(0);

fn before() {
    runtime::try_tag_signal_pipes();
    let is_alone = is_single_threaded() || sys::is_single_threaded().unwrap_or(false);
    FORKED_ALONE.store(if is_alone { generation() + 1 } else { 0 }, Ordering::Relaxed);
}

/// In a child that others have forked: what is left to do, unless it is done.
pub(crate) fn settle_in() {
    lineage::settle_in(FORKED_ALONE.load(Ordering::Relaxed) == generation());
}

/// Why the fork that made this process could not be prepared, if it was made by others. Its runtimes fail then, when they
/// ask for events: tokio panics with the bare error. The way out is a child that does not use them, or `exec`.
pub fn failure() -> Option<&'static PrepareError> {
    reactor::failure()
}
