//! Workers that do not become ready.

use forkio_tests::{kill, scenarios, wait_until};

use crate::server::Server;

scenarios!(
    /// If no worker of a reload becomes ready, the old generation continues to serve, and a later reload works.
    ///
    /// If the machine stalls, healthy workers are late, too. The supervisor then replaces them.
    #[limit(300)]
    fn new_generation() {
        for how in ["before", "template"] {
            for (word, message) in [("never-ready", "not ready in time"), ("boot-exits", "exit status: 3")] {
                let server = Server::start(&[how, "boot-timeout=2000", "no-crash-limit"]);
                let before = server.children();
                server.control(word);
                server.signal_until(libc::SIGHUP, "the old generation continues to serve");
                let log = server.log();
                assert!(log.contains(message) && (word != "never-ready" || log.contains("limit=2s")), "{how}, {word}");
                assert!(before.contains(&server.pid()), "{how}, {word}");
                wait_until("the new workers are gone", || server.children().len() == before.len());
                server.control("");
                server.signal(libc::SIGHUP);
                wait_until("a reload works again", || !before.contains(&server.pid()));
                server.stop();
            }
        }
    }

    /// Without `CAP_KILL`, a supervisor does not start if its workers run as another user: it could not signal them,
    /// and so could never stop. Containers may lack this capability.
    #[cfg(target_os = "linux")]
    fn without_the_capability_to_signal() {
        use std::os::unix::process::CommandExt;

        const CAP_KILL: libc::c_ulong = 5;

        if !forkio_tests::is_root() {
            return eprintln!("not run: this process has no capabilities");
        }
        let drop_capability = || {
            // SAFETY: prctl(2) is async-signal-safe, and this operation reads no memory.
            match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0) } {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        let mut command = crate::server::fixture();
        command.arg(forkio_tests::temporary_path("control")).args(["before", "other-user"]);
        // SAFETY: see `drop_capability`.
        let output = unsafe { command.pre_exec(drop_capability) }.output().expect("running the fixture");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains("CAP_KILL"), "{log}");
    }

    /// The server ends once a worker has ended `crash_limit` times in a row before it was ready.
    fn first_generation() {
        let log = Server::begin("boot-exits", &["before", "crash-limit"]).ends_with(3);
        assert!(log.contains("ended 3 times in a row before it was ready"), "{log}");
        Server::begin("never-ready", &["before", "crash-limit", "boot-timeout=700"]).ends_with(137);
    }

    /// Once the server has been ready, a worker that cannot be replaced does not end the server while another worker is ready.
    fn replacement() {
        let server = Server::start(&["before", "crash-limit"]);
        let pid = server.pid();
        let other = server.children().into_iter().find(|other| *other != pid).expect("two workers");
        server.control("boot-exits");
        kill(other, libc::SIGKILL);
        wait_until("more workers have failed than the limit", || {
            server.log().matches("worker ended before it was ready").count() >= 4
        });
        assert_eq!(server.pid(), pid);
        server.control("");
        // Do not wait for two processes instead: one may be a worker that is about to end with an error.
        server.until_logged_times("worker is ready", 3);
        server.stop();
    }

    /// A worker is ready with its first accept, or, with `explicit_ready`, when it says so.
    fn explicit_ready() {
        let server = Server::begin("says-nothing", &["before", "boot-timeout=700"]);
        server.until_logged("killing a worker that is not ready in time");
        drop(server);
        let server = Server::start(&["before", "implicit-ready"]);
        server.control("says-nothing");
        let before = server.children();
        server.signal(libc::SIGHUP);
        wait_until("workers that only accept take over", || !before.contains(&server.pid()));
        server.stop();
    }

    /// Workers that end before they are ready no longer count towards the `crash_limit` once a worker in their place is ready.
    fn failures_in_a_row() {
        let server = Server::start(&["before", "one-worker", "crash-limit"]);
        for round in 1..=3 {
            server.control("never-ready");
            kill(server.pid(), libc::SIGKILL);
            server.until_logged_times("never ready, on purpose", round);
            server.control("");
            server.kill_children(&server.children());
            server.until_logged_times("worker is ready", 1 + round);
        }
        server.stop();
    }
);
