//! Runs `prefork-http` as a user would: real processes, real connections, signals.

mod client;
mod http;
mod load;
mod preloaded;
mod server;
mod stop;
mod threads;
mod usage;
