//! Random operations over a tree of processes, checked against a model.
//!
//! A *case* is a sequence of [`Operation`](operation::Operation)s. The [driver](driver::Driver) gives them, one at a
//! time, to the processes of a tree that the fixture `fixture-tree` is the root of, and to the [model](model::Model),
//! and compares what each process sees with what it must see: results, events with their readiness, the registrations
//! that the table and the kernel list, bytes, ends of file, open descriptors. Peers of connections are the driver's, which
//! is no part of the tree and never forks.
//!
//! The root stays from case to case: after each one, with all its children gone, it must have exactly the descriptors that
//! it had before the first.
//!
//! # A failure, again
//!
//! A failed case is printed as one line of JSON and as the list of steps it came down to.
//! `fixture-tree replay < case.json` runs it again.
//!
//! # For an hour
//!
//! `fixture-tree soak 3600` runs random cases for that many seconds, says every minute how many it were and what the root
//! holds at rest, and fails if that grows.

pub mod driver;
pub mod message;
pub mod model;
pub mod operation;
pub mod process;
