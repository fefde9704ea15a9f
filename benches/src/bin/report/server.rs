//! HTTP servers under load.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::io;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::data::{Data, Measure};
use crate::load::{self, Connections};
use crate::process::{self, Process};

/// How many connections a server gets.
const CONNECTIONS: usize = 64;

/// How long a handler of [`Measure::WorkThroughput`] computes.
const WORK: Duration = Duration::from_micros(45);

/// The table of [`Measure::Pss`].
const TABLE_MIB: usize = 200;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The names of those that the targets speak of.
pub(crate) const PREFORK_HTTP: &str = "prefork-http";
pub(crate) const PREFORK_HTTP_ONE: &str = "prefork-http, 1 worker";
pub(crate) const PREFORK: &str = "forkio, 2 workers";
pub(crate) const PREFORK_BALANCED: &str = "forkio, 2 workers, balanced";
const PREFORK_REUSEPORT: &str = "forkio, 2 workers, reuseport";
pub(crate) const ONE_THREAD: &str = "hyper, one thread, on mio";
pub(crate) const ONE_THREAD_FORKIO: &str = "hyper, one thread, on forkio";
pub(crate) const THREADS: &str = "hyper, 2 threads";
pub(crate) const REUSEPORT: &str = "hyper, 2 processes, reuseport";
pub(crate) const NGINX: &str = "nginx";
pub(crate) const NGINX_REUSEPORT: &str = "nginx, reuseport";

/// The only case of a measure that has one.
pub(crate) const HELLO: &str = "hello world";

pub(crate) fn measure(plan: &Plan, data: &mut Data) -> Result<(), Box<dyn Error>> {
    let turn = if plan.quick { Duration::from_millis(300) } else { Duration::from_millis(1_500) };
    let rounds = plan.rounds(5, 1);
    let servers = start_all(plan, data)?;

    saturate(data, &servers, turn, rounds, Kind::KeepAlive)?;
    saturate(data, &servers, turn, rounds, Kind::Short)?;
    count_system_calls(data, &servers, turn)?;
    latencies(data, &servers, turn, rounds)?;
    drop(servers);
    work(plan, data, turn, rounds)?;
    count_instructions(plan, data)?;
    same_on_both(plan, data, turn, plan.rounds(12, 1))?;
    memory(plan, data, plan.rounds(3, 1))
}

struct Server {
    name: String,
    address: SocketAddr,
    /// Several, where they were started separately.
    processes: Vec<Process>,
}

impl Server {
    /// Starts one process for each command, and waits until there is an answer.
    fn start(name: &str, address: SocketAddr, commands: Vec<Command>) -> io::Result<Server> {
        let mut server = Server::begin(name, address, commands)?;
        server.wait_for_answer()?;
        Ok(server)
    }

    fn begin(name: &str, address: SocketAddr, commands: Vec<Command>) -> io::Result<Server> {
        let mut processes = Vec::new();
        for mut command in commands {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            processes.push(Process::start(&mut command)?);
        }
        Ok(Server { name: name.to_owned(), address, processes })
    }

    fn wait_for_answer(&mut self) -> io::Result<()> {
        let started = Instant::now();
        loop {
            let failed = match TcpStream::connect(self.address)
                .and_then(|mut stream| load::exchange(&mut stream, Connections::StayOpen))
            {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if started.elapsed() > PATIENCE || self.processes.iter_mut().any(Process::has_ended) {
                return Err(io::Error::other(format!("{} does not answer at {}: {failed}", self.name, self.address)));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().flat_map(Process::tree).collect()
    }

    /// The processes that share the connections, if there are several.
    fn workers(&self) -> Vec<u32> {
        match self.processes.as_slice() {
            [one] => one.tree().split_off(1),
            several => several.iter().flat_map(Process::tree).collect(),
        }
    }
}

/// A port of this machine that nobody listens on.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn hello(plan: &Plan, program: &str, mode: &str, address: SocketAddr, work: u64, mebibytes: usize) -> Command {
    let mut command = Command::new(plan.program(program));
    command.args([mode, &address.to_string(), &work.to_string(), &mebibytes.to_string()]);
    command
}

fn hello_prefork(
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

fn prefork_http(plan: &Plan, address: SocketAddr, workers: usize, mebibytes: usize) -> Command {
    let mut command = Command::new(plan.program("forkio/release/examples/prefork-http"));
    command.args(["--listen", &address.to_string(), "--workers", &workers.to_string()]);
    command.args(["--preload-mib", &mebibytes.to_string()]);
    command
}

fn start_all(plan: &Plan, data: &mut Data) -> Result<Vec<Server>, Box<dyn Error>> {
    let mut servers = Vec::new();
    let mut start = |data: &mut Data, name: &str, commands: &dyn Fn(SocketAddr) -> io::Result<Vec<Command>>| {
        let started = free_address().and_then(|address| Server::start(name, address, commands(address)?));
        match started {
            Ok(server) => servers.push(server),
            Err(error) => data.note(format!("{name}: not measured: {error}")),
        }
    };
    // Its workers share one queue of connections, unless told otherwise.
    start(data, PREFORK_HTTP, &|address| Ok(vec![prefork_http(plan, address, 2, 4)]));
    for distribution in ["reuseport", "balanced"] {
        let name = format!("{PREFORK_HTTP}, {distribution}");
        start(data, &name, &|address| {
            let mut command = prefork_http(plan, address, 2, 4);
            command.args(["--distribution", distribution]);
            Ok(vec![command])
        });
    }
    start(data, PREFORK_HTTP_ONE, &|address| Ok(vec![prefork_http(plan, address, 1, 4)]));
    let hello_mio = |mode, address| hello(plan, "release/hello-mio", mode, address, 0, 0);
    start(data, PREFORK, &|address| Ok(vec![hello_prefork(plan, 2, "shared", address, 0, 0)]));
    start(data, ONE_THREAD, &|address| Ok(vec![hello_mio("current-thread", address)]));
    start(data, THREADS, &|address| Ok(vec![hello_mio("2", address)]));
    let two = |address| Ok(vec![hello_mio("current-thread", address), hello_mio("current-thread", address)]);
    start(data, REUSEPORT, &two);
    for (name, listen) in [(NGINX, ""), (NGINX_REUSEPORT, " reuseport")] {
        let directory = plan.program(format!("nginx{}", listen.trim()));
        start(data, name, &|address| Ok(vec![nginx(&directory, address, 2, listen)?]));
    }
    Ok(servers)
}

/// nginx with nothing to do but to answer as the others do.
fn nginx(directory: &Path, address: SocketAddr, workers: usize, listen: &str) -> io::Result<Command> {
    fs::create_dir_all(directory)?;
    let directory = directory.canonicalize()?;
    let root = directory.display();
    // The master may be root; a worker that may not read the directory has nothing to read there.
    let configuration = format!(
        "daemon off;\nworker_processes {workers};\npid {root}/pid;\nerror_log {root}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  server_tokens off;\n  keepalive_requests 1000000000;\n\
         {}\
         server {{ listen {address} backlog=1024{listen};\n\
         location / {{ default_type \"text/plain; charset=utf-8\"; return 200 \"Hello, World!\"; }} }}\n}}\n",
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {root}/{kind};\n"))
            .concat()
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&directory).arg("-c").arg(&file).arg("-e").arg(directory.join("error.log"));
    Ok(command)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    KeepAlive,
    Short,
    Work,
}

/// As many requests as a server can answer, from wrk.
fn saturate(
    data: &mut Data,
    servers: &[Server],
    turn: Duration,
    rounds: usize,
    kind: Kind,
) -> Result<(), Box<dyn Error>> {
    let (throughput, cpu, user, switches) = match kind {
        Kind::KeepAlive => (
            Measure::KeepAliveThroughput,
            Measure::KeepAliveCpu,
            Measure::KeepAliveUser,
            Some(Measure::KeepAliveSwitches),
        ),
        Kind::Short => (Measure::ShortThroughput, Measure::ShortCpu, Measure::ShortUser, Some(Measure::ShortSwitches)),
        Kind::Work => (Measure::WorkThroughput, Measure::WorkCpu, Measure::WorkUser, None),
    };
    for round in 0..rounds {
        for turn_number in 0..servers.len() {
            let server = &servers[(round + turn_number) % servers.len()];
            let (pids, workers) = (server.pids(), server.workers());
            let before: Vec<usize> = workers.iter().map(|pid| process::sockets(*pid)).collect();
            let switches_before = process::context_switches(&pids);
            let time_before = process::cpu_time(&pids);
            let mut wrk = Wrk::start(server.address, kind)?;
            thread::sleep(turn);
            if kind == Kind::KeepAlive && workers.len() > 1 {
                let now = workers.iter().map(|pid| process::sockets(*pid));
                let connections: Vec<usize> =
                    now.zip(&before).map(|(now, before)| now.saturating_sub(*before)).collect();
                let (sum, most) = (connections.iter().sum::<usize>(), connections.iter().max().copied().unwrap_or(0));
                let even = sum as f64 / workers.len() as f64;
                data.add(Measure::Balance, HELLO, &server.name, most as f64 / even);
            }
            let result = wrk.end()?;
            let time = process::cpu_time(&pids);
            let user_seconds = time.user - time_before.user;
            let seconds = user_seconds + time.system - time_before.system;
            data.add(throughput, HELLO, &server.name, result.requests / result.seconds);
            data.add(cpu, HELLO, &server.name, seconds * 1e6 / result.requests);
            data.add(user, HELLO, &server.name, user_seconds * 1e6 / result.requests);
            if let Some(switches) = switches {
                let count = process::context_switches(&pids).saturating_sub(switches_before);
                data.add(switches, HELLO, &server.name, count as f64 / result.requests);
            }
        }
    }
    Ok(())
}

/// System calls of a request under full load, as the kernel's tracepoint counts them: no debugger between that would change
/// how many events there are for each poll.
fn count_system_calls(data: &mut Data, servers: &[Server], turn: Duration) -> Result<(), Box<dyn Error>> {
    for (kind, measure) in [(Kind::KeepAlive, Measure::KeepAliveCalls), (Kind::Short, Measure::ShortCalls)] {
        for server in servers {
            let pids: Vec<String> = server.pids().iter().map(u32::to_string).collect();
            let mut perf = Command::new("perf");
            perf.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pids.join(",")]);
            perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut perf = match Process::start(&mut perf) {
                Ok(perf) => perf,
                Err(error) => {
                    data.note(format!(
                        "system calls of a request: not counted: cannot run perf, is it installed? {error}"
                    ));
                    return Ok(());
                }
            };
            let mut wrk = Wrk::start(server.address, kind)?;
            thread::sleep(turn);
            let requests = wrk.end()?.requests;
            perf.interrupt()?;
            let mut said = String::new();
            perf.stderr().ok_or("no pipe")?.read_to_string(&mut said)?;
            let line = said.lines().find(|line| line.contains("sys_enter")).unwrap_or(&said);
            match line.split(',').next().and_then(|count| count.parse::<f64>().ok()) {
                Some(count) => data.add(measure, HELLO, &server.name, count / requests),
                None => {
                    data.note(format!("system calls of a request: not counted: perf says {:?}", line.trim()));
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// wrk, which ends by itself after the longest turn that there is, or when it is told to.
struct Wrk(Process);

struct Requests {
    requests: f64,
    seconds: f64,
}

impl Wrk {
    fn start(server: SocketAddr, kind: Kind) -> Result<Wrk, Box<dyn Error>> {
        let mut command = Command::new("wrk");
        command.args(["-t1", &format!("-c{CONNECTIONS}"), "-d60s"]);
        if kind == Kind::Short {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{server}/")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Wrk(Process::start(&mut command).map_err(|error| format!("cannot run wrk: {error}"))?))
    }

    /// Stops it, and reads `54321 requests in 1.50s, 6.78MB read`.
    fn end(&mut self) -> Result<Requests, Box<dyn Error>> {
        self.0.interrupt()?;
        let mut said = String::new();
        self.0.stdout().ok_or("no pipe")?.read_to_string(&mut said)?;
        let line = said.lines().find_map(|line| line.trim().split_once(" requests in ")).ok_or("wrk says nothing")?;
        let (seconds, _) = line.1.split_once(',').ok_or("wrk says something else")?;
        let (number, unit) = seconds.split_at(seconds.trim_end_matches(char::is_alphabetic).len());
        let seconds = number.parse::<f64>()? * if unit == "ms" { 1e-3 } else { 1.0 };
        if let Some(errors) = said.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
            eprintln!("{}", errors.trim());
        }
        Ok(Requests { requests: line.0.parse()?, seconds })
    }
}

/// At rates that all can keep up with.
fn latencies(data: &mut Data, servers: &[Server], turn: Duration, rounds: usize) -> Result<(), Box<dyn Error>> {
    for (connections, throughput, cases) in [
        (Connections::StayOpen, Measure::KeepAliveThroughput, &[(0.25, QUARTER_LOAD), (0.5, HALF_LOAD)][..]),
        (Connections::Short, Measure::ShortThroughput, &[(0.5, HALF_LOAD_SHORT)]),
    ] {
        // What the slowest does when it is given all it can take.
        let medians = servers.iter().filter_map(|server| data.median(throughput, HELLO, &server.name));
        let slowest = medians.fold(f64::INFINITY, f64::min);
        if !slowest.is_finite() {
            return Err("the rates of the latencies follow from the throughput, which was not measured".into());
        }
        for round in 0..rounds {
            for (share, case) in cases {
                for turn_number in 0..servers.len() {
                    let server = &servers[(round + turn_number) % servers.len()];
                    let pids = server.pids();
                    let waited_before = process::waited_for_processor(&pids);
                    let latencies = load::open_loop(server.address, connections, slowest * share, CONNECTIONS, turn)?;
                    for (measure, quantile) in
                        [(Measure::LatencyMedian, 0.5), (Measure::Latency99, 0.99), (Measure::Latency999, 0.999)]
                    {
                        data.add(measure, case, &server.name, latencies.value_at_quantile(quantile) as f64 / 1e3);
                    }
                    let waited = process::waited_for_processor(&pids) - waited_before;
                    data.add(Measure::LatencyWait, case, &server.name, waited * 1e6 / latencies.len() as f64);
                }
            }
        }
        data.note(format!(
            "Latencies, {}: the full load is {slowest:.0} requests per second, the throughput of the slowest server, so \
             that all get the same.",
            match connections {
                Connections::StayOpen => "open connections",
                Connections::Short => "short connections",
            }
        ));
    }
    Ok(())
}

/// The cases of the latencies.
const QUARTER_LOAD: &str = "open connections, a quarter of the load";
pub(crate) const HALF_LOAD: &str = "open connections, half of the load";
const HALF_LOAD_SHORT: &str = "short connections, half of the load";

/// A handler that computes.
fn work(plan: &Plan, data: &mut Data, turn: Duration, rounds: usize) -> Result<(), Box<dyn Error>> {
    let work = turns_of_work();
    let mut servers = Vec::new();
    let mut start = |name, command: &dyn Fn(SocketAddr) -> Command| -> io::Result<()> {
        let address = free_address()?;
        servers.push(Server::start(name, address, vec![command(address)])?);
        Ok(())
    };
    for (name, distribution) in [(PREFORK, "shared"), (PREFORK_REUSEPORT, "reuseport"), (PREFORK_BALANCED, "balanced")]
    {
        start(name, &|address| hello_prefork(plan, 2, distribution, address, work, 0))?;
    }
    for (name, mode) in [(THREADS, "2"), (ONE_THREAD, "current-thread")] {
        start(name, &|address| hello(plan, "release/hello-mio", mode, address, work, 0))?;
    }
    saturate(data, &servers, turn, rounds, Kind::Work)
}

/// How many turns of the servers' loop take [`WORK`].
fn turns_of_work() -> u64 {
    const TURNS: u64 = 1_000_000;
    let fastest = (0..10).map(|_| {
        let start = Instant::now();
        let mut sum = 0_u64;
        for turn in 0..TURNS {
            sum = black_box(sum.rotate_left(5) ^ turn);
        }
        black_box(sum);
        start.elapsed()
    });
    let fastest = fastest.min().unwrap_or(WORK);
    (WORK.as_secs_f64() / fastest.as_secs_f64() * TURNS as f64) as u64
}

/// tokio on upstream mio and on forkio's: the same program, built twice.
fn same_on_both(plan: &Plan, data: &mut Data, turn: Duration, rounds: usize) -> Result<(), Box<dyn Error>> {
    let programs = [(ONE_THREAD_FORKIO, "forkio/release/hello-forkio"), (ONE_THREAD, "release/hello-mio")];
    let mut servers = Vec::new();
    for (name, program) in programs {
        let address = free_address()?;
        servers.push(Server::start(name, address, vec![hello(plan, program, "current-thread", address, 0, 0)])?);
    }
    let mut both = Data::default();
    saturate(&mut both, &servers, turn, rounds, Kind::KeepAlive)?;
    saturate(&mut both, &servers, turn, rounds, Kind::Short)?;
    for series in both.series {
        for value in series.values {
            data.add(series.measure, ON_BOTH, &series.contender, value);
        }
    }
    Ok(())
}

/// The case that compares tokio on both.
pub(crate) const ON_BOTH: &str = "the same server on both";

/// User-level instructions of a request, of all processes of a server together. (Valgrind before 3.21 does not know
/// pidfd_open(2), so a server that forkio has forked cannot run in it; what a worker does is what the one thread does.)
fn count_instructions(plan: &Plan, data: &mut Data) -> Result<(), Box<dyn Error>> {
    type Start<'a> = &'a dyn Fn(SocketAddr) -> io::Result<Command>;
    let servers: [(&str, Start<'_>); 3] = [
        (ONE_THREAD_FORKIO, &|address| Ok(hello(plan, "forkio/release/hello-forkio", "current-thread", address, 0, 0))),
        (ONE_THREAD, &|address| Ok(hello(plan, "release/hello-mio", "current-thread", address, 0, 0))),
        (NGINX, &|address| nginx(&plan.program("nginx-counted"), address, 1, "")),
    ];
    // A start of valgrind takes its time.
    let counted = if plan.quick { 2 } else { servers.len() };
    for (name, command) in &servers[..counted] {
        for (connections, case) in [(Connections::StayOpen, HELLO), (Connections::Short, HELLO_SHORT)] {
            match instructions_of_a_request(*command, connections) {
                Ok(count) => data.add(Measure::RequestInstructions, case, name, count),
                Err(error) => data.note(format!("{name}, {case}: instructions not counted: {error}")),
            }
        }
    }
    Ok(())
}

/// The other case of the instructions of a request.
pub(crate) const HELLO_SHORT: &str = "hello world, a connection for each request";

/// As `instructions::count`, for a server that is asked one request after the other.
fn instructions_of_a_request(
    command: impl Fn(SocketAddr) -> io::Result<Command>,
    connections: Connections,
) -> Result<f64, Box<dyn Error>> {
    let count = |requests: usize| -> Result<f64, Box<dyn Error>> {
        let address = free_address()?;
        let program = command(address)?;
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.arg(program.get_program()).args(program.get_args());
        valgrind.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = Process::start(&mut valgrind)?;
        // Read while it runs: a pipe that is full would stop it.
        let mut stderr = server.stderr().ok_or("no pipe")?;
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
            load::exchange(&mut stream, connections)?;
        }
        drop(stream);
        server.terminate()?;
        let log = log.join().map_err(|_| "reading from valgrind panicked")??;
        let collected = log.lines().filter_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
        match collected.sum() {
            0.0 => Err("callgrind collected nothing".into()),
            sum => Ok(sum),
        }
    };
    const REQUESTS: usize = 300;
    Ok((count(3 * REQUESTS)? - count(REQUESTS)?) / (2 * REQUESTS) as f64)
}

/// Workers that share a table that was loaded before they were forked, and processes that each load it.
fn memory(plan: &Plan, data: &mut Data, rounds: usize) -> Result<(), Box<dyn Error>> {
    for _ in 0..rounds {
        for (workers, case) in [(1, ONE_WORKER), (4, FOUR_WORKERS)] {
            let address = free_address()?;
            let server = Server::start(PREFORK_HTTP, address, vec![prefork_http(plan, address, workers, TABLE_MIB)])?;
            data.add(Measure::Pss, case, PREFORK_HTTP, resident(&[server], 1 + workers)?);

            let address = free_address()?;
            let command = hello_prefork(plan, workers, "shared", address, 0, TABLE_MIB);
            let started = Instant::now();
            let server = Server::start(FORKED, address, vec![command])?;
            data.add(Measure::Ready, case, FORKED, started.elapsed().as_secs_f64() * 1e3);
            data.add(Measure::Pss, case, FORKED, resident(&[server], 1 + workers)?);

            let mut servers = Vec::new();
            let started = Instant::now();
            for _ in 0..workers {
                let address = free_address()?;
                let command = hello(plan, "release/hello-mio", "current-thread", address, 0, TABLE_MIB);
                servers.push(Server::begin(SEPARATE, address, vec![command])?);
            }
            for server in &mut servers {
                server.wait_for_answer()?;
            }
            data.add(Measure::Ready, case, SEPARATE, started.elapsed().as_secs_f64() * 1e3);
            data.add(Measure::Pss, case, SEPARATE, resident(&servers, workers)?);
        }
    }
    Ok(())
}

/// Names of [`Measure::Pss`].
pub(crate) const ONE_WORKER: &str = "1 worker";
pub(crate) const FOUR_WORKERS: &str = "4 workers";
pub(crate) const SEPARATE: &str = "separate processes";
const FORKED: &str = "forkio";

/// The memory of so many processes, once they are there and have served something.
fn resident(servers: &[Server], processes: usize) -> io::Result<f64> {
    let started = Instant::now();
    let pids = loop {
        let pids: Vec<u32> = servers.iter().flat_map(Server::pids).collect();
        if pids.len() >= processes {
            break pids;
        }
        if started.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("{} of {processes} processes have started", pids.len())));
        }
        thread::sleep(Duration::from_millis(1));
    };
    for server in servers {
        for _ in 0..CONNECTIONS {
            load::exchange(&mut TcpStream::connect(server.address)?, Connections::StayOpen)?;
        }
    }
    Ok(process::pss(&pids))
}
