//! Runs the conformance suite on this crate, which is a drop-in for mio.
#![cfg(all(feature = "os-poll", feature = "os-ext", feature = "net"))]

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use forkio_reactor as mio;

mod conformance;
