//! The effects of the signals that `runtime-glue/docs/operating.md` lists. `stop.rs` tests SIGTERM and SIGINT to the supervisor,
//! and `upgrade.rs` SIGUSR2.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use forkio_tests::http::Client;
use forkio_tests::{freeze, limit, scenarios, temporary_path, until, wait_until};
use rustix::process::Signal;

use crate::server::{Server, program, signal};
use crate::status::AskStatus;

#[track_caller]
fn workers_of(server: &Server, count: usize) -> BTreeSet<i32> {
    until(&format!("the server has {count} workers"), || {
        let workers: BTreeSet<i32> = server.workers().into_iter().collect();
        (workers.len() == count).then_some(workers)
    })
}

/// Waits until all workers in `before` have ended, and as many new ones run. Returns the new ones.
#[track_caller]
fn until_replaced(server: &Server, before: &BTreeSet<i32>) -> BTreeSet<i32> {
    until("all workers have been replaced", || {
        let workers: BTreeSet<i32> = server.workers().into_iter().collect();
        (workers.len() == before.len() && workers.is_disjoint(before)).then_some(workers)
    })
}

/// Connects clients that send a request each. If the workers are frozen, or have `--max-connections 1`, most clients
/// wait in the queues.
pub(crate) fn queue_requests(server: &Server) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.request("/table/77").expect("sending");
    }
    clients
}

/// Reads the answer to each request. Then closes the connection, so that the worker accepts another one.
#[track_caller]
pub(crate) fn expect_answers(clients: Vec<Client>) {
    for mut client in clients {
        assert_eq!(client.response().expect("an answer").text(), "7");
    }
}

scenarios!(
    /// SIGHUP replaces all workers. The old ones still serve for the grace period.
    fn hup_starts_a_new_generation_before_the_old_one_retires() {
        const GRACE: Duration = Duration::from_secs(1);
        const REQUEST_TIME: Duration = Duration::from_secs(3);
        let server = Server::start(&["--workers", "2", "--idle-grace", "1"]);
        let before = workers_of(&server, 2);
        let mut idle = server.connect_to_each(2);
        let asked = Instant::now();
        let (mut in_flight, pid) = server.busy(3000);
        // The connection to the worker with the request comes first.
        idle.sort_by_key(|(_, status)| status.pid != pid);
        let mut last = Instant::now();
        server.signal(Signal::HUP);
        // The old workers still serve idle connections for the grace period. A response tells the client to close.
        let has_learned = until("an old worker ends a connection with its next response", || {
            let sent = Instant::now();
            match idle[0].0.get("/") {
                Ok(answer) => {
                    last = sent;
                    assert_eq!(answer.status, 200);
                    (answer.header("connection") == Some("close")).then_some(true)
                }
                // The test has left the connection idle for longer than the grace period.
                Err(_) if last.elapsed() >= GRACE => Some(false),
                Err(error) => panic!("{error}: closed before the grace period was over"),
            }
        });
        let is_due = asked.elapsed() >= REQUEST_TIME;
        idle[1].0.expect_end();
        let answer = in_flight.response().expect("the answer to the request in flight");
        assert_eq!(answer.status, 200);
        assert!(answer.header("connection") == Some("close") || is_due || !has_learned);
        let after = until_replaced(&server, &before);
        assert_eq!(server.connect_to_each(2).iter().map(|(_, status)| status.pid).collect::<BTreeSet<_>>(), after);
        server.stop();
    }

    /// A second SIGHUP during a reload is not lost: another reload follows.
    fn hup_during_a_reload_is_queued() {
        // Loading takes some time, so the second signal arrives during the reload.
        let server =
            Server::start(&["--workers", "2", "--idle-grace", "0", "--load-in-template", "--preload-mib", "16"]);
        server.signal_until(Signal::HUP, "reloading");
        server.signal_until(Signal::HUP, "the next reload begins after");
        // Wait for each reload separately: each wait has a time limit, and loading may take long.
        for reloads in 1..=2 {
            server.until_logged_times("reloaded: the old generation retires", reloads);
        }
        server.until_logged("generation=3");
        // Two workers and the template.
        workers_of(&server, 3);
        server.stop();
    }

    /// With `--max-extra` and `--max-missing`, a reload replaces workers in steps.
    fn reload_one_by_one() {
        for (extra, missing) in [("1", "0"), ("0", "1")] {
            let options = ["--workers", "3", "--idle-grace", "0", "--max-extra", extra, "--max-missing", missing];
            let server = Server::start(&options);
            let before = workers_of(&server, 3);
            server.signal(Signal::HUP);
            until_replaced(&server, &before);
            server.until_logged("reloaded");
            // `active` counts the workers that have started, and have not been told to end. Other workers may still be
            // draining.
            let (mut active, mut most) = (0, 0);
            for line in server.stderr().lines() {
                active += usize::from(line.contains("worker started"));
                active -= usize::from(line.contains("retiring a worker"));
                most = most.max(active);
            }
            let extra: usize = extra.parse().expect("a number");
            assert_eq!((active, most), (3, 3 + extra), "with {extra} extra workers");
            server.stop();
        }
    }

    /// SIGTTIN adds a worker, and SIGTTOU removes one.
    fn ttin_and_ttou_change_the_number_of_workers() {
        for distribution in ["shared", "reuseport", "balanced"] {
            let server = Server::start(&["--workers", "1", "--distribution", distribution, "--idle-grace", "0"]);
            server.signal(Signal::TTIN);
            workers_of(&server, 2);
            drop(server.connect_to_each(2));
            server.signal(Signal::TTOU);
            workers_of(&server, 1);
            for _ in 0..50 {
                server.check_serving();
            }
            // The last worker is never removed.
            server.signal_until(Signal::TTOU, "at least one worker");
            server.check_serving();
            server.stop();
        }
    }

    /// If each worker has a queue, a worker serves the connections in its queue before it is removed.
    fn scaling_down_empties_the_queue() {
        let server = Server::start(&["--workers", "2", "--distribution", "reuseport", "--max-connections", "1"]);
        let clients = queue_requests(&server);
        server.signal_until(Signal::TTOU, "retiring a worker");
        expect_answers(clients);
        workers_of(&server, 1);
        for _ in 0..40 {
            server.check_serving();
        }
        server.stop();
    }

    /// SIGWINCH retires all workers, and SIGHUP or SIGTTIN starts workers again. Connections that arrive meanwhile wait in
    /// the queue.
    fn winch_retires_all_workers_until_another_signal() {
        for (kind, workers, generation) in [(Signal::HUP, 2, 2), (Signal::TTIN, 3, 1)] {
            let server = Server::start(&["--workers", "2", "--idle-grace", "0"]);
            server.signal(Signal::WINCH);
            workers_of(&server, 0);
            let mut waiting = server.connect();
            waiting.request("/table/77").expect("sending");
            server.signal(kind);
            workers_of(&server, workers);
            assert_eq!(waiting.response().expect("an answer").text(), "7");
            let log = server.stderr();
            let started: Vec<&str> = log.lines().filter(|line| line.contains("worker started")).skip(2).collect();
            assert!(started.iter().all(|line| line.ends_with(&format!("generation={generation}"))), "{started:?}");
            server.stop();
        }
    }

    /// SIGQUIT kills the workers.
    fn quit_stops_at_once() {
        let server = Server::start(&["--workers", "2", "--shutdown-timeout", "3600"]);
        let (mut in_flight, _) = server.busy(60_000);
        let start = Instant::now();
        server.signal(Signal::QUIT);
        in_flight.expect_end();
        server.ends_with(128 + Signal::KILL.as_raw());
        assert!(start.elapsed() < limit() / 2);
    }

    /// After SIGUSR1, supervisor and workers write to a new log file.
    fn usr1_opens_the_log_file_again() {
        let [log, old] = ["log", "log.1"].map(temporary_path);
        let server = Server::start(&["--workers", "2", "--log-file", log.to_str().expect("UTF-8")]);
        fs::rename(&log, &old).expect("rotating");
        server.signal(Signal::USR1);
        wait_until("the file exists again", || log.exists());
        signal(server.workers()[0], Signal::TERM);
        wait_until("the worker and the supervisor write to the new file", || {
            let text = fs::read_to_string(&log).expect("the log");
            ["draining phase=", "starting its successor"].iter().all(|line| text.contains(line))
        });
        server.stop();
    }

    /// After SIGUSR1, no process has the old file open, not even the template and the service worker.
    fn usr1_reaches_all_processes() {
        let [log, old] = ["log", "log.1"].map(temporary_path);
        let options = ["--workers", "2", "--load-in-template", "--status", "127.0.0.1:0", "--log-file"];
        let server = Server::start(&[&options[..], &[log.to_str().expect("UTF-8")]].concat());
        workers_of(&server, 4);
        fs::rename(&log, &old).expect("rotating");
        server.signal(Signal::USR1);
        let has_open = |pid: i32, path: &Path| {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
            descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == path))
        };
        wait_until("all processes use the new file", || {
            let mut pids = server.workers().into_iter().chain([server.pid()]);
            pids.all(|pid| has_open(pid, &log) && !has_open(pid, &old))
        });
        server.stop();
    }

    /// If a worker is told to end, connections in the shared queue are not lost.
    fn term_to_a_worker_loses_no_queued_connection() {
        let server = Server::start(&["--workers", "2", "--idle-grace", "0"]);
        let workers = server.workers();
        workers.iter().for_each(|pid| freeze(*pid));
        let clients = queue_requests(&server);
        signal(workers[0], Signal::TERM);
        signal(workers[0], Signal::CONT);
        // The other worker is still frozen, so the first worker or its successor serves all clients.
        expect_answers(clients);
        wait_until("the first worker has ended", || !server.workers().contains(&workers[0]));
        signal(workers[1], Signal::CONT);
        server.stop();
    }

    /// The successor of a worker with a request in flight starts before that worker has ended.
    fn successor_starts_while_the_worker_drains() {
        let server = Server::start(&["--workers", "1"]);
        let (in_flight, pid) = server.busy(600_000);
        signal(pid, Signal::TERM);
        server.until_logged_times("worker is ready", 2);
        let successor = server.connect().status();
        assert_ne!(successor.pid, pid);
        assert_eq!((successor.worker, successor.requests), (0, 1), "the successor counts only its own requests");
        assert!(server.workers().contains(&pid), "the worker still drains");
        drop(in_flight);
        server.stop();
    }

    /// A program may start the server with blocked signals. The signals must reach the server and its workers nevertheless.
    fn blocked_signals() {
        let mut command = Command::new("env");
        command.args(["--block-signal=TERM,HUP"]).arg(program()).args(["--listen", "127.0.0.1:0", "--workers", "2"]);
        let server = Server::start_as(&mut command, 1);
        let before = workers_of(&server, 2);
        server.signal(Signal::HUP);
        let workers = until_replaced(&server, &before);
        let pid = *workers.first().expect("a worker");
        signal(pid, Signal::TERM);
        wait_until("the worker has been replaced", || !server.workers().contains(&pid));
        server.stop();
    }
);
