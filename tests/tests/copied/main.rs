//! What a fork copies beside the runtime: audits of descriptors, hooks before a fork, buffers, and generators of random
//! numbers.

mod audit;
mod before_fork;
mod buffers;

forkio_tests::main!(audit, before_fork, buffers);
