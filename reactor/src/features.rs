//! The crate's cargo features, and which of them this documentation was built with.
//!
#![cfg_attr(feature = "os-poll", doc = "## `os-poll` (enabled)")]
#![cfg_attr(not(feature = "os-poll"), doc = "## `os-poll` (disabled)")]
//!
//! `Poll::new`. Without this feature the types exist, for libraries that only implement
//! [`event::Source`](crate::event::Source), but a program cannot make a selector.
//!
#![cfg_attr(feature = "os-ext", doc = "## `os-ext` (enabled)")]
#![cfg_attr(not(feature = "os-ext"), doc = "## `os-ext` (disabled)")]
//!
//! The module `unix`: bare descriptors as sources, pipes, timers, signals and processes. Turns `os-poll` on.
//!
#![cfg_attr(feature = "net", doc = "## `net` (enabled)")]
#![cfg_attr(not(feature = "net"), doc = "## `net` (disabled)")]
//!
//! The module `net`: TCP, UDP and Unix domain sockets.
//!
#![cfg_attr(feature = "log", doc = "## `log` (enabled)")]
#![cfg_attr(not(feature = "log"), doc = "## `log` (disabled)")]
//!
//! A `trace!` line of the `log` crate for each change of a registration. On by default.
//!
#![cfg_attr(feature = "cponfork", doc = "## `cponfork` (enabled)")]
#![cfg_attr(not(feature = "cponfork"), doc = "## `cponfork` (disabled)")]
//!
//! Copy on fork: each selector keeps a table of its registrations, and the module `fork` forks the process so that the
//! child has a private copy of every kernel queue. The child of a fork that other code makes gives itself such copies when
//! it first uses a selector. Turns `os-poll` on. Without this feature there is no table. A forked child then shares the
//! epoll instances of its parent, or lacks the kqueues, unless the kernel copies them (FreeBSD 15).
