//! Which worker gets the next connection, with each distribution.

mod balance;
// A kqueue wakes all workers.
#[cfg(epoll)]
mod exclusive;
mod queues;
mod server;
// The archive that `tests/freebsd/pack` makes does not have the program `distribution-table`.
#[cfg(epoll)]
mod table;

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forkio_tests::reactor::*;

forkio_tests::main!(
    balance,
    #[cfg(epoll)]
    exclusive,
    queues,
    server,
    #[cfg(epoll)]
    table
);

const ALL: [&str; 4] = ["shared", "reuseport", "reuseport-per-cpu", "balanced"];

struct Server {
    program: Program,
    address: String,
}

impl Server {
    /// Starts a server whose workers have one of the modes of [`server`].
    #[track_caller]
    fn start(distribution: &str, workers: usize, mode: &str) -> Server {
        let mut program = Server::program(distribution, workers, mode);
        let address = program.line();
        Server { program, address }
    }

    #[track_caller]
    fn program(distribution: &str, workers: usize, mode: &str) -> Program {
        Program::start("server::server", &[distribution, &workers.to_string(), mode])
    }

    fn address(&self) -> SocketAddr {
        self.address.parse().expect("an address")
    }

    #[track_caller]
    fn connect(&self) -> Connecting {
        Connecting(connect_tcp(self.address()), Instant::now())
    }

    /// Connects many clients at once.
    #[track_caller]
    fn connect_many(&self, count: usize) -> Vec<Connecting> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// Connects many clients at once. Returns the connections, each with its worker.
    #[track_caller]
    fn burst(&self, count: usize) -> Vec<Connection> {
        self.connect_many(count).into_iter().map(Connecting::answered).collect()
    }

    /// Waits until each of the workers accepts.
    #[track_caller]
    fn wait_for_all(&self, workers: usize) {
        let mut seen = BTreeSet::new();
        let mut held = Vec::new();
        wait_until("every worker accepts", || {
            let connection = self.connect().answered();
            seen.insert(connection.worker);
            held.push(connection);
            seen.len() == workers
        });
        close(held);
    }

    fn pids(&self) -> Vec<i32> {
        children_of(self.program.pid())
    }

    /// Freezes the workers with SIGSTOP. Returns their process ids.
    #[track_caller]
    fn freeze_workers(&self) -> Vec<i32> {
        let workers = self.pids();
        workers.iter().for_each(|pid| freeze(*pid));
        workers
    }

    /// Waits until the worker `pid` has ended, and the server has `workers` other workers.
    #[track_caller]
    fn wait_for_replacement(&self, pid: i32, workers: usize) {
        wait_until("the worker has been replaced", || {
            let pids = self.pids();
            pids.len() == workers && !pids.contains(&pid)
        });
    }

    #[track_caller]
    fn stop(self) {
        self.program.stop();
    }
}

/// How long a worker may leave a connection waiting before the other workers exclude it.
const EXCLUDED_AFTER: Duration = Duration::from_millis(500);

/// Whether a connection has waited so long that a worker may have been excluded.
static MAY_BE_EXCLUDED: AtomicBool = AtomicBool::new(false);

/// Runs `check`, which may fail if a worker is excluded. After a failure, runs `check` again if the machine stalled so
/// long that a worker may have been excluded.
#[track_caller]
fn unless_excluded(check: impl Fn()) {
    const ATTEMPTS: usize = 5;
    for _ in 1..ATTEMPTS {
        MAY_BE_EXCLUDED.store(false, Ordering::Relaxed);
        match catch_unwind(AssertUnwindSafe(&check)) {
            Ok(()) => return,
            Err(_) if MAY_BE_EXCLUDED.load(Ordering::Relaxed) => {}
            Err(panic) => resume_unwind(panic),
        }
    }
    check();
}

/// A connection that the kernel has accepted, and the time at which it was made. A worker may not have answered yet.
struct Connecting(TcpStream, Instant);

/// A connection that a worker has answered.
struct Connection {
    stream: TcpStream,
    worker: usize,
    pid: i32,
}

impl Connecting {
    #[track_caller]
    fn answered(self) -> Connection {
        self.answer().expect("an answer")
    }

    fn answer(self) -> io::Result<Connection> {
        let (worker, pid) = read_answer(&self.0)?;
        if self.1.elapsed() >= EXCLUDED_AFTER {
            MAY_BE_EXCLUDED.store(true, Ordering::Relaxed);
        }
        Ok(Connection { stream: self.0, worker, pid })
    }
}

/// Ends connections, and waits until the workers no longer count them.
#[track_caller]
fn close(connections: Vec<Connection>) {
    for Connection { mut stream, .. } in connections {
        stream.shutdown(Shutdown::Write).expect("ending a connection");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    }
}

fn read_answer(stream: impl Read) -> io::Result<(usize, i32)> {
    let mut line = String::new();
    // Nothing follows the line.
    BufReader::new(stream).read_line(&mut line)?;
    let invalid = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("{line:?} is not an answer"));
    let (worker, pid) = line.strip_suffix('\n').and_then(|line| line.split_once(' ')).ok_or_else(invalid)?;
    Ok((worker.parse().map_err(|_| invalid())?, pid.parse().map_err(|_| invalid())?))
}

/// How many connections each worker has.
fn by_worker<'a>(connections: impl IntoIterator<Item = &'a Connection>, workers: usize) -> Vec<usize> {
    let mut counts = vec![0; workers];
    for connection in connections {
        counts[connection.worker] += 1;
    }
    counts
}
