//! Reloads, and the hooks of the application.

use std::net::TcpStream;

use forkio_tests::{scenarios, wait_until};

use crate::server::Server;

scenarios!(
    /// `before_worker` runs in each worker, and `on_reload` in the supervisor.
    fn hooks() {
        let server = Server::start(&["before", "hooks"]);
        for worker in server.children() {
            server.until_logged(&format!("hook: process {worker}"));
        }
        server.signal(libc::SIGHUP);
        server.until_logged(&format!("hook: a reload in process {}", server.supervisor()));
        server.until_logged("reloaded");
        let of_supervisor = format!("hook: process {}", server.supervisor());
        assert!(!server.log().lines().any(|line| line == of_supervisor), "the supervisor is not a worker");
        server.stop();
    }

    /// A worker whose `before_worker` fails does not start.
    fn hook_that_fails() {
        let (code, log) = Server::begin("", &["before", "crash-limit", "failing-hook"]).end();
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("cannot run the hook of `before_worker`: on purpose"), "{log}");
    }

    /// If old workers make room for new ones, a reload begins with that. It does not wait for another event.
    fn in_steps() {
        let server = Server::start(&["before", "in-steps"]);
        server.signal(libc::SIGHUP);
        server.until_logged("reloaded");
        server.stop();
    }

    /// With `max_draining`, a reload waits until an older generation has drained.
    fn draining_generations_are_capped() {
        let server = Server::start(&["before", "one-draining", "shutdown-timeout=1000"]);
        // Silent connections keep the old workers draining until the shutdown timeout.
        let _held: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
        wait_until("the connections have been accepted", || server.ask("phase").as_deref() == Some("Serving"));
        server.signal(libc::SIGHUP);
        server.until_logged("reloaded");
        server.signal(libc::SIGHUP);
        server.until_logged("reloading generation=3");
        let log = server.log();
        // The workers of the second generation may have ended as well by now.
        let ended = |line: &&str| line.contains("told to end has ended") && line.contains("generation=1 ");
        let until_reload = log.lines().take_while(|line| !line.contains("reloading generation=3"));
        assert_eq!(until_reload.filter(ended).count(), 2, "the first generation has ended: {log}");
        server.signal(libc::SIGTERM);
        server.end();
    }
);
