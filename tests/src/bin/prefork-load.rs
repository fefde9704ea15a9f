//! Counts the requests that a server loses while its workers are replaced. `runtime-glue/docs/operating.md` has the tables.
//!
//! ```sh
//! cargo build --release --example prefork-http
//! cargo run --release -p forkio-tests --bin prefork-load -- [--seconds N] [--nginx] [--only NAME]
//! ```
//!
//! Half of the clients keep their connections. The others open a connection for each request. Each client waits for a response
//! before its next request. A request is lost if no complete response with status 200 arrives.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forkio_tests::http::Client;
use forkio_tests::{announced_address, children_of, example, kill, try_kill};

const WORKERS: usize = 4;
const CLIENTS: usize = 64;
/// How long nginx may take to listen.
const LIMIT: Duration = Duration::from_secs(20);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    /// How many connections lost their first request.
    first: AtomicU64,
    /// How many connections lost a later request.
    later: AtomicU64,
    /// How many requests were lost by a reset of their connection.
    resets: AtomicU64,
    /// How many connections could not be made.
    refused: AtomicU64,
}

/// What disturbs the server each second.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disturbance {
    Nothing,
    /// SIGHUP to the supervisor, or nginx's master: all workers are replaced.
    Reload,
    /// SIGTERM to one worker.
    RetireOne,
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let position = arguments.iter().position(|argument| argument == name)?;
        arguments.get(position + 1)
    };
    let seconds: u64 = value("--seconds").map_or(Ok(8), |text| text.parse())?;
    let only = value("--only");
    println!("| server | each second | requests | first requests lost | later requests lost | resets | refused |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    let mut lost = 0;
    for distribution in ["shared", "reuseport", "reuseport-per-cpu", "balanced"] {
        for disturbance in [Disturbance::Reload, Disturbance::RetireOne] {
            let name = format!("forkio, {distribution}");
            if only.is_some_and(|only| !name.contains(only.as_str())) {
                continue;
            }
            let server = Server::prefork_http(&["--distribution", distribution])?;
            let counts = measure(&server, disturbance, Duration::from_secs(seconds))?;
            lost += report(&name, disturbance, &counts);
            server.stop()?;
        }
    }
    if arguments.iter().any(|argument| argument == "--nginx") {
        for disturbance in [Disturbance::Nothing, Disturbance::Reload] {
            let server = Server::nginx()?;
            let counts = measure(&server, disturbance, Duration::from_secs(seconds))?;
            report("nginx", disturbance, &counts);
            server.stop()?;
        }
    }
    if lost > 0 {
        return Err(format!("{lost} requests were lost").into());
    }
    Ok(())
}

fn report(name: &str, disturbance: Disturbance, counts: &Counts) -> u64 {
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (first, later) = (load(&counts.first), load(&counts.later));
    let (resets, refused) = (load(&counts.resets), load(&counts.refused));
    let what = match disturbance {
        Disturbance::Nothing => "nothing",
        Disturbance::Reload => "reload of all workers",
        Disturbance::RetireOne => "retiring one worker",
    };
    println!("| {name} | {what} | {} | {first} | {later} | {resets} | {refused} |", load(&counts.requests));
    first + later + refused
}

struct Server {
    program: Child,
    /// The process id of the supervisor, or of nginx's master.
    pid: i32,
    address: SocketAddr,
    directory: Option<PathBuf>,
}

impl Server {
    fn prefork_http(arguments: &[&str]) -> Result<Server, Error> {
        let mut program = Command::new(example("prefork-http"))
            .args(["--listen", "127.0.0.1:0", "--workers", &WORKERS.to_string()])
            .args(arguments)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(program.stdout.take().ok_or("standard output is not piped")?).read_line(&mut line)?;
        let address = announced_address(&line).ok_or("the server announces no address")?;
        Ok(Server { pid: program.id() as i32, program, address, directory: None })
    }

    fn nginx() -> Result<Server, Error> {
        let directory = std::env::temp_dir().join(format!("forkio-nginx-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let path = directory.display();
        let configuration = format!(
            "daemon off; worker_processes {WORKERS}; pid {path}/pid; error_log {path}/error.log;\n\
             events {{}}\n\
             http {{ access_log off; keepalive_requests 1000000;\n\
             server {{ listen 127.0.0.1:{port}; location / {{ return 200 'Hello, World!'; }} }} }}\n"
        );
        fs::write(directory.join("nginx.conf"), configuration)?;
        let program = Command::new("nginx").arg("-c").arg(directory.join("nginx.conf")).spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if start.elapsed() > LIMIT {
                return Err("nginx does not listen".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Server { pid: program.id() as i32, program, address, directory: Some(directory) })
    }

    fn stop(mut self) -> Result<(), Error> {
        try_kill(self.pid, libc::SIGTERM)?;
        let status = self.program.wait()?;
        if let Some(directory) = self.directory.take() {
            fs::remove_dir_all(directory)?;
        } else if !status.success() {
            return Err(format!("the server ended with {status}").into());
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn measure(server: &Server, disturbance: Disturbance, duration: Duration) -> Result<Counts, Error> {
    let counts = Counts::default();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (counts, stop) = (&counts, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    connection(server.address, client % 2 == 0, counts, stop);
                }
            });
        }
        let start = Instant::now();
        let mut round = 0;
        while start.elapsed() < duration {
            thread::sleep(Duration::from_secs(1));
            match disturbance {
                Disturbance::Nothing => {}
                Disturbance::Reload => kill(server.pid, libc::SIGHUP),
                Disturbance::RetireOne => {
                    let workers = children_of(server.pid);
                    if let Some(worker) = workers.get(round % WORKERS) {
                        // The worker may have ended.
                        let _ = try_kill(*worker, libc::SIGTERM);
                    }
                }
            }
            round += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    Ok(counts)
}

/// Opens a connection, and sends one request. With `keeps`, sends more requests until the server closes the connection.
fn connection(address: SocketAddr, keeps: bool, counts: &Counts, stop: &AtomicBool) {
    let Ok(mut client) = Client::connect(address) else {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        return thread::sleep(Duration::from_millis(10));
    };
    let mut is_first = true;
    loop {
        match client.ask("/", keeps) {
            Ok(response) => {
                counts.requests.fetch_add(1, Ordering::Relaxed);
                if response.closes() || !keeps || stop.load(Ordering::Relaxed) {
                    return;
                }
            }
            Err(error) => {
                let lost = if is_first { &counts.first } else { &counts.later };
                lost.fetch_add(1, Ordering::Relaxed);
                if error.kind() == io::ErrorKind::ConnectionReset {
                    counts.resets.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
        }
        is_first = false;
    }
}
