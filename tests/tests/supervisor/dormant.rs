//! Dormant servers: SIGWINCH ends all workers, and the server continues without any.

use forkio_tests::{scenarios, wait_until};

use crate::server::Server;

/// Sends SIGWINCH to the supervisor, and waits until all workers have ended. `template` is the number of children that stay: 1
/// if the server has a template, otherwise 0.
#[track_caller]
fn retire_all(server: &Server, template: usize) {
    server.signal(libc::SIGWINCH);
    wait_until("all workers have ended", || server.children().len() == template);
}

scenarios!(
    /// SIGWINCH also ends a reload that waits for the one in progress: the server stays dormant.
    fn ends_a_queued_reload() {
        let server = Server::start(&["template"]);
        server.control("load-hangs");
        server.signal_until(libc::SIGHUP, "reloading generation=2");
        server.signal_until(libc::SIGHUP, "the next reload begins after");
        retire_all(&server, 1);
        server.control("");
        // Before the supervisor handles the next signal, it would begin the waiting reload.
        server.signal_until(libc::SIGUSR1, "signal=\"SIGUSR1\"");
        assert!(!server.log().contains("reloading generation=3"), "{}", server.log());
        server.signal_until(libc::SIGHUP, "reloaded: the old generation retires generation=3");
        server.stop();
    }

    /// If SIGWINCH ends a reload, the log does not claim that the old generation continues to serve.
    fn ends_a_reload() {
        let server = Server::start(&["before"]);
        server.control("never-ready");
        server.signal(libc::SIGHUP);
        server.until_logged_times("never ready, on purpose", 2);
        retire_all(&server, 0);
        server.until_logged("the reload failed: the server has no workers");
        assert!(!server.log().contains("continues to serve"), "{}", server.log());
        server.control("");
        server.signal_until(libc::SIGHUP, "reloaded: the old generation retires generation=3");
        server.stop();
    }

    /// If the reload of a dormant server fails, the server is dormant again. A change of the number of workers wakes it, even
    /// during a reload.
    fn a_reload_fails() {
        for (how, failure, template) in [("before", "boot-exits", 0), ("template", "load-fails", 1)] {
            let server = Server::start(&[how]);
            retire_all(&server, template);
            server.control(failure);
            server.signal_until(libc::SIGHUP, "the reload failed: the server has no workers");
            server.control("");
            server.signal_until(libc::SIGUSR1, "signal=\"SIGUSR1\"");
            let of_old = |line: &&str| line.contains("worker started") && line.ends_with(" generation=1");
            assert_eq!(server.log().lines().filter(of_old).count(), 2, "{}", server.log());
            let before = server.children();
            server.control(if template == 0 { "never-ready" } else { "load-hangs" });
            server.signal_until(libc::SIGHUP, "reloading generation=3");
            server.signal_until(libc::SIGTTIN, "changing the number of workers");
            // Wait until the processes of the reload have read the control file.
            let has_read = if template == 0 { "never ready, on purpose" } else { "loading the application" };
            server.until_logged_times(has_read, 3);
            server.control(failure);
            let of_reload = server.children().into_iter().filter(|pid| !before.contains(pid));
            server.kill_children(&of_reload.collect::<Vec<_>>());
            server.until_logged_times("the reload failed", 2);
            server.control("");
            // Workers that have read the file before this change end, and the supervisor replaces them.
            let is_ready = |line: &&str| line.contains("worker is ready") && line.contains(" generation=1 ");
            wait_until("the old generation has workers", || server.log().lines().filter(is_ready).count() == 5);
            server.stop();
        }
    }

    /// If each worker has a queue, a dormant server refuses an upgrade, which would lose the connections in the queues.
    fn upgrade_with_own_queues() {
        let server = Server::start(&["before", "own-queues"]);
        retire_all(&server, 0);
        server.signal_until(libc::SIGUSR2, "the server has no workers to empty its queues");
        server.control("never-ready");
        server.signal_until(libc::SIGHUP, "reloading generation=2");
        server.signal(libc::SIGUSR2);
        server.until_logged_times("the server has no workers to empty its queues", 2);
        server.stop();
    }

    /// If each worker has a queue, a server refuses SIGWINCH during an upgrade: when the upgrade ends, the workers must
    /// empty the queues.
    fn own_queues_during_an_upgrade() {
        let server = Server::start(&["before", "own-queues"]);
        let before = server.children();
        server.control("never-ready");
        server.signal_until(libc::SIGUSR2, "started the program again");
        server.signal_until(libc::SIGWINCH, "an upgrade is in progress: at its end, the workers");
        assert!(before.iter().all(|worker| server.children().contains(worker)), "{}", server.log());
        server.stop();
    }

    /// A server that has not been ready yet refuses SIGWINCH. Otherwise SIGHUP could not start the workers again: a reload waits
    /// until the server is ready.
    fn before_the_server_is_ready() {
        let server = Server::begin("never-ready", &["before"]);
        server.until_logged_times("never ready, on purpose", 2);
        server.signal_until(libc::SIGWINCH, "the server has not been ready yet");
        server.control("");
        server.kill_children(&server.children());
        server.until_logged_times("worker is ready", 2);
        server.stop();
    }
);
