//! Runs the reactor's conformance suite on upstream mio, to show that the suite asserts mio's behaviour.

use ::mio;

#[path = "../../../reactor/tests/conformance/mod.rs"]
mod conformance;
