//! The examples are the programs beside this file; `cargo run --example NAME` runs one.
