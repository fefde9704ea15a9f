//! The sources that mio does not have: timers, signals, processes. These tests do not fork: the crate `forkio-tests`
//! covers forks.
#![cfg(all(feature = "os-poll", feature = "os-ext", feature = "net"))]

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use forkio_reactor as mio;

mod process;
mod signals;
mod timer;

// This module belongs to the conformance suite, which uses all of its items.
#[allow(dead_code, unused_macros, unused_imports)]
#[path = "../conformance/util.rs"]
mod util;
