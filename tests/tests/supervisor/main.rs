//! The supervisor: its options, reloads, upgrades, and its reactions to failures. The server is
//! `src/bin/fixture-supervisor.rs`.

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
