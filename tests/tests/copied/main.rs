//! Buffers and generators of random numbers, which a fork copies together with the runtime; audits, and hooks before a fork.

mod audit;
mod before_fork;
mod buffers;

forkio_tests::main!(audit, before_fork, buffers);
