//! Runs `prefork-http` as a user would: real processes, real connections, signals.

mod access_log;
mod client;
mod http;
mod http2;
mod limits;
mod load;
mod preloaded;
mod process_1;
mod server;
mod service;
mod signals;
mod stop;
mod threads;
mod upgrade;
mod usage;
