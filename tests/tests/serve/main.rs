//! `forkio::serve`, `Server`, and the methods of a worker for other protocols.

mod address;
mod axum;
mod http;
mod http2;
mod lingering;
mod loading;
mod logs;
mod streams;
mod tasks;
mod timeouts;

use forkio_tests::Program;
use forkio_tests::http::try_connect;
use forkio_tests::wait_until;

forkio_tests::main!(address, axum, http, http2, lingering, loading, logs, streams, tasks, timeouts);

/// Calls `stop`, which starts a server and tells it to stop. Checks that the server exits with 1, because it has cut off
/// connections.
///
/// The supervisor kills a worker that has not ended a second after the shutdown timeout. If the machine stalls that long, the
/// supervisor also kills a healthy worker. This function then calls `stop` again.
#[track_caller]
fn ends_before_it_is_killed(stop: impl Fn() -> Program) {
    const KILLED: i32 = 128 + libc::SIGKILL;
    for _ in 0..5 {
        let (status, output) = stop().finish();
        if status.code() != Some(KILLED) {
            return assert_eq!(status.code(), Some(1), "{output}");
        }
    }
    panic!("the worker was killed each time");
}

/// Waits until a server accepts at an address.
#[track_caller]
fn wait_for(address: &str) {
    wait_until("the server listens", || try_connect(address).is_ok());
}
