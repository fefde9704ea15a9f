//! Forks that were prepared in advance, before the program decided to fork.

mod discarded;
mod runtime;
mod used;

forkio_tests::main!(discarded, runtime, used);
