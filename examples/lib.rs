//! The examples are the programs beside this file; `cargo run --example NAME` runs one.

/// Compiles the programs in the README of the repository.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
