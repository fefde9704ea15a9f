//! Compares the distributions of `Prefork`: how evenly long-lived connections are spread over the workers, and how many
//! connections are lost when a worker hangs and is killed. `forkio::guide::distribution` has the results.
//!
//! ```sh
//! cargo run --release -p forkio-tests --bin distribution-table               # all tables
//! cargo run --release -p forkio-tests --bin distribution-table -- --quick    # a short run
//! ```
//!
//! For each run, the program starts itself as the server. The clients are threads of the first process.

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forkio::prefork::{Distribution, Inherited, Listener, Prefork, Worker};
use forkio_tests::try_kill;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::sleep;

/// A row of the tables: the way in which a server's workers get connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Row {
    /// One queue. Each connection wakes all workers, because they accept from the listener itself, not from an acceptor.
    AllWoken,
    Distribution(Distribution),
    /// Each worker binds a listener of its own with `SO_REUSEPORT`. The queue ends with the worker.
    OwnReusePort,
}

const ROWS: [(&str, Row); 6] = [
    ("(one queue, all workers woken)", Row::AllWoken),
    ("`Shared`", Row::Distribution(Distribution::Shared)),
    ("(`SO_REUSEPORT` by each worker)", Row::OwnReusePort),
    ("`ReusePort`", Row::Distribution(Distribution::ReusePort)),
    ("`ReusePortPerCpu`", Row::Distribution(Distribution::ReusePortPerCpu)),
    ("`Balanced`", Row::Distribution(Distribution::Balanced)),
];

/// The time that a worker needs for an answer.
const WORK: Duration = Duration::from_millis(5);
/// The time between connections that come one at a time.
const PAUSE: Duration = Duration::from_millis(2);
/// The time after which a client gives up.
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => measure(&[2, 4, 8, 16, 32], 5, 20),
        ["--quick"] => measure(&[2, 4], 1, 1),
        ["serve", row, workers] => {
            let (_, row) = ROWS.into_iter().find(|(name, _)| name == row).ok_or("no such row")?;
            serve(row, workers.parse()?)
        }
        _ => Err("give no argument, or --quick".into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(row: Row, workers: usize) -> Result<(), Box<dyn Error>> {
    let listener = Inherited::default().bind_tcp("127.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    let mut prefork = Prefork::new().workers(workers).crash_limit(0);
    match row {
        Row::Distribution(distribution) => prefork = prefork.listener_with(listener, distribution),
        Row::AllWoken => prefork = prefork.listener(listener),
        // The workers bind the listener's address again.
        Row::OwnReusePort => drop(listener),
    }
    let prefork = prefork.on_ready(move || println!("{address}"));
    let stopped = prefork.run(move |worker| work(worker, row, address)).await?;
    std::process::exit(stopped.exit_code().into());
}

async fn work(mut worker: Worker, row: Row, address: SocketAddr) -> io::Result<()> {
    let index = worker.index();
    let listener = match worker.take_listeners().pop() {
        Some(Listener::Tcp(listener)) => listener,
        _ => {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseport(true)?;
            socket.bind(address)?;
            socket.listen(1024)?
        }
    };
    let serve = async {
        if let Row::Distribution(_) = row {
            let mut acceptor = worker.acceptor(listener);
            loop {
                tokio::spawn(connection(acceptor.accept().await?.0, index));
            }
        }
        loop {
            tokio::spawn(connection(listener.accept().await?.0, index));
        }
    };
    tokio::select! {
        () = worker.shutdown() => Ok(()),
        result = serve => result,
    }
}

/// Sends the worker's index and process id, and `done` after [`WORK`].
async fn connection(mut stream: impl AsyncRead + AsyncWrite + Unpin, index: usize) -> io::Result<()> {
    stream.write_all(format!("{index} {}\n", std::process::id()).as_bytes()).await?;
    sleep(WORK).await;
    stream.write_all(b"done\n").await?;
    // The connection stays open until the client ends it.
    stream.read_u8().await?;
    Ok(())
}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts the program as the server of a row, and waits until every worker serves, for at most [`LIMIT`].
    fn start(row: &str, workers: usize) -> Result<Server, Box<dyn Error>> {
        let mut command = Command::new(env::current_exe()?);
        let mut process = command.args(["serve", row, &workers.to_string()]).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("standard output is not piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let server = Server { process, address: line.trim().parse()? };
        let mut seen = BTreeMap::new();
        let start = Instant::now();
        while seen.len() < workers && start.elapsed() < LIMIT {
            // Ignore errors: workers that bind their own listeners may not have bound them yet.
            if let Ok(connections) = burst(server.address, 4 * workers) {
                seen.extend(connections.iter().map(|connection| (connection.worker, ())));
            }
        }
        // Give the workers time to close the connections of this check.
        thread::sleep(Duration::from_millis(100));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = try_kill(self.process.id().cast_signed(), libc::SIGTERM);
        let _ = self.process.wait();
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    worker: usize,
    pid: i32,
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Waits until a worker has accepted the connection, and reads the worker's index and process id.
fn accepted(stream: TcpStream) -> io::Result<Connection> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let (worker, pid) = line.trim().split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    Ok(Connection { stream, worker: worker.parse().map_err(invalid)?, pid: pid.parse().map_err(invalid)? })
}

/// Opens connections that arrive all at once.
fn burst(address: SocketAddr, count: usize) -> io::Result<Vec<Connection>> {
    let streams = (0..count).map(|_| connect(address)).collect::<io::Result<Vec<_>>>()?;
    streams.into_iter().map(accepted).collect()
}

fn one_at_a_time(address: SocketAddr, count: usize) -> io::Result<Vec<Connection>> {
    let next = |_| {
        thread::sleep(PAUSE);
        connect(address).and_then(accepted)
    };
    (0..count).map(next).collect()
}

/// Returns the largest number of connections that one worker has, divided by the mean.
fn imbalance(connections: &[Connection], workers: usize) -> f64 {
    let mut counts = vec![0_u32; workers];
    for connection in connections {
        counts[connection.worker] += 1;
    }
    f64::from(counts.into_iter().max().unwrap_or(0)) * workers as f64 / connections.len() as f64
}

fn measure(workers: &[usize], runs: usize, kills: usize) -> Result<(), Box<dyn Error>> {
    let header: String = workers.iter().map(|workers| format!(" {workers} workers |")).collect();
    let rule = "---:|".repeat(workers.len());
    println!(
        "Long-lived connections, 20 per worker: the most that a worker has, divided by the mean. Median of {runs} runs \
         (and worst).\n"
    );
    for (title, are_bursts) in [("five bursts", true), ("one at a time", false)] {
        println!("| {title} |{header}\n|---|{rule}");
        for (name, _) in ROWS {
            print!("| {name} |");
            for workers in workers {
                let mut results = Vec::new();
                for _ in 0..runs {
                    let server = Server::start(name, *workers)?;
                    let mut connections = Vec::new();
                    for _ in 0..5 {
                        let count = 4 * workers;
                        let arrive = if are_bursts { burst } else { one_at_a_time };
                        connections.extend(arrive(server.address, count)?);
                    }
                    results.push(imbalance(&connections, *workers));
                }
                results.sort_by(f64::total_cmp);
                print!(" {:.2} ({:.2}) |", results[runs / 2], results[runs - 1]);
                io::stdout().flush()?;
            }
            println!();
        }
        println!();
    }

    const CLIENTS: usize = 16;
    const WORKERS: usize = 4;
    println!(
        "One of {WORKERS} workers hangs for 50 ms and is killed, {kills} times; {CLIENTS} clients, {WORK:?} of work.\n"
    );
    println!("| | served | lost, accepted by the worker | lost in its queue | longest wait to be accepted |");
    println!("|---|---:|---:|---:|---:|");
    for (name, _) in ROWS {
        let server = Server::start(name, WORKERS)?;
        let losses = kill_workers(&server, CLIENTS, kills)?;
        println!(
            "| {name} | {} | {} | {} | {} ms |",
            losses.served,
            losses.in_service,
            losses.in_queue,
            losses.longest.as_millis()
        );
    }
    Ok(())
}

/// The outcomes of the connections, as the clients have counted them.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    served: usize,
    /// Lost after a worker had accepted them.
    in_service: usize,
    /// Lost in the kernel's queue, before a worker accepted them.
    in_queue: usize,
    longest: Duration,
}

impl Losses {
    fn and(self, other: Losses) -> Losses {
        Losses {
            served: self.served + other.served,
            in_service: self.in_service + other.in_service,
            in_queue: self.in_queue + other.in_queue,
            longest: self.longest.max(other.longest),
        }
    }
}

fn kill_workers(server: &Server, clients: usize, kills: usize) -> Result<Losses, Box<dyn Error>> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(|| client(server.address, &stop))).collect();
        for _ in 0..kills {
            // In the long run, the supervisor replaces at most one worker per second without a delay.
            thread::sleep(Duration::from_millis(1_200));
            // The victim is the worker that accepts the next connection.
            let victim = accepted(connect(server.address)?)?.pid;
            try_kill(victim, libc::SIGSTOP)?;
            thread::sleep(Duration::from_millis(50));
            try_kill(victim, libc::SIGKILL)?;
        }
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        Ok(clients.into_iter().map(|client| client.join().unwrap_or_default()).fold(Losses::default(), Losses::and))
    })
}

/// Opens one connection after the other. Waits until each one is served.
fn client(address: SocketAddr, stop: &AtomicBool) -> Losses {
    let mut losses = Losses::default();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        match connect(address).and_then(accepted) {
            Ok(mut connection) => {
                losses.longest = losses.longest.max(start.elapsed());
                match connection.stream.read_exact(&mut [0; 5]) {
                    Ok(()) => losses.served += 1,
                    Err(_) => losses.in_service += 1,
                }
            }
            // End of file: a worker had accepted the connection, and was killed before it answered. A connection that is
            // lost in a queue is reset.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => losses.in_service += 1,
            Err(_) => losses.in_queue += 1,
        }
    }
    losses
}
