//! The state that a fork copies beside the runtime: audits, hooks before a fork, buffers and random numbers.

mod audit;
mod before_fork;
mod buffers;

forkio_tests::main!(audit, before_fork, buffers);
