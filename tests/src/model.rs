//! The model of kqueue(2) that stands in for the kernel: see CONTRIBUTING.md.

pub use forkio_kqueue_model::*;
