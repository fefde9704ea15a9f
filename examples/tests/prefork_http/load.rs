//! The server under load.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forkio_tests::http::Client;
use forkio_tests::{beside_threads, scenarios, sleeps_of, wait_until};
use rustix::process::Signal;

use crate::server::{Server, signal};
use crate::status::{AskStatus, Status};

const CLIENTS: usize = 8;
/// How many requests a client sends over a connection before it opens another one.
const REQUESTS_PER_CONNECTION: u64 = 200;

/// The observations of clients that never pause.
#[derive(Debug, Default)]
struct Load {
    answers: AtomicU64,
    /// For each connection that was lost with a request in flight: the worker's process id, if the client knew it.
    lost: Mutex<Vec<Option<i32>>>,
}

impl Load {
    /// Makes a connection and sends requests. Panics if connecting fails, or at a wrong answer.
    fn connect(&self, address: SocketAddr, number: &mut u64) {
        // Connecting must never fail: if a worker dies, the listener stays open.
        let mut client = Client::connect(address).expect("connecting");
        let mut worker = None;
        if let Err(error) = self.connection(&mut client, &mut worker, number) {
            match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    self.lost.lock().expect("no client panics").push(worker);
                }
                _ => panic!("{error} from worker {worker:?}"),
            }
        }
    }

    fn connection(&self, client: &mut Client, worker: &mut Option<i32>, number: &mut u64) -> io::Result<()> {
        let status = client.get("/status")?;
        *worker = Some(Status::parse(&status.body).pid);
        for _ in 0..REQUESTS_PER_CONNECTION {
            *number = (*number * 7919 + 1) % 100_000;
            let answer = client.get(&format!("/table/{number}"))?;
            let expected = smallest_prime_factor(*number).to_string();
            if (answer.status, answer.body.as_slice()) != (200, expected.as_bytes()) {
                return Err(io::Error::other(format!("{answer:?} for {number}")));
            }
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until this many more requests have been answered.
    #[track_caller]
    fn wait_for_answers(&self, answers: u64) {
        let enough = self.answers.load(Ordering::Relaxed) + answers;
        wait_until("the load continues", || self.answers.load(Ordering::Relaxed) >= enough);
    }
}

fn smallest_prime_factor(number: u64) -> u64 {
    (2..).take_while(|factor| factor * factor <= number).find(|factor| number % factor == 0).unwrap_or(number)
}

fn kill_workers(options: &[&str], kills: usize) {
    const WORKERS: usize = 3;
    let server = Server::start(&[&["--workers", "3"], options].concat());
    let load = Load::default();
    let mut killed = HashSet::new();
    let clients = (0..CLIENTS as u64).map(|seed| {
        let (load, address, mut number) = (&load, server.address(), seed);
        move || load.connect(address, &mut number)
    });
    beside_threads(clients, || {
        for _ in 0..kills {
            load.wait_for_answers(300);
            // Kill the worker with the lowest process id, which is usually the oldest. A young worker may not be ready
            // yet, and would count towards the crash limit.
            let victim = server.workers().into_iter().min().expect("a worker");
            killed.insert(victim);
            signal(victim, Signal::KILL);
            server.until_replaced(victim, WORKERS);
        }
        load.wait_for_answers(1000);
    });
    assert_eq!(killed.len(), kills);

    let lost = load.lost.into_inner().expect("no client panics");
    for worker in lost.iter().flatten() {
        assert!(killed.contains(worker), "worker {worker} lost a connection, but was not killed: {killed:?}, {lost:?}");
    }
    // A client has one connection at a time, so each kill can end at most `CLIENTS` connections.
    assert!(lost.len() <= kills * CLIENTS, "{lost:?}");
    assert!(!lost.is_empty(), "no killed worker had a request in flight: this has tested nothing");

    // No zombie is left, and there is a worker for each index.
    let processes = server.processes();
    assert_eq!(processes.len(), 1 + WORKERS, "{processes:?}");
    let places: Vec<u64> = server.connect_to_each(WORKERS).iter().map(|(_, status)| status.worker).collect();
    assert_eq!(places, [0, 1, 2]);
    server.stop();
}

/// Checks that `count` clients get the right answers. All clients send their requests before the first answer is read.
pub(crate) fn check_many_at_once(server: &Server, count: usize) {
    let mut clients: Vec<Client> = (0..count).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.request("/table/49").expect("sending");
    }
    for client in &mut clients {
        assert_eq!(client.response().expect("an answer").text(), "7");
    }
}

/// Checks the counts of 20 connections. Returns how many each worker has.
fn check_counts(distribution: &str) -> [u64; 2] {
    let server = Server::start(&["--workers", "2", "--distribution", distribution, "--header-timeout", "600"]);
    if distribution == "balanced" {
        drop(server.connect_to_each(2));
        // The remaining connection is that of this request.
        wait_until("connections that have ended do not count", || {
            let counts = server.connect().status().connections;
            counts.iter().sum::<u64>() == 1
        });
    }
    let mut clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    let mut own = [0; 2];
    let mut last = Vec::new();
    for client in &mut clients {
        let status = client.status();
        own[status.worker as usize] += 1;
        last = status.connections;
    }
    assert_eq!(last, own, "{distribution}");
    server.stop();
    own
}

scenarios!(
    /// Only requests in flight on a killed worker are lost: with `shared`, `reuseport`, `balanced`, and with threads.
    #[limit(1200)]
    fn killed_workers() {
        kill_workers(&[], 9);
        for options in [["--distribution", "reuseport"], ["--distribution", "balanced"], ["--worker-threads", "2"]] {
            kill_workers(&options, 6);
        }
    }

    /// Connections wake only workers, not the supervisor.
    fn supervisor_sleeps() {
        const CONNECTIONS: u64 = 1000;
        let server = Server::start(&["--workers", "2"]);
        // The start-up work wakes the supervisor too. The supervisor has finished this work once both workers serve.
        drop(server.connect_to_each(2));
        let (start, before) = (Instant::now(), sleeps_of(server.pid()));
        for _ in 0..CONNECTIONS {
            server.check_serving();
        }
        let (elapsed, woken) = (start.elapsed(), sleeps_of(server.pid()) - before);
        // The program's timer also ticks in the supervisor: ten times a second. A tick may wake the runtime twice.
        let own = elapsed.as_millis() as u64 / 100 * 2 + 10;
        assert!(woken <= own, "woken {woken} times in {elapsed:?}");
        if own >= CONNECTIONS {
            eprintln!("the machine is too slow to tell whether connections wake the supervisor: {elapsed:?}");
        }
        server.stop();
    }

    /// The workers serve all connections, even if far more arrive at once than there are workers.
    fn many_connections_at_once() {
        let server = Server::start(&["--workers", "2", "--header-timeout", "600"]);
        check_many_at_once(&server, 500);
        server.stop();
    }

    /// The status reports the connections of each worker. With `balanced`, no worker has more than 1.25 times the mean.
    #[limit(600)]
    fn connections_are_counted() {
        for distribution in ["shared", "reuseport", "reuseport-per-cpu", "balanced"] {
            let attempts = if distribution == "balanced" { 5 } else { 1 };
            let is_balanced = (0..attempts).any(|_| {
                let start = Instant::now();
                let counts = check_counts(distribution);
                // The other worker excludes a worker that leaves a connection waiting for half a second, such as when
                // the machine stalls.
                let is_balanced = counts.iter().all(|count| *count <= 12);
                let may_be_excluded = start.elapsed() >= Duration::from_millis(500);
                assert!(
                    distribution != "balanced" || is_balanced || may_be_excluded,
                    "more than 1.25 times the mean: {counts:?}"
                );
                is_balanced
            });
            assert!(distribution != "balanced" || is_balanced, "more than 1.25 times the mean in each attempt");
        }
    }
);
