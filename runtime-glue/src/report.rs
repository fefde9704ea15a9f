//! Messages for programs without a subscriber of `tracing`.

use std::fmt;
use std::io::{self, Write};

/// Prints a message to standard error if the program has no subscriber of `tracing`. Without this message, the operator
/// of a program that has not set up logs would not learn why workers end or cannot start.
pub(crate) fn unless_traced(message: fmt::Arguments<'_>) {
    if !tracing::dispatcher::has_been_set() {
        // Do not panic if standard error is closed.
        let _ = writeln!(io::stderr(), "forkio: {message}");
    }
}
