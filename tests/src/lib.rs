//! The harness and the helpers of the tests that run real processes.
//!
//! A *scenario* is a test with a process of its own. The process has one thread when the scenario starts, so the scenario
//! may fork. See [`scenarios!`].
//!
//! A *topic* is a test binary: `tests/NAME.rs` or `tests/NAME/main.rs`. For each of its scenarios it starts itself
//! again, in a process group of its own. It fails the scenario if the process does not exit with 0 in time, or if the
//! process leaves another one in the group.

pub mod http;
mod limits;
#[cfg(forkio_kqueue)]
pub mod model;
mod process;
mod program;
pub mod reactor;
pub mod runtime;
pub mod scenario;
mod sys;
pub mod unplanned;

pub use limits::{limit, rounds, slowdown};
pub use process::*;
pub use program::{Log, Program, announced_address, example};
pub use scenario::arguments;
pub use sys::*;

/// Whether the model of the kernel is doing the work of a call. A real kernel would do that work in its own memory.
pub fn is_in_kernel() -> bool {
    #[cfg(forkio_kqueue)]
    return model::is_working();
    #[cfg(not(forkio_kqueue))]
    false
}
