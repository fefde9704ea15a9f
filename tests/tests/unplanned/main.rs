//! Unplanned forks: other code forks, and the child reconciles.

mod descriptors;
mod failures;
mod forks;
mod handlers;
mod runtime;
mod threads;

forkio_tests::main!(descriptors, failures, forks, handlers, runtime, threads);
