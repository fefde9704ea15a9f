//! The supervisor's reactions to failures, and its options; see `src/bin/fixture-supervisor.rs` for the server.

mod boots;
mod dormant;
mod forks;
mod options;
mod pid_file;
mod reloads;
mod server;
mod templates;
mod workers;

forkio_tests::main!(boots, dormant, forks, options, pid_file, reloads, templates, workers);
