//! Each distribution serves, and `balanced` keeps its limit.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(60);
const WORKERS: usize = 2;

/// The running program. Dropping it kills the program, and its workers end with it.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(distribution: &str) -> Server {
        let test = std::env::current_exe().expect("the path of this test");
        let program = test.ancestors().nth(2).expect("target/PROFILE").join("examples/distribution");
        let mut command = Command::new(program);
        command.args([distribution, &WORKERS.to_string(), "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("starting the program");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
        Server { process, address: line.trim().to_owned() }
    }

    /// Connects. Returns the connection, and the index of its worker.
    fn connect(&self) -> (TcpStream, usize) {
        let stream = TcpStream::connect(&self.address).expect("connecting");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a greeting");
        let index = line.strip_prefix("worker ").and_then(|rest| rest.split(',').next()?.parse().ok());
        (stream, index.unwrap_or_else(|| panic!("{line:?} is not a greeting")))
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("telling the server to stop");
        assert!(self.process.wait().expect("waiting for the server").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

#[test]
fn each_distribution_serves() {
    for distribution in ["shared", "reuseport", "reuseport-per-cpu"] {
        let server = Server::start(distribution);
        let _connections: Vec<_> = (0..4).map(|_| server.connect()).collect();
        server.stop();
    }
}

/// With `balanced`, no worker has more than 1.25 times the mean number of connections.
#[test]
fn balanced_is_balanced() {
    for _ in 0..5 {
        let server = Server::start("balanced");
        let start = Instant::now();
        let connections: Vec<_> = (0..20).map(|_| server.connect()).collect();
        let first = connections.iter().filter(|(_, worker)| *worker == 0).count();
        // The other worker excludes a worker that leaves a connection waiting for half a second, for example because the
        // machine stalls.
        let may_be_excluded = start.elapsed() >= Duration::from_millis(500);
        server.stop();
        // 20 connections on 2 workers: at most 12, and the other worker has the rest.
        if (8..=12).contains(&first) {
            return;
        }
        assert!(may_be_excluded, "worker 0 has {first} of 20 connections");
    }
    panic!("not balanced in any attempt");
}
