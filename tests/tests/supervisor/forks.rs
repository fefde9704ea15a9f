//! Forks that fail.

use forkio_tests::{is_root, kill, scenarios, wait_until};

use crate::server::Server;

scenarios!(
    /// A `before_fork` hook fails or panics at each fork: the running generation continues to serve during a reload and
    /// after the death of a worker.
    fn refused_by_a_hook() {
        for word in ["fork-fails", "fork-panics"] {
            let server = Server::start(&["before"]);
            let before = server.children();
            server.control(word);
            server.signal_until(libc::SIGHUP, "the old generation continues to serve");
            assert!(before.contains(&server.pid()), "{word}");
            kill(before[0], libc::SIGKILL);
            server.until_logged("worker ended: replacing it");
            assert_eq!(server.pid(), before[1], "{word}");
            server.control("");
            wait_until("two workers run again", || server.children().len() == 2);
            server.stop();
        }
    }

    /// The kernel refuses each fork with EAGAIN: the running generation continues to serve.
    fn refused_by_the_kernel() {
        if !is_root() {
            return eprintln!("not run: only root can become another user");
        }
        for how in ["before", "template"] {
            let server = Server::start(&[how, "as-nobody"]);
            let before = server.children();
            server.control("no-processes");
            server.signal_until(libc::SIGHUP, "the old generation continues to serve");
            assert!(server.log().contains("Resource temporarily unavailable"), "{}", server.log());
            assert!(before.contains(&server.pid()), "{how}");
            server.control("");
            server.signal(libc::SIGHUP);
            wait_until("a reload works again", || !before.contains(&server.pid()));
            server.stop();
        }
    }

    /// The kernel refuses a template's forks with EAGAIN: the other worker continues to serve, and a later fork replaces the
    /// worker that died.
    fn refused_in_a_template() {
        if !is_root() {
            return eprintln!("not run: only root can become another user");
        }
        let server = Server::start(&["template", "as-nobody"]);
        let template = server.template();
        let workers = server.children_except(template);
        server.control("no-processes-of-template");
        kill(workers[0], libc::SIGKILL);
        server.until_logged("cannot fork yet: trying again");
        assert!(server.log().contains("Resource temporarily unavailable"), "{}", server.log());
        assert_eq!(server.pid(), workers[1]);
        server.control("");
        wait_until("two workers run again", || server.children().len() == 3);
        server.stop();
    }

    /// A template forks each worker through a process in between. If that process dies once it has forked the worker,
    /// no other process knows of the worker. The supervisor kills such workers.
    #[cfg(epoll)]
    fn process_in_between_dies() {
        let server = Server::start(&["template"]);
        let before = server.children();
        server.control("between-dies");
        server.signal_until(libc::SIGHUP, "the old generation continues to serve");
        wait_until("only the old generation runs", || server.children() == before);
        server.stop();
    }

    /// A server without privileges may name the user that it runs as.
    fn user_without_privileges() {
        let options: &[_] = if is_root() { &["before", "as-nobody", "own-user"] } else { &["before", "own-user"] };
        let server = Server::start(options);
        server.pid();
        server.stop();
    }

    /// The kernel refuses the first fork: the server ends with the error.
    fn refused_at_the_start() {
        if !is_root() {
            return eprintln!("not run: only root can become another user");
        }
        let log = Server::begin("no-processes", &["before", "as-nobody"]).ends_with(1);
        assert!(log.contains("Resource temporarily unavailable"), "{log}");
    }
);
