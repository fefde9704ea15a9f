//! [forkio-reactor](forkio_reactor) under the name `mio`: the target of `[patch.crates-io]`, so that an unmodified tokio
//! runs on a selector that survives `fork(2)`.
//!
//! ```toml
//! [patch.crates-io]
//! mio = { git = "https://github.com/forkio-rs/forkio" }
//! ```
//!
//! On Windows, which has no `fork(2)`, this package re-exports upstream mio 0.8. That version has all that tokio 1.54 uses of
//! mio 1.2.
//!
//! `forkio-reactor` documents everything in this package. The features are mio's, and `cponfork`, which adds the
//! registration table and the module `fork`. The crate `forkio` turns on the table for the whole build.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg_attr(windows, path = "upstream.rs")]
#[cfg_attr(not(windows), path = "forkio.rs")]
mod selector;

pub use selector::*;
