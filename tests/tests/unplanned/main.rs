//! Unplanned forks: other code forks, and the child reconciles.

mod failures;
mod forks;
mod handlers;
mod runtime;
mod threads;

forkio_tests::main!(failures, forks, handlers, runtime, threads);
