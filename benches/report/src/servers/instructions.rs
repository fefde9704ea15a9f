//! User-level instructions of a request, as valgrind counts them.

use std::error::Error;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::servers::open_loop::exchange;
use crate::servers::{Connections, PATIENCE, free_address};

const REQUESTS: usize = 300;

/// Counts the instructions that all processes of the server together execute for a request. The requests come one after
/// the other.
///
/// The server runs twice, with different numbers of requests. The difference excludes the instructions of its start and end.
/// Valgrind before 3.21 cannot count a server that forks through forkio, because it does not know pidfd_open(2).
pub(crate) fn of_a_request(
    command: impl Fn(SocketAddr) -> io::Result<Command>,
    connections: Connections,
) -> Result<f64, Box<dyn Error>> {
    let few = count(&command, connections, REQUESTS)?;
    let many = count(&command, connections, 3 * REQUESTS)?;
    Ok((many - few) / (2 * REQUESTS) as f64)
}

fn count(
    command: impl Fn(SocketAddr) -> io::Result<Command>,
    connections: Connections,
    requests: usize,
) -> Result<f64, Box<dyn Error>> {
    let address = free_address()?;
    let program = command(address)?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(program.get_program()).args(program.get_args());
    valgrind.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = Process::start(&mut valgrind)?;
    // A thread reads standard error while the server runs, because a full pipe would block the server.
    let mut stderr = server.stderr()?;
    let log = thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).map(|_| log)
    });

    let started = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) if started.elapsed() > PATIENCE || server.has_ended() => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    };
    for request in 0..requests {
        if request != 0 && connections == Connections::Short {
            stream = TcpStream::connect(address)?;
        }
        exchange(&mut stream, connections)?;
    }
    drop(stream);
    server.terminate()?;

    let log = log.join().map_err(|_| "the thread that reads from valgrind panicked")??;
    let collected = log.lines().filter_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
    match collected.sum() {
        0.0 => Err("valgrind has counted nothing".into()),
        sum => Ok(sum),
    }
}
