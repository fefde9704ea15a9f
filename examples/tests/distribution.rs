//! Each distribution serves, and `balanced` keeps its limit.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use forkio_tests::{Program, connect_tcp, example, scenarios};

forkio_tests::main!();

const WORKERS: usize = 2;

struct Server {
    program: Program,
    address: String,
}

impl Server {
    fn start(distribution: &str) -> Server {
        let mut command = Command::new(example("distribution"));
        let mut program = Program::spawn(command.args([distribution, &WORKERS.to_string(), "127.0.0.1:0"]));
        let address = program.line();
        Server { program, address }
    }

    /// Connects. Returns the connection, and the index of its worker.
    fn connect(&self) -> (TcpStream, usize) {
        let stream = connect_tcp(&self.address);
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a greeting");
        let index = line.strip_prefix("worker ").and_then(|rest| rest.split(',').next()?.parse().ok());
        (stream, index.unwrap_or_else(|| panic!("{line:?} is not a greeting")))
    }
}

scenarios!(
    /// Workers serve with each distribution but `balanced`, which the next scenario tests.
    fn each_distribution_serves() {
        for distribution in ["shared", "reuseport", "reuseport-per-cpu"] {
            let server = Server::start(distribution);
            let _connections: Vec<_> = (0..4).map(|_| server.connect()).collect();
            server.program.stop();
        }
    }

    /// With `balanced`, no worker has more than 1.25 times the mean number of connections.
    fn balanced_is_balanced() {
        for _ in 0..5 {
            let server = Server::start("balanced");
            let start = Instant::now();
            let connections: Vec<_> = (0..20).map(|_| server.connect()).collect();
            let first = connections.iter().filter(|(_, worker)| *worker == 0).count();
            // The other worker excludes a worker that leaves a connection waiting for half a second, for example because the
            // machine stalls.
            let may_be_excluded = start.elapsed() >= Duration::from_millis(500);
            server.program.stop();
            // 20 connections on 2 workers: at most 12, and the other worker has the rest.
            if (8..=12).contains(&first) {
                return;
            }
            assert!(may_be_excluded, "worker 0 has {first} of 20 connections");
        }
        panic!("not balanced in any attempt");
    }
);
