//! The reactor's conformance suite on upstream mio: what it asserts is how mio behaves.

use ::mio;

#[path = "../../reactor/tests/conformance/mod.rs"]
mod conformance;
