//! Templates: processes that load the application and fork the workers.

#[cfg(target_os = "linux")]
use std::collections::HashSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

#[cfg(target_os = "linux")]
use forkio_tests::processes;
use forkio_tests::{check_eq, kill, scenarios, wait_until};

use crate::server::{Server, number_after};

/// The process id of the template that has loaded last.
#[track_caller]
fn newest_template(server: &Server) -> i32 {
    // The scenario may read the announcement on standard output before it reads the log.
    server.until_logged("template has loaded");
    let log = server.log();
    let loaded = log.lines().rfind(|line| line.contains("template has loaded")).expect("a template that has loaded");
    number_after(loaded, "pid=")
}

scenarios!(
    /// Workers have the data that their template loaded, and a reload loads the application again.
    fn loads_once_per_generation() {
        let server = Server::start(&["template"]);
        let first = server.ask("data").expect("an answer");
        for _ in 0..10 {
            assert_eq!(server.ask("data").as_deref(), Some(first.as_str()), "all workers have the template's data");
        }
        assert_ne!(first, server.pid().to_string());
        server.signal(libc::SIGHUP);
        wait_until("another template has loaded", || server.ask("data").is_some_and(|data| data != first));
        server.stop();
    }

    /// If the load of a reload fails, panics, aborts or hangs, the old generation continues to serve, and a later reload works.
    fn failed_load() {
        // The timeout is long enough for the loads that succeed.
        let server = Server::start(&["template", "load-timeout=10000"]);
        let first = server.ask("data").expect("an answer");
        for (word, message) in [
            ("load-fails", "on purpose, in two lines"),
            ("load-panics", "before it had loaded"),
            ("load-aborts", "signal: 6"),
            ("load-hangs", "it took longer than 10s"),
        ] {
            server.control(word);
            server.signal_until(libc::SIGHUP, message);
            assert_eq!(server.ask("data").as_deref(), Some(first.as_str()), "{word}");
        }
        assert_eq!(server.log().matches("the old generation continues to serve").count(), 4);
        server.control("");
        server.signal(libc::SIGHUP);
        wait_until("another template has loaded", || server.ask("data").is_some_and(|data| data != first));
        server.stop();
    }

    /// The supervisor signals only its own children, even if a template claims to have forked another process.
    fn template_that_lies() {
        let mut command = Command::new("sleep");
        let command = command.arg("100").process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let mut victim = command.spawn().expect("starting a process");
        // As a signed number, the second id is negative: kill(2) would signal the process group of the victim.
        for id in [victim.id(), victim.id().wrapping_neg()] {
            let server = Server::start(&["template"]);
            server.control(&format!("load-lies={id}"));
            server.signal_until(libc::SIGHUP, "unexpected message from the template");
            server.control("");
            server.stop();
            check_eq("how the victim ended", victim.try_wait().expect("its state"), None);
        }
        victim.kill().expect("killing the process");
        victim.wait().expect("its end");
    }

    /// A template that sends endless text neither fills the memory of the supervisor nor keeps it busy.
    fn floods() {
        for how in ["load-floods", "load-floods-with-lines"] {
            let server = Server::start(&["template"]);
            server.control(how);
            server.signal_until(libc::SIGHUP, "killing a template that sends something other than messages");
            server.until_logged("the reload failed: the old generation continues to serve");
            server.pid();
            server.stop();
        }
    }

    /// SIGWINCH during a reload ends the reload, so that the template of the old generation forks the next workers.
    fn all_workers_retire_during_a_load() {
        let server = Server::start(&["template"]);
        let first = server.ask("data").expect("an answer");
        server.control("load-hangs");
        server.signal(libc::SIGHUP);
        server.until_logged_times("loading the application", 2);
        server.signal(libc::SIGWINCH);
        server.until_logged_times("a worker that was told to end has ended", 2);
        server.signal(libc::SIGTTIN);
        assert_eq!(server.ask("data"), Some(first));
        server.stop();
    }

    /// If the first load fails, panics, aborts or hangs, the server ends with the error.
    fn failed_first_load() {
        for (word, message, options) in [
            ("load-fails", "on purpose, in two lines", &["template"][..]),
            ("load-panics", "exit status: 101 before it had loaded", &["template"]),
            ("load-aborts", "signal: 6", &["template"]),
            ("load-hangs", "it took longer than 700ms", &["template", "load-timeout=700"]),
        ] {
            let log = Server::begin(word, options).ends_with(1);
            assert!(log.contains("cannot load the application") && log.contains(message), "{log}");
        }
    }

    /// Workers do not end with their template, and another template forks the next worker.
    fn killed_template() {
        let server = Server::start(&["template"]);
        let template = server.template();
        let workers = server.children_except(template);
        assert_eq!(workers.len(), 2, "the workers are children of the supervisor");
        kill(template, libc::SIGKILL);
        server.until_logged("starting another one");
        assert!(workers.contains(&server.pid()));
        kill(workers[0], libc::SIGKILL);
        wait_until("a worker of another template", || {
            let other = server.ask("data");
            other.is_some_and(|other| other != template.to_string())
        });
        server.stop();
    }

    /// If a template is killed while it forks a worker, that worker does not start: the supervisor has asked another template for
    /// a worker.
    fn killed_while_it_forks() {
        let server = Server::start(&["template"]);
        let template = newest_template(&server);
        let worker = server.pid();
        server.control("between-waits");
        kill(worker, libc::SIGKILL);
        server.until_logged("process in between: ");
        let between = number_after(&server.log(), "process in between: ");
        kill(template, libc::SIGKILL);
        server.until_logged_times("template has loaded", 2);
        server.control("");
        server.until_logged_times("worker is ready", 3);
        wait_until("the process in between has ended", || !server.children().contains(&between));
        // The worker that the process in between has forked must not continue: it would be a fourth child of the
        // supervisor.
        wait_until("there are two workers and a template", || server.children().len() == 3);
        server.stop();
    }

    /// A template ends with its supervisor even if its load is synchronous.
    #[cfg(target_os = "linux")]
    fn killed_supervisor() {
        let server = Server::begin("load-sleeps", &["template"]);
        server.until_logged("loading the application");
        server.until_logged("template started");
        let template = number_after(&server.log(), "template started generation=1 pid=");
        kill(server.supervisor(), libc::SIGKILL);
        wait_until("the template has ended", || processes().get(&template).is_none_or(|process| process.has_ended()));
    }

    /// Templates that keep dying after they have loaded are started again with growing delays. The delays start over once a
    /// template has forked a worker.
    fn killed_templates() {
        let server = Server::start(&["template"]);
        let kill_template = |times| {
            server.until_logged_times("template has loaded", times);
            kill(newest_template(&server), libc::SIGKILL);
            server.until_logged_times("starting another one", times);
        };
        for (times, delay) in [(1, "delay=100ms"), (2, "delay=200ms"), (3, "delay=400ms")] {
            kill_template(times);
            assert!(server.log().contains(delay), "{delay}: {}", server.log());
        }
        server.until_logged_times("template has loaded", 4);
        kill(server.pid(), libc::SIGKILL);
        server.until_logged_times("worker is ready", 3);
        kill_template(4);
        assert_eq!(server.log().matches("delay=100ms").count(), 2, "{}", server.log());
        server.stop();
    }

    /// A template that does not fork a worker in time is killed, and another template forks the worker.
    ///
    /// There is no crash limit: if the machine stalls, healthy workers are late too, and the supervisor replaces them.
    fn stuck_template() {
        let server = Server::start(&["template", "boot-timeout=3000", "no-wait-for-threads", "no-crash-limit"]);
        let template = server.template();
        let workers = server.children_except(template);
        kill(template, libc::SIGSTOP);
        for worker in &workers {
            kill(*worker, libc::SIGKILL);
        }
        server.until_logged("killing a template that has not forked a worker in time");
        server.until_logged("the template took longer than 3s to fork a worker");
        let data = server.ask("data").expect("an answer");
        assert_ne!(data, template.to_string(), "another template has forked the worker");
        wait_until("the stuck template is gone", || !server.children().contains(&template));
        server.stop();
    }

    /// If the template of a new generation is killed after it has loaded, the old generation continues to serve, and a later
    /// reload works.
    fn killed_template_of_a_reload() {
        let server = Server::start(&["template"]);
        let before = server.children();
        server.control("never-ready");
        server.signal(libc::SIGHUP);
        wait_until("the workers of the new template boot", || server.children().len() == before.len() + 3);
        server.until_logged_times("template has loaded", 2);
        let template = newest_template(&server);
        assert!(!before.contains(&template), "{}", server.log());
        kill(template, libc::SIGKILL);
        server.until_logged("the old generation continues to serve");
        assert!(server.log().contains("the template ended with signal: 9"), "{}", server.log());
        assert!(before.contains(&server.pid()));
        server.control("");
        wait_until("the new workers are gone", || server.children().len() == before.len());
        server.signal(libc::SIGHUP);
        wait_until("a reload works again", || !before.contains(&server.pid()));
        server.stop();
    }

    /// If the number of workers shrinks, the worker that ends shuts its queue down, because the template has it open until the
    /// next reload. Connections then go to the queues of the remaining workers.
    #[cfg(target_os = "linux")]
    fn fewer_workers_with_own_queues() {
        let server = Server::start(&["template", "own-queues"]);
        server.control("load-hangs");
        server.signal_until(libc::SIGTTOU, "a worker that was told to end has ended");
        server.until_logged("reloading generation=2");
        for _ in 0..40 {
            assert!(server.ask("pid").is_some());
        }
        server.stop();
    }

    /// If the number of workers grows, the queue of the additional worker gets no connections until a template can fork that
    /// worker.
    #[cfg(target_os = "linux")]
    fn more_workers_with_own_queues() {
        let server = Server::start(&["template", "own-queues"]);
        server.control("load-fails");
        server.signal_until(libc::SIGTTIN, "the old generation continues to serve");
        for _ in 0..40 {
            assert!(server.ask("pid").is_some());
        }
        server.control("");
        let old = server.children();
        server.signal_until(libc::SIGHUP, "reloaded");
        let mut new = HashSet::new();
        wait_until("three new workers serve", || {
            new.extend(Some(server.pid()).filter(|pid| !old.contains(pid)));
            new.len() == 3
        });
        server.stop();
    }

    /// The supervisor does not reap the processes that its own tasks have started.
    fn processes_of_the_supervisor() {
        let server = Server::start(&["template", "processes"]);
        server.until_logged("all processes were waited for");
        server.stop();
    }
);
