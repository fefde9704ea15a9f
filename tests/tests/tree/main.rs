//! Random operations on a tree of processes, checked against a model.
//!
//! A *case* is a sequence of operations. The driver gives them, one at a time, to the processes of a tree and to the
//! model. It compares what each process sees with what the model predicts: results, events with their readiness, the
//! registrations that table and kernel list, bytes, ends of file, open descriptors. The driver has the peers of all
//! connections. It is not part of the tree, and never forks.
//!
//! The first process of the tree runs case after case. After each case, when all its children have ended, it must have
//! exactly the descriptors that it had before the first case.
//!
//! A failed case is printed as one line of JSON, with the steps that led to the failure. To run it again:
//!
//! ```sh
//! cargo test --test tree -- --run random::replay < case.json
//! ```
//!
//! To run random cases for an hour, and see whether the first process grows:
//!
//! ```sh
//! cargo test --release --test tree -- --run random::soak 3600
//! ```

// The model describes readiness as epoll reports it.
#[cfg(epoll)]
mod convert;
#[cfg(epoll)]
mod driver;
#[cfg(epoll)]
mod memory;
#[cfg(epoll)]
mod message;
#[cfg(epoll)]
mod model;
#[cfg(epoll)]
mod model_checks;
#[cfg(epoll)]
mod operation;
#[cfg(epoll)]
mod process;
#[cfg(epoll)]
mod random;
#[cfg(epoll)]
mod sources;

forkio_tests::main!(
    #[cfg(epoll)]
    model_checks,
    #[cfg(epoll)]
    random
);
