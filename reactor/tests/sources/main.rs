//! The sources that mio does not have: timers, signals, processes. In one process; see the crate of tests for what a fork
//! does to them.
#![cfg(all(feature = "os-poll", feature = "os-ext", feature = "net"))]

use forkio_reactor as mio;

mod process;
mod signals;
mod timer;

// It is the conformance suite's, which uses more of it.
#[allow(dead_code, unused_macros, unused_imports)]
#[path = "../conformance/util.rs"]
mod util;
