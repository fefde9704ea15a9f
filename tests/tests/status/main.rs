//! The status page, the metrics and the control socket.

mod control;
mod failures;
mod metrics;
mod page;
mod server;

forkio_tests::main!(control, failures, metrics, page, server);
