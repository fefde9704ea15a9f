//! The results of workers.

use std::convert::Infallible;
use std::fmt;

use crate::report;

/// The result of a worker, and the status that its process exits with.
pub trait WorkerOutput {
    /// Returns the exit status. Logs an error, if the result is one.
    fn exit_status(self) -> u8;
}

impl WorkerOutput for () {
    fn exit_status(self) -> u8 {
        0
    }
}

impl WorkerOutput for u8 {
    fn exit_status(self) -> u8 {
        self
    }
}

impl WorkerOutput for Infallible {
    fn exit_status(self) -> u8 {
        match self {}
    }
}

impl<T: WorkerOutput, E: fmt::Display> WorkerOutput for Result<T, E> {
    fn exit_status(self) -> u8 {
        match self {
            Ok(output) => output.exit_status(),
            Err(error) => {
                // The alternate form of an error such as anyhow's includes the sources of the error.
                tracing::error!(error = %format_args!("{error:#}"), "worker failed");
                report::unless_traced(format_args!("a worker failed: {error:#}"));
                1
            }
        }
    }
}
