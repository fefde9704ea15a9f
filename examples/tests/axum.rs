//! The example `axum`: several processes serve. A server that is told to stop finishes its requests first, until a timeout.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A running server. Dropping it kills the program, and its workers end with it.
struct Server(Child);

impl Server {
    fn tell_to_stop(&self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("telling the server to stop");
    }

    fn expect_end(&mut self) {
        assert!(self.0.wait().expect("waiting for the server").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn request(address: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connecting");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sending a request");
    stream
}

fn response(mut stream: TcpStream) -> String {
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    response
}

fn program() -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    Command::new(test.ancestors().nth(2).expect("target/PROFILE").join("examples/axum"))
}

fn start(arguments: &[&str]) -> (Server, String) {
    let mut command = program();
    // A slow machine must not cut off draining connections.
    if !arguments.contains(&"--shutdown-timeout") {
        command.args(["--shutdown-timeout", "60"]);
    }
    let program = command.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped()).spawn();
    let mut server = Server(program.expect("starting the program"));
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut line).expect("an announcement");
    let address = line.trim().strip_prefix("listening on http://").expect("an address").to_owned();
    (server, address)
}

#[test]
fn workers_serve() {
    let (mut server, address) = start(&["--workers", "2"]);
    let started = Instant::now();
    let mut answered = HashSet::new();
    while answered.len() < 2 {
        assert!(started.elapsed() < LIMIT, "only these processes have answered: {answered:?}");
        let response = response(request(&address, "/"));
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        let pid = response.trim_end().rsplit_once(' ').expect("a process id").1.to_owned();
        assert_ne!(pid, server.0.id().to_string(), "the parent serves");
        answered.insert(pid);
    }
    server.tell_to_stop();
    server.expect_end();
}

#[test]
fn requests_that_have_begun_are_finished() {
    let (mut server, address) = start(&["--workers", "1"]);
    let slow = request(&address, "/sleep/0.3");
    // The worker has one queue and one thread, so an answer to this request shows that the slow one has begun.
    let asked = response(request(&address, "/"));
    assert!(asked.starts_with("HTTP/1.1 200 OK\r\n"), "{asked}");
    server.tell_to_stop();
    let answer = response(slow);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "the slow request was cut off: {answer:?}");
    server.expect_end();
}

/// A server that is told to stop also answers the requests that wait in the queue.
#[test]
fn queued_requests_are_served() {
    let (mut server, address) = start(&["--workers", "1"]);
    let pid = Pid::from_child(&server.0);
    let worker = children(pid)[0];
    kill_process(worker, Signal::STOP).expect("stopping the worker");
    let waiting: Vec<TcpStream> = (0..10).map(|_| request(&address, "/")).collect();
    server.tell_to_stop();
    kill_process(worker, Signal::CONT).expect("continuing the worker");
    for stream in waiting {
        let answer = response(stream);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "a queued request was lost: {answer:?}");
    }
    server.expect_end();
}

#[test]
fn requests_beyond_the_shutdown_timeout_are_cut_off() {
    const KILLED: i32 = 128 + Signal::KILL.as_raw();
    for _ in 0..5 {
        let (mut server, address) = start(&["--workers", "1", "--shutdown-timeout", "0.5"]);
        let stuck = request(&address, "/sleep/3600");
        let asked = response(request(&address, "/"));
        assert!(asked.starts_with("HTTP/1.1 200 OK\r\n"), "{asked}");
        let started = Instant::now();
        server.tell_to_stop();
        assert_eq!(response(stuck), "");
        let status = server.0.wait().expect("waiting for the server");
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
        // The supervisor kills a worker that has not ended a second after its timeout. If the machine stalls that long, the
        // supervisor also kills a healthy worker.
        if status.code() != Some(KILLED) {
            return assert_eq!(status.code(), Some(1));
        }
    }
    panic!("the worker was killed each time");
}

/// The help does not show the rustdoc of `ServerOptions`.
#[test]
fn help_begins_with_the_usage() {
    let output = program().arg("--help").output().expect("running the program");
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && help.starts_with("Usage: axum") && help.contains("--workers"), "{help}");
}

fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the children of the server");
    children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
