//! The prefork server: supervisor and workers.

mod failures;
mod stopping;
mod threads;
mod workers;

forkio_tests::main!(failures, stopping, threads, workers);
