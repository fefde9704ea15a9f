//! Runs `prefork-http` as a user would: real processes, real connections, signals.

mod access_log;
mod http;
mod http2;
mod limits;
mod load;
mod preloaded;
mod process_1;
mod server;
mod service;
mod signals;
mod status;
mod stop;
mod threads;
mod upgrade;
mod usage;

forkio_tests::main!(
    access_log, http, http2, limits, load, preloaded, process_1, service, signals, stop, threads, upgrade, usage
);
