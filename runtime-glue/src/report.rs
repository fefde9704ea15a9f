//! Messages for programs without a subscriber of `tracing`, or with a subscriber that panics.

use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Prints a message to standard error if the program has no subscriber of `tracing`. Without this message, the operator
/// of a program that has not set up logs would not learn why workers end or cannot start.
pub(crate) fn unless_traced(message: fmt::Arguments<'_>) {
    if !tracing::dispatcher::has_been_set() {
        // Do not panic if standard error is closed.
        let _ = writeln!(io::stderr(), "forkio: {message}");
    }
}

/// Calls `log`, which logs through `tracing`. Ignores a panic of the subscriber, so that the worker continues: the
/// subscriber of the crate `tracing-subscriber` panics if standard error is a pipe without a reader.
pub(crate) fn despite_panics(log: impl FnOnce()) {
    let _has_panicked = catch_unwind(AssertUnwindSafe(log));
}
