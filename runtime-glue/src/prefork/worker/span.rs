//! The `tracing` span of a worker's events.
//!
//! The thread of a worker's runtime is inside the span, and so are all tasks on it: those that the supervisor spawned before
//! the fork, and those that the application spawns without a span. If forkio builds the runtime, its other threads enter the
//! span as they start. If the application builds it, forkio instruments its own tasks and the services of `prefork::http`.

use std::mem;
use std::process;
use std::sync::OnceLock;

use tokio::runtime::{Handle, RuntimeFlavor};
use tracing::Span;

static SPAN: OnceLock<Span> = OnceLock::new();

/// The spans of a process that becomes a worker.
///
/// There are two with the same fields. The thread enters the first one and never leaves it. The second one is for the
/// worker's own future. If the caller of [`Prefork::run`](crate::prefork::Prefork::run) has a span around that call,
/// each poll enters the caller's span inside the first one. So the future must enter a span of the worker again.
pub(super) struct Spans {
    of_process: Span,
    pub(super) of_future: Span,
}

impl Spans {
    /// Makes the spans. Call it in the worker, before the worker logs anything else.
    pub(super) fn new(index: usize, generation: u64) -> Spans {
        // An error-level span exists at every log level, and errors need the span.
        let span = || tracing::error_span!("worker", index, pid = process::id(), generation);
        Spans { of_process: span(), of_future: span() }
    }

    /// Puts this thread, and those that call [`enter`] later, inside the span.
    pub(super) fn enter(&self) {
        let _ = SPAN.set(self.of_process.clone());
        enter();
    }
}

/// Puts this thread inside the span of the worker for as long as the thread runs. Does nothing if this process is not a worker.
pub(crate) fn enter() {
    if let Some(span) = SPAN.get() {
        stay_in(span.clone());
    }
}

/// Puts this thread inside a span for as long as the thread runs.
pub(in crate::prefork) fn stay_in(span: Span) {
    mem::forget(span.entered());
}

/// Returns the span for a task of the worker: an empty one if the runtime has only the thread that is inside the span.
pub(in crate::prefork) fn span_of_tasks() -> Span {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Span::none(),
        _ => SPAN.get().cloned().unwrap_or_else(Span::none),
    }
}
