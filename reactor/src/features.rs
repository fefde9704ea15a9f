//! The crate's cargo features.
//!
//! | feature | what it adds |
//! |---|---|
//! | `os-poll` | `Poll::new`. Without it the types exist, for libraries that only implement `event::Source` |
//! | `os-ext` | the module `unix`: bare descriptors as sources, pipes, timers, signals and processes. Turns `os-poll` on |
//! | `net` | the module `net`: TCP, UDP and Unix domain sockets |
//! | `log` | a `trace!` line of the `log` crate for each change of a registration. On by default |
//! | `cponfork` | copy on fork. Turns `os-poll` on |
//!
//! With `cponfork`, each selector keeps a table of its registrations. The module `fork` forks the process, and gives the
//! child a private copy of every kernel queue. The child of any other fork makes such copies when it first uses a selector.
//! Without this feature there is no table. A forked child then shares the epoll instances of its parent, or lacks the
//! kqueues, unless the kernel copies them (FreeBSD 15).
