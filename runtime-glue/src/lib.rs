//! `fork()` for tokio: both processes continue the current-thread runtime.
//!
//! The child has every task, timer and listener of the runtime, and its own kernel queue. tokio stays unmodified.
//!
//! # The patch
//!
//! Two lines in the `Cargo.toml` of your workspace put forkio's selector under tokio. On Linux they are optional. On other
//! systems [`fork`] returns [`ForkError::ForeignSelector`] without them.
//!
//! ```toml
//! [patch.crates-io]
//! mio = { git = "https://github.com/forkio-rs/forkio" }
//! ```
//!
//! | | with the patch | without it, on Linux |
//! |---|---|---|
//! | [`fork`], [`prefork`] and `serve`, [`ProcessRuntime`], policies | yes | yes |
//! | forks that other code makes | the child gets its own queues | the child shares its parent's epoll instance and signal pipe, unless they belong to a [`ProcessRuntime`] |
//! | wakes | without a system call, if the runtime is awake | as with mio |
//! | a connection to a listener that workers share | wakes one worker | wakes all workers that wait |
//! | the cost of a fork | grows with the number of registrations, unless the fork is prepared in advance | grows with the number of registrations and descriptors |
//!
//! Without the patch, forkio reads tokio's registrations from `/proc/self/fdinfo`, in the parent, before the fork. It asks the
//! kernel about each descriptor. If a descriptor was closed and used again, forkio leaves it alone. [`fork`] returns an error if
//! it cannot know for certain what the child must get. Five more things differ:
//!
//! - [`set_policy`] works inside a runtime, or once the runtime is known from an earlier fork.
//! - A socket pair or pipe that other code made, such as `std`, is inherited too if both ends are open in this process. If the
//!   kernel does not report the peers of sockets (`sock_diag(7)`), the ends of a pair are severed like other streams.
//! - If a fork has left a registration out ([`NoFork`](ForkPolicy::NoFork)), `into_std` of that object fails in the child.
//! - [`fork_with_threads`] does not sever a connection that another thread registers after the call has begun.
//! - If the runtime has just read a signal, and the waiting task has not received it yet, the child may get this signal too.
//!
//! # Which item to use
//!
//! | I want to | use |
//! |---|---|
//! | serve an axum app or a tower service from worker processes | `serve`, `Server` (feature `http`) |
//! | convert a program with `axum::serve` | [`guide::recipes`] |
//! | serve another protocol from worker processes | [`prefork::Prefork`] |
//! | see and control a server | `Server::status`, `Server::control` (feature `status`) |
//! | fork a current-thread runtime | [`fork()`], [`ForkOptions`] |
//! | fork a program with threads | [`ProcessRuntime`], [`fork_with_threads`] |
//! | survive forks made by other code | [the patch](#the-patch); [`atfork`] to reconcile at once |
//! | choose what the child gets | [`set_policy`], [`set_default_policy`] |
//! | restrict a task or value to the parent | [`parent_only()`], [`ParentOwned`] |
//! | run code at a fork | [`before_fork`], [`on_child`] |
//! | know which process this is | [`Lineage::current`] |
//! | find descriptors that are shared by accident | [`audit::shared_descriptors`] |
//! | use a kernel timer | [`time::Timer`] |
//! | find out why a program hangs | [`guide::hangs`] |
//!
//! [`fork()`] has a complete example. Before you fork for the first time, read [`guide::copied`].
//!
//! # What the child has
//!
//! **Both** processes run every task. I/O objects follow their [`ForkPolicy`], by default:
//!
//! | kind | in the child |
//! |---|---|
//! | listener, datagram socket, tokio's `pair()` or `pipe()` made in this process | inherited |
//! | connection, other stream pair, other pipe end, watched process | severed: reads return end of file, `wait` fails |
//! | wakers, timers, tokio's signal pipe | renewed: each process has its own |
//! | inotify, another epoll instance | no-fork: no events |
//!
//! # Platforms
//!
//! Linux 5.4 or later. On FreeBSD, DragonFly, NetBSD, OpenBSD and macOS the crate compiles. The tests of this version ran on a
//! model of kqueue(2), not on these systems. On Windows, which has no `fork(2)`, only [`ProcessRuntime`] and, with the feature
//! `http`, `serve` and `Server` exist. They run in one process.

#![cfg_attr(docsrs, feature(doc_cfg))]

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(all(test, forkio_kqueue))]
extern crate forkio_kqueue_model as _;

/// Implements `Debug` of an error. A `main` that returns the error prints `Debug`, and the text of `Display` says what to
/// do.
macro_rules! debug_like_display {
    ($error:ty) => {
        /// Prints the text of [`Display`](std::fmt::Display).
        impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

cfg_if::cfg_if! {
    if #[cfg(any(windows, forkio_without_fork))] {
        mod without_fork;

        pub use without_fork::*;
    } else {
        pub mod atfork;
        pub mod audit;
        mod before_fork;
        mod child;
        mod error;
        mod fork;
        pub mod guide;
        mod hooks;
        mod lineage;
        mod parent_only;
        mod parent_owned;
        mod paused_workers;
        mod policy;
        pub mod prefork;
        mod process_runtime;
        mod report;
        mod runtime;
        #[cfg(feature = "http")]
        mod serve;
        mod sys;
        pub mod time;

        pub use before_fork::before_fork;
        pub use child::Child;
        pub use error::{ForkError, NotInChild, Thread};
        pub use fork::{Fork, ForkOptions, fork, fork_with_threads};
        pub use forkio_reactor::fork::{ForkPolicy, PrepareError, SourceKind};
        pub use lineage::{Lineage, on_child};
        pub use parent_only::{ParentOnly, parent_only};
        pub use parent_owned::ParentOwned;
        pub use policy::{set_default_policy, set_policy};
        pub use process_runtime::{ProcessRuntime, RuntimeError};
        #[cfg(feature = "clap")]
        pub use serve::ServerOptions;
        #[cfg(feature = "http")]
        pub use serve::{
            Address, AddressError, HttpService, Hyper, Load, NoLoad, Peer, ServeError, Server, Serving, Tower, serve,
        };
        #[cfg(feature = "axum")]
        pub use serve::{WorkerListener, WorkerStream};
    }
}

/// Compiles the README's programs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
