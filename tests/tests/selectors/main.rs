//! Selectors of the reactor, without the crate `forkio`: parent and child each have their own.

mod between;
mod failures;
mod isolation;
mod stale;
mod threads;

forkio_tests::main!(between, failures, isolation, stale, threads);
