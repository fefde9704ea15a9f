//! `forkio::fork` in a current-thread tokio runtime.

mod children;
mod forks;
mod policies;
mod refusals;
mod signals;
mod tasks;

forkio_tests::main!(children, forks, policies, refusals, signals, tasks);
