//! Who gets the next connection; see `src/bin/fixture-distribution.rs` for the server.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use forkio_tests::{Fixture, LIMIT, allowed_cpus, processes, stay_on, wait_until};

const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture-distribution");
const ALL: [&str; 4] = ["shared", "reuseport", "reuseport-per-cpu", "balanced"];

/// A running server.
struct Server {
    fixture: Fixture,
    address: String,
}

impl Server {
    #[track_caller]
    fn start(distribution: &str, workers: usize, how: &str) -> Server {
        let mut fixture = Fixture::start(FIXTURE, &[distribution, &workers.to_string(), how]);
        let address = fixture.line();
        Server { fixture, address }
    }

    fn address(&self) -> SocketAddr {
        self.address.parse().expect("an address")
    }

    #[track_caller]
    fn connect(&self) -> Connecting {
        let stream = TcpStream::connect(self.address()).expect("connecting");
        stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
        Connecting(stream)
    }

    /// Connections that come all at once, each with the worker that has it.
    #[track_caller]
    fn burst(&self, count: usize) -> Vec<Connection> {
        let connecting: Vec<_> = (0..count).map(|_| self.connect()).collect();
        connecting.into_iter().map(Connecting::answered).collect()
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
        let parent = self.fixture.pid();
        processes().into_values().filter(|stat| stat.parent == parent).map(|stat| stat.pid).collect()
    }

    #[track_caller]
    fn stop(self) {
        signal(self.fixture.pid(), libc::SIGTERM);
        let (status, output) = self.fixture.finish();
        assert!(status.success(), "{status}\n{output}");
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: no memory is involved; the process is one of the fixture's.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "signalling process {pid}: {}", io::Error::last_os_error());
}

/// Stops a process, and waits until it has stopped.
#[track_caller]
fn freeze(pid: i32) {
    signal(pid, libc::SIGSTOP);
    wait_until("the process has stopped", || processes()[&pid].state == 'T');
}

/// A connection that the kernel has made, and no worker has answered yet.
struct Connecting(TcpStream);

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
        Ok(Connection { stream: self.0, worker, pid })
    }

    fn is_answered(&self) -> bool {
        self.0.set_nonblocking(true).expect("a socket");
        let answered = self.0.peek(&mut [0]).is_ok();
        self.0.set_nonblocking(false).expect("a socket");
        answered
    }
}

/// Ends connections; they count no more when this returns.
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
    let invalid = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("{line:?} is no answer"));
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

/// The most that a worker may have: a quarter more than the mean, and where that is no whole number more, the mean rounded
/// up. From four connections per worker on the first is at least the second.
#[track_caller]
fn check_balance(counts: &[usize], what: &str) {
    let (total, workers) = (counts.iter().sum::<usize>(), counts.len());
    let limit = (total * 5 / (workers * 4)).max(total.div_ceil(workers));
    let most = counts.iter().max().expect("a worker");
    assert!(*most <= limit, "{what}: {counts:?}: more than {limit}");
    if total >= 4 * workers {
        assert!(most * workers * 4 <= total * 5, "{what}: {counts:?}: more than 1.25 of the mean");
    }
}

/// Bursts of connections that stay.
fn balance(workers: usize, how: &str) {
    let server = Server::start("balanced", workers, how);
    server.wait_for_all(workers);
    let mut connections = Vec::new();
    for count in [1, workers - 1, 4 * workers, 2 * workers + 1, 3 * workers] {
        connections.extend(server.burst(count));
        check_balance(&by_worker(&connections, workers), &format!("after a burst of {count}"));
    }
    // Connections end where they end, and new ones make up for it: nobody gets one who has too many already.
    let mut number = 0;
    let (kept, ended) = connections.into_iter().partition(|connection| {
        number += 1;
        connection.worker % 2 == 0 && number % 3 != 0
    });
    close(ended);
    let mut connections: Vec<Connection> = kept;
    let before = by_worker(&connections, workers);
    connections.extend(server.burst(5 * workers));
    let after = by_worker(&connections, workers);
    let total = connections.len();
    let limit = (total * 5 / (workers * 4)).max(total.div_ceil(workers));
    for (before, after) in before.iter().zip(&after) {
        assert!(*after <= limit.max(*before), "{before:?} became {after:?}, and the limit is {limit}");
    }
    drop(connections);
    server.stop();
}

#[test]
fn two_workers_are_balanced() {
    balance(2, "tcp");
}

#[test]
fn four_workers_are_balanced() {
    balance(4, "tcp");
}

#[test]
fn eight_workers_are_balanced() {
    balance(8, "tcp");
}

#[test]
fn workers_with_threads_are_balanced() {
    balance(3, "threads");
}

#[test]
fn sixteen_workers_are_balanced() {
    balance(16, "tcp");
}

#[test]
fn thirty_two_workers_are_balanced() {
    balance(32, "tcp");
}

/// The connections of a worker that is killed count no more, and the one that replaces it has them made up for.
#[test]
fn killed_worker_is_replaced_in_the_balance() {
    const WORKERS: usize = 3;
    let server = Server::start("balanced", WORKERS, "tcp");
    server.wait_for_all(WORKERS);
    let mut connections = server.burst(6 * WORKERS);
    let victim = connections[0].pid;
    signal(victim, libc::SIGKILL);
    connections.retain(|connection| connection.pid != victim);
    wait_until("the worker has been replaced", || {
        let pids = server.pids();
        pids.len() == WORKERS && !pids.contains(&victim)
    });
    wait_until("the new worker accepts", || {
        let connection = server.connect().answered();
        let is_new = connections.iter().all(|known| known.pid != connection.pid);
        if is_new {
            connections.push(connection);
        } else {
            close(vec![connection]);
        }
        is_new
    });
    let missing = 8 * WORKERS - connections.len();
    connections.extend(server.burst(missing));
    check_balance(&by_worker(&connections, WORKERS), "with the new worker");
    drop(connections);
    server.stop();
}

/// A worker that does not answer holds up the others for a moment only, and goes on where it was.
#[test]
fn stopped_worker_does_not_hold_up_the_others() {
    const WORKERS: usize = 2;
    let server = Server::start("balanced", WORKERS, "tcp");
    server.wait_for_all(WORKERS);
    let mut connections = server.burst(2);
    let (stopped, other) = (connections[0].pid, connections[1].pid);
    assert_ne!(stopped, other);
    freeze(stopped);
    let without = server.burst(20);
    assert!(without.iter().all(|connection| connection.pid == other));
    connections.extend(without);
    signal(stopped, libc::SIGCONT);
    // It has one, the other 21: it is the next for a long time.
    wait_until("it accepts again", || {
        connections.push(server.connect().answered());
        connections.last().is_some_and(|connection| connection.pid == stopped)
    });
    let before = connections.len();
    connections.extend(server.burst(10));
    assert!(connections[before..].iter().all(|connection| connection.pid == stopped));
    drop(connections);
    server.stop();
}

/// With one queue, in a quiet server, connections go round.
#[test]
#[cfg_attr(forkio_kqueue, ignore = "a kqueue tells all workers")]
fn shared_queue_goes_round() {
    const WORKERS: usize = 3;
    let server = Server::start("shared", WORKERS, "tcp");
    server.wait_for_all(WORKERS);
    // Slowly enough that each of them finds all workers asleep, and has the last one at the end of the kernel's list.
    let mut connections = Vec::new();
    for _ in 0..4 * WORKERS {
        thread::sleep(Duration::from_millis(3));
        connections.push(server.connect().answered());
    }
    let counts = by_worker(&connections, WORKERS);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    drop(connections);
    server.stop();
}

/// A connection that only a worker was told of which then ends: the other one takes it.
#[test]
#[cfg_attr(forkio_kqueue, ignore = "a kqueue tells all workers")]
fn connection_of_a_dying_worker_is_taken_by_another() {
    let mut fixture = Fixture::start(FIXTURE, &["shared", "2", "deaf"]);
    // The first worker, and those that replace it, say who they are, and never accept.
    let lines = [fixture.line(), fixture.line()];
    let (deaf, address): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.starts_with("deaf "));
    let server = Server { fixture, address: address[0].clone() };
    let deaf = deaf[0]["deaf ".len()..].parse().expect("a process id");
    let mut served = Vec::new();
    let mut waiting = None;
    // The other one may be first on the kernel's list; when it has accepted it is the last.
    wait_until("a connection that nobody takes", || {
        let connecting = server.connect();
        thread::sleep(Duration::from_millis(20));
        if connecting.is_answered() {
            served.push(connecting.answered());
        } else {
            waiting = Some(connecting);
        }
        waiting.is_some()
    });
    signal(deaf, libc::SIGKILL);
    let connection = waiting.expect("it has been waited for").answered();
    assert_eq!(connection.worker, 1);
    drop((served, connection));
    server.stop();
}

/// What has arrived for a worker that is killed before it accepts is served by the next one: nothing is reset.
#[test]
fn queue_outlives_its_worker() {
    for distribution in ["reuseport", "shared", "balanced"] {
        let server = Server::start(distribution, 2, "tcp");
        server.wait_for_all(2);
        let workers = server.pids();
        for pid in &workers {
            freeze(*pid);
        }
        let waiting: Vec<_> = (0..32).map(|_| server.connect()).collect();
        for pid in &workers {
            signal(*pid, libc::SIGKILL);
        }
        let served: Vec<_> = waiting.into_iter().map(Connecting::answered).collect();
        assert!(served.iter().all(|connection| !workers.contains(&connection.pid)), "{distribution}");
        if distribution == "reuseport" {
            let counts = by_worker(&served, 2);
            assert!(counts.iter().all(|count| *count > 0), "one queue had them all: {counts:?}");
        }
        drop(served);
        server.stop();
    }
}

/// One worker after the other is told to stop, while clients come without a pause: each of them is answered.
#[test]
fn workers_are_replaced_under_load() {
    const WORKERS: usize = 2;
    for distribution in ALL {
        let server = Server::start(distribution, WORKERS, "brief");
        server.wait_for_all(WORKERS);
        let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let stream = TcpStream::connect(server.address())?;
                            stream.set_read_timeout(Some(LIMIT))?;
                            Connecting(stream).answer()?;
                            answers.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok::<_, io::Error>(())
                    })
                })
                .collect();
            for old in server.pids() {
                let before = answers.load(Ordering::Relaxed);
                wait_until("clients are answered", || answers.load(Ordering::Relaxed) > before + 50);
                signal(old, libc::SIGTERM);
                wait_until("the worker has been replaced", || {
                    let pids = server.pids();
                    pids.len() == WORKERS && !pids.contains(&old)
                });
            }
            let before = answers.load(Ordering::Relaxed);
            wait_until("clients are answered", || answers.load(Ordering::Relaxed) > before + 50);
            stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().expect("no client panics").unwrap_or_else(|error| panic!("{distribution}: {error}"));
            }
        });
        server.stop();
    }
}

/// What is in the queues when the server is told to stop is served.
#[test]
fn queues_are_emptied_by_a_stop() {
    for distribution in ALL {
        let server = Server::start(distribution, 2, "tcp");
        server.wait_for_all(2);
        let workers = server.pids();
        for pid in &workers {
            freeze(*pid);
        }
        let waiting: Vec<_> = (0..32).map(|_| server.connect()).collect();
        signal(server.fixture.pid(), libc::SIGTERM);
        // The parent has closed its listeners, and told the workers, when it is asleep again; those find out together.
        wait_until("the parent sleeps", || processes()[&server.fixture.pid()].state == 'S');
        for pid in &workers {
            signal(*pid, libc::SIGCONT);
        }
        for connecting in waiting {
            connecting.answer().unwrap_or_else(|error| panic!("{distribution}: {error}"));
        }
        let (status, output) = server.fixture.finish();
        assert!(status.success(), "{distribution}: {status}\n{output}");
    }
}

#[test]
fn unix_listeners() {
    for distribution in ["shared", "balanced"] {
        let server = Server::start(distribution, 2, "unix");
        let connect = || {
            let stream = UnixStream::connect(&server.address).expect("connecting");
            stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
            stream
        };
        let (mut seen, mut held) = (BTreeMap::<usize, usize>::new(), Vec::new());
        wait_until("both workers have answered", || {
            let stream = connect();
            *seen.entry(read_answer(&stream).expect("an answer").0).or_default() += 1;
            held.push(stream);
            seen.len() == 2
        });
        drop(held);
        server.stop();
    }
}

#[test]
fn unix_listeners_have_one_queue() {
    let server = Server::start("reuseport", 2, "refused");
    assert_eq!(server.address, "ready");
    server.stop();
}

/// A worker that pauses leaves connections to the other one.
#[test]
fn paused_worker_leaves_connections_to_others() {
    for distribution in ["shared", "balanced"] {
        let mut server = Server::start(distribution, 2, "pauses");
        server.wait_for_all(2);
        let mut first = server.connect().answered();
        first.stream.write_all(b"p").expect("asking for a pause");
        assert_eq!(server.fixture.line(), "paused");
        let connections = server.burst(10);
        assert!(connections.iter().all(|connection| connection.pid != first.pid), "{distribution}");
        drop(connections);
        server.stop();
    }
}

/// Connections and counts that a child of a worker has inherited are the worker's.
#[test]
fn forks_of_a_worker_do_not_count() {
    let server = Server::start("balanced", 2, "forks");
    server.wait_for_all(2);
    let connections = server.burst(12);
    check_balance(&by_worker(&connections, 2), "after the forks");
    drop(connections);
    server.stop();
}

/// What parent and workers have registered, and how.
#[test]
fn kernel_has_what_it_should() {
    for distribution in ALL {
        let server = Server::start(distribution, 3, "kernel");
        assert_eq!(server.address, "ready");
        server.stop();
    }
}

/// A connection goes to the worker on the CPU that it arrives on; over loopback, that of the client.
#[test]
fn per_cpu_queues_are_steered() {
    // Without CPUs the distribution is refused.
    let Some(allowed) = allowed_cpus() else { return };
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let server = Server::start("reuseport-per-cpu", cpus, "tcp");
    for (worker, cpu) in allowed.iter().enumerate() {
        let address = server.address();
        let cpu = *cpu;
        let workers = thread::spawn(move || {
            stay_on(cpu);
            let mut workers = BTreeSet::new();
            for _ in 0..20 {
                let stream = TcpStream::connect(address).expect("connecting");
                stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
                workers.insert(Connecting(stream).answered().worker);
            }
            workers
        });
        assert_eq!(workers.join().expect("no panic"), BTreeSet::from([worker]), "from CPU {cpu}");
    }
    server.stop();
}
