//! Kernel timers, and programs that tokio has started, in a runtime that forks.

mod processes;
mod timers;

forkio_tests::main!(processes, timers);
