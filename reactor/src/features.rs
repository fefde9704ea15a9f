//! The crate's cargo features.
//!
//! | feature | what it adds |
//! |---|---|
//! | `os-poll` | `Poll::new`. Without this feature the types exist, for libraries that only implement `event::Source` |
//! | `os-ext` | the module `unix`: bare descriptors as sources, pipes, timers, signals and processes. Turns `os-poll` on |
//! | `net` | the module `net`: TCP, UDP and Unix domain sockets |
//! | `log` | a `trace!` line of the `log` crate for each `register`, `reregister` and `deregister`. On by default |
//! | `cponfork` | copy on fork: the module `fork`, and a table of registrations per selector. Turns `os-poll` on |
//!
//! [`Poll`](crate::Poll) describes forks with `cponfork` and without it.
