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

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use forkio_tests::{Program, kill, limit, wait_until};

forkio_tests::main!(address, axum, http, http2, lingering, loading, logs, streams, tasks, timeouts);

/// A path that is free, for the socket or the file of one scenario.
fn free_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("forkio-serve-{name}-{}", std::process::id()));
    let _missing = std::fs::remove_file(&path);
    path
}

/// A client's end of a connection.
trait Stream: Read + Write + Debug {}

impl<S: Read + Write + Debug> Stream for S {}

/// Connects to an address in the form that the servers print.
fn try_connect(address: &str) -> std::io::Result<Box<dyn Stream>> {
    match address.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(limit()))?;
            Ok(Box::new(stream))
        }
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(limit()))?;
            Ok(Box::new(stream))
        }
    }
}

#[track_caller]
fn connect(address: &str) -> Box<dyn Stream> {
    try_connect(address).expect("connecting")
}

/// Sends a request after which the server closes the connection.
#[track_caller]
fn request(address: &str, path: &str) -> Box<dyn Stream> {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sending a request");
    stream
}

/// The body of a response, whose status must be 200.
#[track_caller]
fn body(mut stream: impl Read) -> String {
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response:?}");
    response.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// Reads a response until it ends with `end`.
#[track_caller]
fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut response = Vec::new();
    while !response.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        response.push(byte[0]);
    }
    String::from_utf8_lossy(&response).into_owned()
}

#[track_caller]
fn get(address: &str, path: &str) -> String {
    body(request(address, path))
}

/// Stops a server, which must exit with 0. Returns its output.
#[track_caller]
fn stop(program: Program) -> String {
    kill(program.pid(), libc::SIGTERM);
    program.finish_well()
}

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
