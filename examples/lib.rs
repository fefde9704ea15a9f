//! The examples are the programs beside this file; `cargo run --example NAME` runs one.

/// The programs in the README of the repository compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
