//! Queues of connections, shared or one for each worker.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use forkio_tests::reactor::*;

use crate::{ALL, Connecting, Server, by_worker, read_answer};

/// Waits until this many workers have answered. Returns their process ids, by index. Ignores the workers `except`.
#[track_caller]
fn pid_of_each(server: &Server, count: usize, except: &[i32]) -> Vec<i32> {
    let mut pids = BTreeMap::new();
    wait_until("all workers answer", || {
        // There is no answer if a worker that is killed has accepted the connection.
        let answered = server.connect().answer().ok();
        pids.extend(
            answered.map(|connection| (connection.worker, connection.pid)).filter(|(_, pid)| !except.contains(pid)),
        );
        pids.len() == count
    });
    pids.into_values().collect()
}

scenarios!(
    /// If all workers are killed, their successors serve the connections in the queues. No connection is reset.
    fn queue_outlives_its_worker() {
        for distribution in ["reuseport", "shared", "balanced"] {
            let server = Server::start(distribution, 2, "hold");
            server.wait_for_all(2);
            let workers = server.freeze_workers();
            let waiting = server.connect_many(32);
            workers.iter().for_each(|pid| kill(*pid, libc::SIGKILL));
            let served: Vec<_> = waiting.into_iter().map(Connecting::answered).collect();
            assert!(served.iter().all(|connection| !workers.contains(&connection.pid)), "{distribution}");
            if distribution == "reuseport" {
                let counts = by_worker(&served, 2);
                assert!(counts.iter().all(|count| *count > 0), "one queue had all connections: {counts:?}");
            }
            drop(served);
            // One successor may have served all connections. If the server noticed a death only after the stop, its exit
            // code would be that of the dead worker.
            server.wait_for_all(2);
            server.stop();
        }
    }

    /// Workers are retired one after the other while clients connect without a pause. Each client gets an answer.
    fn replacement_under_load() {
        const WORKERS: usize = 2;
        for distribution in ALL {
            let server = Server::start(distribution, WORKERS, "close");
            server.wait_for_all(WORKERS);
            let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|scope| {
                let clients: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            while !stop.load(Ordering::Relaxed) {
                                Connecting(try_connect_tcp(server.address())?, Instant::now()).answer()?;
                                answers.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok::<_, io::Error>(())
                        })
                    })
                    .collect();
                let wait_for_answers = || {
                    let before = answers.load(Ordering::Relaxed);
                    wait_until("clients are answered", || answers.load(Ordering::Relaxed) > before + 50);
                };
                for old in server.pids() {
                    wait_for_answers();
                    kill(old, libc::SIGTERM);
                    server.wait_for_replacement(old, WORKERS);
                }
                wait_for_answers();
                stop.store(true, Ordering::Relaxed);
                for client in clients {
                    client.join().expect("no client panics").unwrap_or_else(|error| panic!("{distribution}: {error}"));
                }
            });
            server.stop();
        }
    }

    /// Workers that a template forks serve their own queues, even after a replacement, a reload, or a change of the
    /// number of workers.
    fn queues_with_a_template() {
        if cfg!(not(target_os = "linux")) {
            return;
        }
        for distribution in ["reuseport", "reuseport-per-cpu"] {
            let server = Server::start(distribution, 2, "template");
            let first = pid_of_each(&server, 2, &[]);
            kill(first[1], libc::SIGKILL);
            let second = pid_of_each(&server, 2, &first[1..]);
            assert_eq!(second[0], first[0], "{distribution}");
            server.program.signal(libc::SIGHUP);
            let third = pid_of_each(&server, 2, &second);
            // The template of the reload in progress has no queue for a third worker. The next template has one.
            server.program.signal(libc::SIGHUP);
            server.program.signal(libc::SIGTTIN);
            pid_of_each(&server, 3, &third);
            server.stop();
        }
    }

    /// A server that is told to stop serves the connections that wait in its queues.
    fn stop_empties_the_queues() {
        for distribution in ALL {
            let server = Server::start(distribution, 2, "hold");
            server.wait_for_all(2);
            let workers = server.freeze_workers();
            let waiting = server.connect_many(32);
            server.program.signal(libc::SIGTERM);
            // The supervisor sleeps again after it has closed its listeners and told the workers to end.
            wait_until("the supervisor sleeps", || processes()[&server.program.pid()].state == 'S');
            workers.iter().for_each(|pid| kill(*pid, libc::SIGCONT));
            for connecting in waiting {
                connecting.answer().unwrap_or_else(|error| panic!("{distribution}: {error}"));
            }
            server.program.finish_well();
        }
    }

    /// A signal to the process group, such as Ctrl-C in a terminal, may reach the workers before the supervisor handles it.
    /// The workers still serve the waiting connections.
    fn stop_by_a_signal_to_all() {
        /// Half of the time that the workers wait for the supervisor.
        const GRACE: Duration = Duration::from_millis(500);
        let is_in_time = |distribution| {
            let server = Server::start(distribution, 2, "close");
            server.wait_for_all(2);
            let (supervisor, workers) = (server.program.pid(), server.pids());
            let all = || workers.iter().copied().chain([supervisor]);
            all().for_each(freeze);
            let waiting = server.connect_many(32);
            all().for_each(|pid| kill(pid, libc::SIGINT));
            let began = Instant::now();
            workers.iter().for_each(|pid| kill(*pid, libc::SIGCONT));
            wait_until("the workers sleep or have ended", || {
                let processes = processes();
                workers.iter().all(|pid| processes.get(pid).is_none_or(|process| ['S', 'Z'].contains(&process.state)))
            });
            kill(supervisor, libc::SIGCONT);
            let is_in_time = began.elapsed() < GRACE;
            for connecting in waiting {
                let answer = connecting.answer();
                assert!(answer.is_ok() || !is_in_time, "{distribution}: {:?}", answer.err());
            }
            server.program.finish_well();
            is_in_time
        };
        for distribution in ALL {
            // If the machine stalls for longer than the workers wait, the round does not count.
            assert!((0..5).any(|_| is_in_time(distribution)), "{distribution}: the machine stalls in each round");
        }
    }

    /// Workers share Unix listeners.
    fn unix_listeners() {
        for distribution in ["shared", "balanced"] {
            let server = Server::start(distribution, 2, "unix");
            let connect = || {
                let stream = UnixStream::connect(&server.address).expect("connecting");
                stream.set_read_timeout(Some(limit())).expect("a time limit");
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

    /// A Unix listener cannot have a queue for each worker.
    fn unix_listeners_have_one_queue() {
        let server = Server::start("reuseport", 2, "unix-refused");
        assert_eq!(server.address, "ready");
        server.stop();
    }

    /// A worker that pauses leaves connections to the other worker.
    fn paused_worker() {
        for distribution in ["shared", "balanced"] {
            let mut server = Server::start(distribution, 2, "pause");
            server.wait_for_all(2);
            let mut first = server.connect().answered();
            first.stream.write_all(b"p").expect("asking for a pause");
            assert_eq!(server.program.line(), "paused");
            let connections = server.burst(10);
            assert!(connections.iter().all(|connection| connection.pid != first.pid), "{distribution}");
            drop(connections);
            server.stop();
        }
    }

    /// Supervisor, template and workers keep only listeners that they need, registered as the distribution requires.
    fn open_listeners() {
        let modes = if cfg!(epoll) { &["look", "look-with-template"][..] } else { &["look"] };
        for (distribution, mode) in
            ALL.into_iter().flat_map(|distribution| modes.iter().map(move |mode| (distribution, mode)))
        {
            let server = Server::start(distribution, 3, mode);
            assert_eq!(server.address, "ready", "{distribution}, {mode}");
            server.stop();
        }
    }

    /// A connection over loopback goes to the worker on the CPU of its client.
    fn queues_per_cpu() {
        // Systems that cannot steer connections by CPU refuse the distribution.
        let Some(allowed) = allowed_cpus() else { return };
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let server = Server::start("reuseport-per-cpu", cpus, "hold");
        for (worker, cpu) in allowed.iter().enumerate() {
            let address = server.address();
            let cpu = *cpu;
            let workers = thread::spawn(move || {
                stay_on(cpu);
                let mut workers = BTreeSet::new();
                for _ in 0..20 {
                    workers.insert(Connecting(connect_tcp(address), Instant::now()).answered().worker);
                }
                workers
            });
            assert_eq!(workers.join().expect("no panic"), BTreeSet::from([worker]), "from CPU {cpu}");
        }
        server.stop();
    }
);
