//! Runs prefork-http under load for ten minutes. Meanwhile, reloads, scales and upgrades it, and kills children of its
//! supervisor.
//!
//! ```sh
//! cargo build --release --example prefork-http
//! cargo run --release -p forkio-tests --bin prefork-soak -- [OPTIONS] [ARGUMENTS OF prefork-http]
//! ```
//!
//! | option | meaning |
//! |---|---|
//! | `--minutes N` | how long the run takes: 10 unless set |
//! | `--upgrade SECONDS` | the time between two upgrades: 60 unless set. With 0, one supervisor lives for the whole run |
//! | `--unix` | listen on a Unix socket |
//! | `--page` | serve the status page and the control socket, which one client uses |
//! | `--process-1` | run the server as process 1 of a PID namespace |
//!
//! The run fails if a client cannot connect, if a process leaks resources, or if a request is lost. Requests lost on a
//! killed worker, or on a connection that was idle for more than a second, do not count. The supervisor, the template,
//! the service worker and process 1 must have the same number of descriptors, threads, shared mappings and zombies at
//! the end as at the start. Each may gain 4 MiB of resident memory and eight private mappings. The server must leave no
//! process or file.

mod client;
mod server;

use std::collections::HashSet;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use forkio_tests::http::try_connect;
use forkio_tests::try_kill;
use server::{Server, Start};

const KEEP_ALIVE_CLIENTS: usize = 64;
const SHORT_CLIENTS: usize = 64;
const WORKERS: usize = 4;
const MOST_WORKERS: usize = 6;
// The periods of the disturbances, in seconds.
const RELOAD: u64 = 20;
const KILL: u64 = 5;
const SCALE: u64 = 15;
const UPGRADE: u64 = 60;
/// How often to print the memory of the processes, in seconds.
const REPORT: u64 = 60;
/// How long a server that ends keeps an idle connection, unless its options say something else.
const IDLE_GRACE: Duration = Duration::from_secs(1);
/// How long to wait for a condition that must become true.
const LIMIT: Duration = Duration::from_secs(30);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct Soak {
    stop: AtomicBool,
    requests: AtomicU64,
    on_killed: AtomicU64,
    on_idle: AtomicU64,
    /// Answers of the status page, and requests that it did not answer.
    pages: AtomicU64,
    pages_lost: AtomicU64,
    /// The processes that `disturb` has killed, by the ids in their PID namespace, and the time of the last kill.
    killed: Mutex<(HashSet<u32>, Option<Instant>)>,
    failures: Mutex<Vec<String>>,
}

impl Soak {
    fn fail(&self, what: String) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Notes a lost request on a connection made at `connected`. `worker` answered an earlier request on this
    /// connection.
    fn lost(&self, worker: Option<u32>, connected: Instant, error: &io::Error) {
        // `disturb` holds this lock while it notes and kills a worker.
        let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_on_killed = match worker {
            Some(worker) => killed.0.contains(&worker),
            // No worker has answered on this connection. A worker that was killed later may have accepted it.
            None => killed.1.is_some_and(|last| last >= connected),
        };
        let since_kill = killed.1.map(|last| last.elapsed());
        drop(killed);
        if is_on_killed {
            self.on_killed.fetch_add(1, Ordering::Relaxed);
        } else {
            let age = connected.elapsed();
            self.fail(format!(
                "a request was lost on worker {worker:?}: {error} (connected {age:?} ago, the last kill was {since_kill:?} ago)"
            ));
        }
    }
}

/// Sends a signal to a process that may have ended.
fn send(pid: i32, signal: i32) {
    let _ = try_kill(pid, signal);
}

fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Error> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > LIMIT {
            return Err(format!("gave up after {LIMIT:?} of waiting until {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

struct Options {
    duration: Duration,
    upgrade: u64,
    server: Start,
}

fn options() -> Result<Options, Error> {
    let mut options = Options { duration: Duration::from_secs(600), upgrade: UPGRADE, server: Start::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a number"));
        match word.as_str() {
            "--minutes" => options.duration = Duration::try_from_secs_f64(value()?.parse::<f64>()? * 60.0)?,
            "--upgrade" => options.upgrade = value()?.parse()?,
            "--unix" => options.server.is_unix = true,
            "--page" => options.server.has_page = true,
            "--process-1" => options.server.is_process_1 = true,
            _ => {
                options.server.arguments = [word].into_iter().chain(words).collect();
                break;
            }
        }
    }
    Ok(options)
}

fn main() -> Result<(), Error> {
    let Options { duration, upgrade, server: start } = options()?;
    let mut server = Server::start(&start)?;
    // Compare programs that an upgrade has started: they have other descriptors than the first program.
    server.upgrade()?;
    until("the old program has ended", || {
        let is_alone = server.has_only_the_new_program();
        // Process 1 reaps the orphans that it adopts only after some time, so wait until no zombie is left.
        is_alone && server.census().is_some() && server.processes().iter().all(|process| !process.is_zombie)
    })?;
    if start.has_page {
        until("the status page is served", || try_connect(&server.socket("page")).is_ok())?;
    }
    server.replace_one()?;
    // Give the supervisor time to prepare its next fork.
    thread::sleep(Duration::from_secs(1));
    let before = server.census().ok_or("the supervisor has ended")?;
    let soak = Soak::default();
    let done = thread::scope(|scope| {
        for number in 0..KEEP_ALIVE_CLIENTS + SHORT_CLIENTS {
            let (soak, address) = (&soak, &server.address);
            scope.spawn(move || client::client(soak, address, number < KEEP_ALIVE_CLIENTS));
        }
        if start.has_page {
            let (soak, page, control) = (&soak, server.socket("page"), server.socket("control"));
            scope.spawn(move || client::operator(soak, &page, &control, WORKERS));
        }
        let done = disturb(&server, &soak, duration, upgrade);
        soak.stop.store(true, Ordering::Relaxed);
        done
    });
    let done = done?;
    until("as many processes run as before", || {
        server.census().is_some_and(|after| after.processes == before.processes)
    })?;
    server.replace_one()?;
    let mut after = None;
    let settled = until("the server has the resources that it had at the start", || {
        after = server.census();
        after.as_ref().is_some_and(|after| after.leaks(&before).is_empty())
    });
    let after = after.ok_or("the supervisor has ended")?;
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!("{} requests in {:?}; {}", count(&soak.requests), duration, done);
    println!("requests lost with a killed worker: {}", count(&soak.on_killed));
    println!("requests lost on connections that were idle: {}", count(&soak.on_idle));
    println!("requests to the status page: {} answered, {} not", count(&soak.pages), count(&soak.pages_lost));
    println!("before: {before:#?}\nafter: {after:#?}");
    let mut failures = std::mem::take(&mut *soak.failures.lock().unwrap_or_else(PoisonError::into_inner));
    if settled.is_err() {
        failures.extend(after.leaks(&before));
    }
    server.signal(libc::SIGTERM);
    until("all processes have ended", || {
        let _ = server.first.try_wait();
        server.processes().iter().all(|process| process.is_zombie)
    })?;
    if !start.is_unix {
        TcpListener::bind(&server.address).map_err(|error| format!("the port is not free: {error}"))?;
    }
    failures.extend(server.files_left()?);
    for failure in failures.iter().take(20) {
        println!("FAILED: {failure}");
    }
    if failures.is_empty() { Ok(()) } else { Err(format!("{} failures", failures.len()).into()) }
}

/// Reloads, scales and upgrades the server, and kills children of the supervisor, more often than happens in production.
fn disturb(server: &Server, soak: &Soak, duration: Duration, upgrade: u64) -> Result<String, Error> {
    let start = Instant::now();
    let (mut reloads, mut kills, mut scales, mut upgrades) = (0, 0, 0, 0);
    let mut workers = WORKERS;
    let mut random = 1_u64;
    let mut second = 0;
    while start.elapsed() < duration {
        second += 1;
        let next = start + Duration::from_secs(second);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        // Upgrade in the middle of the period, so that the last program has been through reloads and kills before the final
        // check.
        if upgrade > 0 && second % upgrade == upgrade / 2 {
            server.upgrade()?;
            upgrades += 1;
            workers = WORKERS;
        } else if second % RELOAD == 0 {
            server.signal(libc::SIGHUP);
            reloads += 1;
        } else if second % SCALE == 0 {
            let grows = workers < MOST_WORKERS && scales % 4 < 2;
            server.signal(if grows { libc::SIGTTIN } else { libc::SIGTTOU });
            workers = if grows { workers + 1 } else { (workers - 1).max(1) };
            scales += 1;
        }
        // Never kill in the second of a change: if a retiring worker is killed, no other process empties its queue.
        if second % KILL == 2 {
            let children = server.children();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if let Some(victim) = children.get((random >> 33) as usize % children.len().max(1)) {
                let mut killed = soak.killed.lock().unwrap_or_else(PoisonError::into_inner);
                killed.0.insert(victim.own_pid);
                send(victim.pid, libc::SIGKILL);
                killed.1 = Some(Instant::now());
                kills += 1;
            }
        }
        if second % REPORT == 0 {
            let memory = server.census().map_or_else(|| "no supervisor".to_owned(), |census| census.memory());
            println!("after {second} s: {memory}");
        }
        if let Some(failure) = soak.failures.lock().unwrap_or_else(PoisonError::into_inner).first()
            && second % 30 == 0
        {
            println!("the first failure so far: {failure}");
        }
    }
    while workers != WORKERS {
        server.signal(if workers < WORKERS { libc::SIGTTIN } else { libc::SIGTTOU });
        workers = if workers < WORKERS { workers + 1 } else { workers - 1 };
        // The kernel merges pending signals of the same kind.
        thread::sleep(Duration::from_secs(1));
    }
    Ok(format!("{reloads} reloads, {kills} kills, {scales} changes of the number of workers, {upgrades} upgrades"))
}
