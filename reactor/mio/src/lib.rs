//! [forkio-reactor](forkio_reactor) under the name `mio`: the target of `[patch.crates-io]`, so that an unmodified tokio
//! runs on a selector that survives `fork(2)`.
//!
//! ```toml
//! [patch.crates-io]
//! mio = { git = "https://github.com/forkio-rs/forkio" }
//! ```
//!
//! Everything here is documented in `forkio-reactor`. The features are mio's, and `cponfork`, which turns the registration
//! table and the module `fork` on, and `atfork`, which adds `fork::atfork` to it; the crate `forkio` does so for the whole
//! build.

#[cfg(feature = "net")]
pub use forkio_reactor::net;
#[cfg(feature = "os-ext")]
pub use forkio_reactor::unix;
pub use forkio_reactor::{Events, Interest, Poll, Registry, Token, Waker, event, features, guide};

#[cfg(feature = "cponfork")]
pub use forkio_reactor::fork;
