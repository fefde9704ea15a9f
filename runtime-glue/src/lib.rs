//! `fork()` for a tokio runtime, and a prefork supervisor on top.
//!
//! A current-thread runtime with bound listeners, running timers and spawned tasks calls [`fork`], and the child goes on
//! running the same runtime: its listeners are registered, its timers tick, its wakers wake it and only it. tokio comes
//! unmodified from the registry; what makes this possible is the selector under it, which replaces mio:
//!
//! ```toml
//! [patch.crates-io]
//! mio = { git = "https://github.com/forkio-rs/forkio" }
//! ```
//!
//! Without those two lines [`fork`] returns [`ForkError::ForeignSelector`], which says so.
//!
//! If a fork has made your program hang, begin with [`guide::hangs`]. Before you fork for the first time, read
//! [`guide::copied`], on what forkio does not see to.
//!
//! # Examples
//!
//! ```no_run
//! use forkio::Fork;
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! runtime.block_on(async {
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
//!     match forkio::fork().await.unwrap() {
//!         Fork::Parent(mut child) => println!("{} ended: {}", child.id(), child.wait().await.unwrap()),
//!         Fork::Child(_) => {
//!             let (_stream, _peer) = listener.accept().await.unwrap();
//!         }
//!     }
//! });
//! ```
//!
//! # What the child has
//!
//! Every task of the runtime goes on in the child, from where it was: **both** processes run it. Wrap what only the
//! parent should do in [`no_fork`]. What becomes of I/O objects is a policy per registration; this crate's defaults are
//! those a server wants:
//!
//! | kind | in the child |
//! |---|---|
//! | listening socket | inherited ([`Prefork`] mutes it in the parent) |
//! | datagram socket | inherited |
//! | connected stream, pipe end | **severed**: reads end of file; the peer sees the end when the parent closes |
//! | `UnixStream::pair`, `UnixDatagram::pair`, `pipe()` made in this process | inherited: it may be the channel to the parent |
//! | tokio's signal pipe, wakers | renewed: a signal or wake reaches the process it was meant for |
//! | kernel timer | renewed: it expires in both, after the time that remained |
//! | pidfd (`tokio::process::Child`) | severed: whoever waits gets an error at once |
//! | inotify, another epoll | no-fork: the child gets no events |
//!
//! [`set_policy`] changes it for one object, [`set_default_policy`] for a kind.
//!
//! tokio's timers belong to the runtime's memory and fire in both processes, each at its deadline; [`Timer`] is one of the
//! kernel's. A signal that has arrived but
//! not been received by its stream when the process forks may be seen by both. Where SIGCHLD is handled, the child is sent
//! one: tasks that wait for a process by that signal find that it is not theirs.
//!
//! # What cannot be forked
//!
//! A process with other threads, among them those of `spawn_blocking` until they have been idle for their keep-alive
//! time ([`ForkOptions::idle_threads`]), and so a multi-threaded runtime. [`fork`] refuses, having changed nothing.
//!
//! # Runtimes with threads
//!
//! They cannot go on in a child, but the child can have another one: hold it in a [`ProcessRuntime`], which builds one in
//! each process on first use, and fork with [`fork_with_threads`].
//!
//! # Forks by others
//!
//! A plain `fork(2)`, by a library or a language runtime, shares the kernel queues between the processes, as it does with
//! mio, unless the program has called [`atfork::install`]: then it is as good as one of ours.
//!
//! # Platforms
//!
//! Linux 5.4 or later (`waitid(P_PIDFD)`). FreeBSD, DragonFly, NetBSD, OpenBSD and macOS: compiled, and its half of kqueue(2)
//! run on a model; on none of these systems yet.
//! What differs there is said under this heading of [`Child`], [`Distribution`] and [`audit()`]. A worker whose parent is killed
//! sees it on all of them; one that is stuck ends with its parent on Linux, FreeBSD and DragonFly only.

#[cfg(feature = "atfork")]
pub mod atfork;
mod audit;
mod before_fork;
mod child;
mod error;
mod fork;
pub mod guide;
mod lineage;
mod no_fork;
mod policy;
pub mod prefork;
mod process_owned;
mod process_runtime;
mod rest;
mod runtime;
mod sys;
mod timer;

pub use audit::{Audit, SharedObject, Untagged, audit};
pub use before_fork::before_fork;
pub use child::Child;
pub use error::{ForkError, Forked, Thread};
pub use fork::{Fork, ForkOptions, fork, fork_with_threads, prepare_ahead};
pub use forkio_reactor::fork::{ForkPolicy, PrepareError, PrepareObject, SourceKind};
pub use forkio_reactor::unix::Clock;
pub use lineage::{Lineage, lineage, on_child};
pub use no_fork::{NoFork, no_fork};
pub use policy::{default_policy, mute, set_default_policy, set_exclusive, set_policy, unmute};
#[doc(no_inline)]
pub use prefork::{
    Accept, Acceptor, Connections, Counted, Distribution, Listener, Prefork, PreforkError, Shutdown, Stopped, Worker,
    WorkerOutput,
};
pub use process_owned::ProcessOwned;
pub use process_runtime::{ProcessRuntime, RuntimeError};
pub use timer::Timer;

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
