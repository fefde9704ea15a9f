//! HTTP servers that are measured, and their load generators.

pub(crate) mod instructions;
pub(crate) mod nginx;
pub(crate) mod open_loop;
pub(crate) mod strace;
pub(crate) mod wrk;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::data::Data;
use crate::plan::Plan;
use crate::process::{Process, pin};
use crate::servers::open_loop::exchange;

/// How many connections a server gets.
pub(crate) const CONNECTIONS: usize = 64;

/// How long a server may take to start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a connection lives for more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    Open,
    Short,
}

impl Connections {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Connections::Open => "open connections",
            Connections::Short => "short connections",
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) commands: fn(&Plan, SocketAddr) -> io::Result<Vec<Command>>,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// One process, or several if the processes of the server were started separately.
    processes: Vec<Process>,
}

impl Server {
    /// Starts a server on a free port, and waits until it answers.
    pub(crate) fn start(plan: &Plan, contender: &Contender, cpus: &[usize]) -> io::Result<Server> {
        let mut server = Server::begin(plan, contender, cpus)?;
        server.wait_for_answer()?;
        Ok(server)
    }

    /// Starts a server on a free port, without waiting.
    pub(crate) fn begin(plan: &Plan, contender: &Contender, cpus: &[usize]) -> io::Result<Server> {
        let address = free_address()?;
        let mut processes = Vec::new();
        for mut command in (contender.commands)(plan, address)? {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            processes.push(Process::start(pin(&mut command, cpus))?);
        }
        Ok(Server { name: contender.name, address, processes })
    }

    pub(crate) fn wait_for_answer(&mut self) -> io::Result<()> {
        let started = Instant::now();
        loop {
            let answer =
                TcpStream::connect(self.address).and_then(|mut stream| exchange(&mut stream, Connections::Open));
            let Err(error) = answer else { return Ok(()) };
            if started.elapsed() > PATIENCE || self.processes.iter_mut().any(Process::has_ended) {
                return Err(io::Error::other(format!("{} does not answer at {}: {error}", self.name, self.address)));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().flat_map(Process::tree).collect()
    }

    /// Returns the ids of the processes that share the connections.
    pub(crate) fn workers(&self) -> Vec<u32> {
        match self.processes.as_slice() {
            [one] => one.tree().split_off(1),
            several => several.iter().flat_map(Process::tree).collect(),
        }
    }
}

/// Starts servers. Leaves out servers that do not start, with a note.
pub(crate) fn start_all(plan: &Plan, data: &mut Data, contenders: &[Contender], cpus: &[usize]) -> Vec<Server> {
    let mut servers = Vec::new();
    for contender in contenders {
        match Server::start(plan, contender, cpus) {
            Ok(server) => servers.push(server),
            Err(error) => data.note(format!("{}: not measured: {error}", contender.name)),
        }
    }
    servers
}

/// Returns an address of this machine that no program listens on.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Returns the command of hyper on tokio in one process, on mio.
pub(crate) fn hello_mio(plan: &Plan, threads: &str, address: SocketAddr, work: u64, mebibytes: usize) -> Command {
    hello(plan, "servers/hello-mio", threads, address, work, mebibytes)
}

/// Returns the command of hyper on tokio in one process, on forkio's selector.
pub(crate) fn hello_forkio(plan: &Plan, address: SocketAddr) -> Command {
    hello(plan, "forkio/release/hello-forkio", "current-thread", address, 0, 0)
}

fn hello(plan: &Plan, program: &str, threads: &str, address: SocketAddr, work: u64, mebibytes: usize) -> Command {
    let mut command = Command::new(plan.program(program));
    command.args([threads, &address.to_string(), &work.to_string(), &mebibytes.to_string()]);
    command
}

/// Returns the command of hyper on tokio in worker processes of forkio.
pub(crate) fn hello_prefork(
    plan: &Plan,
    workers: usize,
    distribution: &str,
    address: SocketAddr,
    work: u64,
    mebibytes: usize,
) -> Command {
    let mut command = Command::new(plan.program("forkio/release/hello-prefork"));
    command.args([&workers.to_string(), distribution, &address.to_string(), &work.to_string(), &mebibytes.to_string()]);
    command
}

/// Returns the command of an axum application on `axum::serve` in one process, on mio.
pub(crate) fn axum_serve(plan: &Plan, address: SocketAddr) -> Command {
    let mut command = Command::new(plan.program("servers/axum-serve"));
    command.arg(address.to_string());
    command
}

/// Returns the command of [`axum_serve`]'s application in worker processes of `forkio::Server`, on forkio's selector.
pub(crate) fn forkio_serve(plan: &Plan, workers: usize, distribution: &str, address: SocketAddr) -> Command {
    let mut command = Command::new(plan.program("forkio/release/forkio-serve"));
    command.args([&workers.to_string(), distribution, &address.to_string()]);
    command
}

/// Returns the file of a server's access log. The caller removes the file as soon as the server has opened it.
pub(crate) fn access_log(address: SocketAddr) -> PathBuf {
    std::env::temp_dir().join(format!("forkio-benches-access-{}-{}", std::process::id(), address.port()))
}

pub(crate) fn prefork_http(plan: &Plan, workers: usize, address: SocketAddr, mebibytes: usize) -> Command {
    let mut command = Command::new(plan.program("forkio/release/examples/prefork-http"));
    command.args(["--listen", &address.to_string(), "--workers", &workers.to_string()]);
    command.args(["--preload-mib", &mebibytes.to_string()]);
    command
}
