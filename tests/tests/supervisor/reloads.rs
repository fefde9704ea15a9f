//! Reloads, and the hooks of the application.

use std::net::TcpStream;
#[cfg(target_os = "linux")]
use std::thread;
#[cfg(target_os = "linux")]
use std::time::Duration;

#[cfg(target_os = "linux")]
use forkio_tests::{Program, processes, temporary_path};
use forkio_tests::{kill, scenarios, wait_until};

use crate::server::{Server, number_after};
#[cfg(target_os = "linux")]
use crate::server::{fixture, try_ask};

/// The running workers of a generation.
fn workers(server: &Server, generation: u32) -> Vec<i32> {
    let (children, generation) = (server.children(), format!(" generation={generation}"));
    let log = server.log();
    let started = log.lines().filter(|line| line.contains("worker started") && line.ends_with(&generation));
    started.map(|line| number_after(line, "pid=")).filter(|pid| children.contains(pid)).collect()
}

/// Kills the workers of a generation, and waits for their end.
#[track_caller]
fn kill_all(server: &Server, generation: u32) {
    let killed = workers(server, generation);
    for worker in &killed {
        kill(*worker, libc::SIGKILL);
    }
    wait_until("the workers have ended", || !server.children().iter().any(|pid| killed.contains(pid)));
}

scenarios!(
    /// `before_worker` runs in each worker, and `on_reload` in the supervisor.
    fn hooks() {
        let server = Server::start(&["before", "hooks"]);
        for worker in server.children() {
            server.until_logged(&format!("hook: process {worker}"));
        }
        server.signal_until(libc::SIGHUP, &format!("hook: a reload in process {}", server.supervisor()));
        server.until_logged("reloaded");
        let of_supervisor = format!("hook: process {}", server.supervisor());
        assert!(!server.log().lines().any(|line| line == of_supervisor), "the supervisor has run the hook of workers");
        server.stop();
    }

    /// A hook that panics ends neither the supervisor nor a worker: both still follow signals. If `on_reload` panics, the reload
    /// fails.
    fn hooks_that_panic() {
        let server = Server::start(&["before", "panicking-hooks"]);
        let before = server.children();
        server.signal(libc::SIGUSR1);
        server.until_logged_times("`on_reopen_logs` panicked", 3);
        kill(before[0], libc::SIGTERM);
        server.until_logged("worker drains: starting its successor");
        server.signal_until(libc::SIGHUP, "the reload failed: the old generation continues to serve");
        assert!(server.children().contains(&before[1]), "{}", server.log());
        server.stop();
    }

    /// SIGUSR1 reaches the template, too, because the next workers inherit its log files. SIGUSR1 also works while the
    /// server stops.
    fn logs_are_opened_again() {
        let server = Server::start(&["template", "panicking-hooks"]);
        server.signal(libc::SIGUSR1);
        server.until_logged_times("`on_reopen_logs` panicked", 4);
        // A connection that sends nothing keeps its worker draining.
        let _held = server.connect();
        server.signal_until(libc::SIGTERM, "stopping: draining the workers");
        server.signal(libc::SIGUSR1);
        server.until_logged_times("`on_reopen_logs` panicked", 6);
        server.signal(libc::SIGQUIT);
        server.ends_with(137);
    }

    /// If the hook of a worker fails or its CPU is missing, the server does not start.
    fn workers_that_cannot_be_set_up() {
        for (option, message) in [
            ("failing-hook", "cannot run the hook of `before_worker`: on purpose"),
            ("missing-cpu", "cannot stay on CPU 100000"),
        ] {
            let log = Server::begin("", &["before", "no-crash-limit", option]).ends_with(1);
            assert!(log.contains(message) && log.matches("worker started").count() <= 2, "{log}");
        }
    }

    /// A reload that is requested before the server is ready begins once the server is ready, without another event.
    fn before_the_server_is_ready() {
        let server = Server::begin("never-ready", &["before"]);
        server.until_logged_times("never ready, on purpose", 2);
        server.signal_until(libc::SIGHUP, "received a signal");
        server.control("");
        server.kill_children(&server.children());
        server.until_logged("reloaded");
        server.stop();
    }

    /// A reload that begins while a worker is being replaced has room for all new workers: the replacement retires.
    fn while_a_worker_is_replaced() {
        for how in ["before", "template"] {
            let server = Server::start(&[how, "one-worker"]);
            let before = server.pid();
            server.control("never-ready");
            server.ask("retire");
            server.until_logged("never ready, on purpose");
            server.control("");
            server.signal_until(libc::SIGHUP, "reloaded: the old generation retires");
            wait_until("the new worker serves", || server.pid() != before);
            server.stop();
        }
    }

    /// A new program that has not taken over yet refuses an upgrade. Otherwise the old program would serve beside a third one.
    fn upgrade_during_an_upgrade() {
        let server = Server::start(&["before"]);
        server.control("never-ready");
        server.signal(libc::SIGUSR2);
        server.until_logged_times("never ready, on purpose", 2);
        let log = server.log();
        let started = log.lines().find(|line| line.contains("started the program again")).expect("an upgrade");
        let new = number_after(started, "pid=");
        server.control("");
        kill(new, libc::SIGUSR2);
        server.until_logged("this program has not taken over yet");
        kill(new, libc::SIGTERM);
        server.until_logged("this one continues");
        server.stop();
    }

    /// A new program ends if it cannot report to the old program that it is ready. The old program continues to serve.
    #[cfg(target_os = "linux")]
    fn unannounced_upgrade() {
        let server = Server::start(&["before"]);
        let before = server.children();
        server.control("not-announced");
        server.signal_until(libc::SIGUSR2, "this one continues");
        wait_until("only the old workers run", || server.children() == before);
        assert!(before.contains(&server.pid()));
        server.stop();
    }

    /// At the end of an upgrade, an old worker closes its own queue. The kernel resets no connection that comes just before
    /// the close.
    #[cfg(target_os = "linux")]
    fn connections_come_while_a_queue_is_closed() {
        let path = temporary_path("control");
        std::fs::write(&path, "").expect("writing the control file");
        let mut program = Program::spawn(fixture().arg(&path).args(["before", "own-queues", "slow-close"]));
        let address = program.line();
        program.signal(libc::SIGUSR2);
        assert_eq!(program.line(), address, "the new program serves at another address");
        let mut worker = 0;
        wait_until("the old program has ended", || {
            for _ in 0..20 {
                // A worker closes its queue only once no connection has come for ten milliseconds.
                thread::sleep(Duration::from_millis(5));
                worker = try_ask(&address, "pid").expect("an answer").parse().expect("a process id");
            }
            program.has_ended()
        });
        kill(processes()[&worker].parent, libc::SIGTERM);
        program.finish_well();
    }

    /// If the number of workers is reduced during a reload, an old worker and a new one empty the same queue. The first worker
    /// that finds the queue empty shuts the listener down. The other one ends too, long before its shutdown timeout.
    fn two_workers_empty_a_queue() {
        let server = Server::start(&["before", "own-queues"]);
        server.control("says-nothing");
        server.signal(libc::SIGHUP);
        server.until_logged_times("worker started", 4);
        server.signal(libc::SIGTTOU);
        wait_until("the workers of the second index have ended", || server.children().len() == 2);
        server.stop();
    }

    /// A reload succeeds even if old workers must end before new ones start.
    fn in_steps() {
        let server = Server::start(&["before", "in-steps"]);
        server.signal_until(libc::SIGHUP, "reloaded");
        assert_eq!(workers(&server, 2).len(), 2);
        server.stop();
    }

    /// If old workers die during a long load step of a reload, their own template forks replacements.
    fn old_workers_die_during_the_load() {
        // In steps, the first worker of the old generation has made room for the first one of the new generation.
        for (options, old) in [(&["template"][..], 2), (&["template", "in-steps"], 1)] {
            let server = Server::start(options);
            let data = server.ask("data");
            server.control("load-hangs");
            server.signal(libc::SIGHUP);
            server.until_logged_times("loading the application", 2);
            wait_until("only the serving workers of the old generation run", || workers(&server, 1).len() == old);
            // Replacements are replaced, too.
            for round in 1..=2 {
                kill_all(&server, 1);
                server.until_logged_times("worker is ready", 2 + round * old);
                assert_eq!(server.ask("data"), data, "another template has forked the workers");
                assert_eq!(workers(&server, 1).len(), old);
            }
            assert!(workers(&server, 2).is_empty(), "the new generation has workers before it has loaded");
            server.stop();
        }
    }

    /// Old workers that die while the new ones boot are replaced. The reload then retires the replacements.
    fn old_workers_die_while_the_new_ones_boot() {
        for (how, steps) in
            [("before", None), ("template", None), ("before", Some("in-steps")), ("template", Some("in-steps"))]
        {
            let options: Vec<&str> = [how].into_iter().chain(steps).collect();
            let server = Server::start(&options);
            server.control("never-ready");
            server.signal(libc::SIGHUP);
            // In steps, the first old worker has made room.
            let (new, old) = if steps.is_some() { (1, 1) } else { (2, 2) };
            server.until_logged_times("never ready, on purpose", new);
            wait_until("the new workers boot", || workers(&server, 2).len() == new && workers(&server, 1).len() == old);
            server.control("");
            let booting = workers(&server, 2);
            kill_all(&server, 1);
            server.until_logged_times("worker is ready", 2 + old);
            assert_eq!(workers(&server, 1).len(), old, "{options:?}");
            assert_eq!(workers(&server, 2), booting, "{options:?}");
            assert!(workers(&server, 1).contains(&server.pid()), "{options:?}");
            // The new generation tries again, and takes over.
            for worker in booting {
                kill(worker, libc::SIGKILL);
            }
            server.until_logged("reloaded");
            wait_until("the old generation is gone", || workers(&server, 1).is_empty());
            assert_eq!(workers(&server, 2).len(), 2, "{options:?}");
            server.stop();
        }
    }

    /// The new generation takes over even if old workers cannot be replaced.
    fn old_workers_cannot_be_replaced() {
        for options in [&["template"][..], &["template", "in-steps"]] {
            let server = Server::start(options);
            let template = server.template();
            server.control("load-hangs");
            kill(template, libc::SIGKILL);
            server.until_logged_times("loading the application", 2);
            kill_all(&server, 1);
            server.control("");
            server.signal_until(libc::SIGHUP, "reloaded");
            assert_eq!(workers(&server, 2).len(), 2);
            server.stop();
        }
    }

    /// With `max_draining`, a reload waits until an older generation has drained.
    fn draining_generations_are_capped() {
        let server = Server::start(&["before", "one-draining", "shutdown-timeout=1000"]);
        // Silent connections keep the old workers draining until the shutdown timeout.
        let _held: Vec<TcpStream> = (0..8).map(|_| server.connect()).collect();
        wait_until("the connections have been accepted", || server.ask("phase").as_deref() == Some("Serving"));
        server.signal_until(libc::SIGHUP, "reloaded");
        server.signal_until(libc::SIGHUP, "reloading generation=3");
        let log = server.log();
        // The workers of the second generation may have ended as well by now.
        let ended = |line: &&str| line.contains("told to end has ended") && line.contains("generation=1 ");
        let until_reload = log.lines().take_while(|line| !line.contains("reloading generation=3"));
        assert_eq!(until_reload.filter(ended).count(), 2, "workers of the first generation have not ended: {log}");
        server.signal(libc::SIGTERM);
        server.end();
    }
);
