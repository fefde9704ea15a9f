//! Buffers and generators of random numbers, which a fork copies beside the runtime; audits, and hooks before a fork.

mod audit;
mod before_fork;
mod buffers;

forkio_tests::main!(audit, before_fork, buffers);
