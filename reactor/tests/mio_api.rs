//! The crate against the conformance suite: it is a drop-in for mio.
#![cfg(all(feature = "os-poll", feature = "os-ext", feature = "net"))]

use forkio_reactor as mio;

mod conformance;
