//! Limits of workers, heartbeats, and the lame-duck period.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use forkio_tests::http::Client;
use forkio_tests::{limit, scenarios, wait_until};
use rustix::process::Signal;

use crate::server::{Server, signal};
use crate::status::AskStatus;

scenarios!(
    /// A worker is replaced after `--max-requests`.
    fn max_requests() {
        let server = Server::start(&["--workers", "2", "--max-requests", "20", "--jitter", "0.5", "--idle-grace", "0"]);
        let mut pids = [const { BTreeSet::new() }; 2];
        let mut most = 0;
        let mut requests = 0;
        // A worker may serve any number of additional requests: it continues until its successor has started.
        wait_until("both workers have been replaced", || {
            let status = server.connect().status();
            pids[status.worker as usize].insert(status.pid);
            most = most.max(status.requests);
            requests += 1;
            pids.iter().all(|pids| pids.len() > 1)
        });
        assert!(most >= 20 && requests >= 40, "{most} requests to one worker, {requests} to all: {pids:?}");
        server.until_logged("reason=max_requests");
        server.stop();
    }

    /// A worker is replaced after `--max-age`.
    fn max_age() {
        let server = Server::start(&["--workers", "1", "--max-age", "0.3", "--idle-grace", "0"]);
        let pid = server.workers()[0];
        server.until_replaced(pid, 1);
        server.until_logged("reason=max_age");
        server.stop();
    }

    /// A worker that uses too much memory is replaced.
    fn max_memory() {
        // Each worker uses more than 1 MiB.
        for (option, reason) in [("--max-rss-mib", "max_rss"), ("--max-pss-mib", "max_pss")] {
            let server = Server::start(&["--workers", "1", option, "1", "--preload-mib", "8", "--idle-grace", "0"]);
            let pid = server.workers()[0];
            server.until_replaced(pid, 1);
            server.until_logged(&format!("reason={reason}"));
            server.stop();
        }
    }

    /// A worker at its limit accepts no more connections. The other worker accepts them. If both are at their limit,
    /// connections wait.
    fn max_connections() {
        for distribution in ["shared", "balanced"] {
            let options = ["--workers", "2", "--max-connections", "3", "--distribution", distribution];
            let server = Server::start(&[&options[..], &["--header-timeout", "600"]].concat());
            let mut clients: Vec<Client> = (0..6).map(|_| server.connect()).collect();
            let mut served = [0; 2];
            for client in &mut clients {
                served[client.status().worker as usize] += 1;
            }
            assert_eq!(served, [3, 3], "{distribution}");
            let mut waiting = server.connect();
            waiting.request("/table/77").expect("sending");
            assert!(waiting.is_quiet(), "a seventh connection was accepted");
            drop(clients.pop());
            assert_eq!(waiting.response().expect("an answer").text(), "7", "{distribution}");
            server.stop();
        }
    }

    /// A worker whose runtime is stuck is killed and replaced.
    fn heartbeat() {
        let server = Server::start(&["--workers", "1", "--heartbeat-timeout", "3"]);
        let pid = server.workers()[0];
        let start = Instant::now();
        // The runtime of a frozen process is stuck, too.
        signal(pid, Signal::STOP);
        server.until_replaced(pid, 1);
        // The last heartbeat came before the signal, so part of the timeout has passed already.
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
        server.until_logged("runtime is stuck");
        server.check_serving();
        server.stop();
    }

    /// Without a heartbeat timeout, a worker that is stuck is not replaced.
    fn no_heartbeat() {
        let server = Server::start(&["--workers", "1", "--heartbeat-timeout", "0"]);
        let pid = server.workers()[0];
        signal(pid, Signal::STOP);
        std::thread::sleep(Duration::from_millis(500));
        signal(pid, Signal::CONT);
        assert_eq!(server.connect().status().pid, pid);
        server.stop();
    }

    /// In the lame-duck period after SIGTERM, the server still accepts connections, and its readiness probe fails.
    fn lame_duck() {
        let server = Server::start(&["--workers", "1", "--lame-duck", "3600"]);
        assert_eq!(server.connect().get("/readyz").expect("an answer").status, 200);
        server.signal(Signal::TERM);
        wait_until("the readiness probe fails", || {
            // Each attempt is a new connection, which the worker accepts.
            server.connect().get("/readyz").expect("an answer").status == 503
        });
    }

    /// No worker drains before the end of the lame-duck period, even if the workers get the signal to stop, too.
    fn lame_duck_ends() {
        let mut server = Server::start(&["--workers", "1", "--lame-duck", "2"]);
        let start = Instant::now();
        server.signal_until(Signal::INT, "still accepting");
        server.workers().into_iter().for_each(|worker| signal(worker, Signal::INT));
        assert_eq!(server.wait().code(), Some(0));
        assert!(start.elapsed() >= Duration::from_millis(1950), "{:?}", start.elapsed());
        assert!(!server.stderr().contains("phase=Retiring"), "{}", server.stderr());
        assert!(server.stderr().contains("draining the workers signal=\"SIGINT\""), "{}", server.stderr());
    }

    /// A second SIGTERM ends the lame-duck period.
    fn second_signal_ends_the_lame_duck() {
        let server = Server::start(&["--workers", "1", "--lame-duck", "3600"]);
        server.signal_until(Signal::TERM, "still accepting");
        // The lame-duck period has begun once the server handles another signal.
        server.signal_until(Signal::USR1, "command=ReopenLogs");
        let start = Instant::now();
        // A signal within 100 ms of the first one counts as the same request. Sleep instead of repeating the signal: a third
        // one would kill the worker.
        std::thread::sleep(Duration::from_millis(200));
        server.signal_until(Signal::TERM, "stopping: draining");
        server.ends_with(0);
        assert!(start.elapsed() < limit() / 2);
    }
);
