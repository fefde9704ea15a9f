//! Workers that crash or hang, that ask for a replacement or a stop, and that reach a limit.

use std::collections::BTreeSet;
use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::ptr::null_mut;
use std::thread;
use std::time::Duration;

use forkio_tests::{has_ended, kill, scenarios, wait_until};

use crate::server::{Server, fixture};

scenarios!(
    /// Workers that end after they were ready are replaced, even more of them than the `crash_limit`.
    fn killed_by_requests() {
        let server = Server::start(&["before", "crash-limit"]);
        for _ in 0..8 {
            assert_eq!(server.ask("exit"), None);
        }
        wait_until("all workers are replaced", || server.log().matches("worker ended: replacing it").count() == 8);
        assert!(server.ask("pid").is_some());
        server.stop();
    }

    /// A worker that calls `retire` is replaced.
    fn retire() {
        let server = Server::start(&["before"]);
        let pid = server.retire();
        wait_until("the worker is replaced", || {
            let children = server.children();
            children.len() == 2 && !children.contains(&pid)
        });
        server.until_logged("reason=asked");
        server.stop();
    }

    /// A worker that asks to be replaced serves until its successor is ready.
    fn serves_until_its_successor_is_ready() {
        let server = Server::start(&["before", "one-worker"]);
        server.control("never-ready");
        let pid = server.retire();
        server.until_logged("never ready, on purpose");
        server.control("");
        server.children_except(pid).into_iter().for_each(|booting| kill(booting, libc::SIGKILL));
        server.until_logged("retiring a worker");
        let log = server.log();
        let before = log.split("retiring a worker").next().unwrap_or_default();
        assert_eq!(before.matches("worker is ready").count(), 2, "{log}");
        wait_until("the worker is replaced", || !server.children().contains(&pid));
        assert_ne!(server.pid(), pid);
        server.stop();
    }

    /// Workers that ask to be replaced at the same time are replaced one after the other.
    fn replaced_one_at_a_time() {
        let server = Server::start(&["before"]);
        let before = server.children();
        let mut asked = BTreeSet::new();
        wait_until("both workers have asked", || {
            asked.insert(server.retire());
            before.iter().all(|pid| asked.contains(pid))
        });
        let events = || -> Vec<bool> {
            let log = server.log();
            let is_event = |line: &&str| line.contains("replacing a worker") || line.contains("told to end has ended");
            log.lines().filter(is_event).map(|line| line.contains("replacing a worker")).collect()
        };
        wait_until("both workers are replaced", || server.children().iter().all(|pid| !before.contains(pid)));
        wait_until("their end is logged", || events().iter().filter(|begins| !**begins).count() >= 2);
        assert_eq!(events()[..4], [true, false, true, false], "{}", server.log());
        server.stop();
    }

    /// A worker that becomes ready beyond its greatest age is replaced at once.
    fn older_than_its_limit_when_ready() {
        let server = Server::start(&["before", "one-worker", "max-age=1"]);
        server.until_logged("reason=max_age");
        server.stop();
    }

    /// Limits may be endless. A second signal ends an endless lame-duck period. Until then, the server refuses commands.
    fn endless_limits() {
        let server = Server::start(&["before", "endless"]);
        server.signal_until(libc::SIGTERM, "still accepting connections before the stop");
        for (times, signal) in (1..).zip([libc::SIGHUP, libc::SIGUSR2, libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH]) {
            server.signal(signal);
            server.until_logged_times("it still accepts connections, but no commands", times);
        }
        // A second signal that comes too soon counts as the same request. A third signal would kill the workers.
        thread::sleep(Duration::from_millis(200));
        server.signal_until(libc::SIGTERM, "stopping: draining the workers");
        server.ends_with(0);
    }

    /// A second signal that comes right after the first one does not end a lame-duck period, even an endless one.
    fn signal_to_stop_is_sent_twice() {
        let counts_as_one = || {
            let server = Server::start(&["before", "endless"]);
            server.signal_until(libc::SIGTERM, "still accepting connections before the stop");
            server.signal(libc::SIGTERM);
            server.until_logged_times("signal=\"SIGTERM\"", 2);
            // The supervisor has handled the second signal once it handles another one.
            server.signal(libc::SIGUSR1);
            let stops = || server.log().contains("stopping: draining the workers");
            wait_until("the second signal is handled", || stops() || server.log().contains("signal=\"SIGUSR1\""));
            !stops()
        };
        // If the machine stalls for a tenth of a second between the signals, the second one counts.
        assert!((0..5).any(|_| counts_as_one()), "the second signal counts each time");
    }

    /// A worker that calls `halt` stops the server.
    fn halt() {
        let server = Server::start(&["before"]);
        server.ask("halt");
        let log = server.ends_with(1);
        assert!(log.contains("asked to stop the server"), "{log}");
    }

    /// A worker that has not drained after the `shutdown_timeout` is killed.
    fn shutdown_timeout() {
        let server = Server::start(&["before", "shutdown-timeout=1000"]);
        // A connection that sends nothing keeps the worker from draining.
        let _held = server.connect();
        server.signal_until(libc::SIGTERM, "killing the workers that have not drained in time");
        assert!(server.log().contains("limit=1s"), "{}", server.log());
        server.ends_with(137);
    }

    /// If draining workers occupy all slots, the next fork waits until one of them has ended. The supervisor tries and
    /// warns again only after an event, not in a busy loop.
    fn no_slot_left() {
        let server = Server::start(&["before", "one-worker"]);
        // A server that starts with one worker has 65 slots, and may have up to 32 workers.
        for times in 1..32 {
            server.signal(libc::SIGTTIN);
            server.until_logged_times("changing the number of workers", times);
        }
        let signal_workers = |signal| server.children().into_iter().for_each(|worker| kill(worker, signal));
        for generation in [1, 2] {
            server.until_logged_times("worker is ready", 32 * generation);
            // A frozen worker does not drain.
            signal_workers(libc::SIGSTOP);
            server.signal(libc::SIGHUP);
        }
        let warnings = || server.log().matches("all slots are taken").count();
        server.until_logged("all slots are taken");
        let before = warnings();
        // A supervisor that tried again without an event would warn ten times a second.
        thread::sleep(Duration::from_secs(2));
        assert!(warnings() - before < 10, "{}", server.log());
        signal_workers(libc::SIGCONT);
        server.until_logged_times("reloaded: the old generation retires", 2);
        server.stop();
    }

    /// With `max_requests` and without `jitter`, the worker is replaced after exactly that many requests. A `jitter` that is
    /// not a number counts as 0.
    fn max_requests_without_jitter() {
        for options in [&["before", "one-worker", "max-requests"][..], &["before", "one-worker", "max-requests", "nan"]]
        {
            let server = Server::start(options);
            let pid = server.pid();
            for _ in 1..1000 {
                assert!(!server.log().contains("reason=max_requests"), "too early");
                assert_eq!(server.pid(), pid);
            }
            server.until_logged("reason=max_requests");
            wait_until("the worker is replaced", || server.pid() != pid);
            server.stop();
        }
    }

    /// Workers do not count as stuck if the supervisor was frozen as well, such as by `docker pause`.
    fn all_processes_are_frozen() {
        let server = Server::start(&["before", "heartbeat-timeout=3000"]);
        let workers = server.children();
        workers.iter().for_each(|worker| kill(*worker, libc::SIGSTOP));
        // In this second, the supervisor sees the last heartbeats. After the next pause, they are older than the timeout.
        thread::sleep(Duration::from_secs(1));
        server.signal(libc::SIGSTOP);
        thread::sleep(Duration::from_secs(3));
        server.signal(libc::SIGCONT);
        for times in 1..=2 {
            // The supervisor checks heartbeats before it handles the second signal.
            server.signal(libc::SIGUSR1);
            server.until_logged_times("signal=\"SIGUSR1\"", times);
        }
        workers.iter().for_each(|worker| kill(*worker, libc::SIGCONT));
        assert_eq!(server.children(), workers, "{}", server.log());
        assert!(!server.log().contains("is stuck"), "{}", server.log());
        server.stop();
    }

    /// Workers end with their supervisor even if no process reads their log. The subscriber of `tracing` then panics.
    fn log_without_a_reader() {
        for how in ["before", "template"] {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            let (mut supervisor, processes) = Server::start_with_log(how, writer);
            drop(reader);
            supervisor.kill().expect("killing the supervisor");
            supervisor.wait().expect("the end of the supervisor");
            wait_until("the workers have ended", || processes.iter().all(|pid| has_ended(*pid)));
        }
    }

    /// With `abort_stuck`, a worker whose runtime is stuck is aborted and prints its stack, even if the program that started
    /// the server has blocked SIGABRT.
    fn stuck() {
        for how in ["before", "threads", "own-runtime"] {
            // If the machine stalls, the supervisor kills the worker before it has printed its stack.
            assert!((0..5).any(|_| is_aborted(how)), "{how}: the worker was killed each time");
        }
    }
);

/// Lets a worker get stuck. Returns whether it was aborted, and not killed.
#[track_caller]
fn is_aborted(how: &str) -> bool {
    let mut command = fixture();
    // SAFETY: the function makes system calls only.
    let server = unsafe { command.pre_exec(block_abort) };
    let server = Server::start_as(server, &[how, "abort-stuck", "heartbeat-timeout=3000"]);
    let victims = server.children();
    let _connection = server.say("stuck");
    server.until_logged("whose runtime is stuck");
    assert!(server.log().contains("limit=3s"), "{}", server.log());
    server.until_logged("worker ended: replacing it");
    let log = server.log();
    let is_aborted = log.contains("signal: 6");
    assert!(is_aborted || log.contains("signal: 9"), "{log}");
    if is_aborted {
        assert!(log.contains("was aborted here") && log.contains("fixture_supervisor::answer"), "{log}");
    }
    wait_until("the worker is replaced", || server.children().iter().any(|pid| !victims.contains(pid)));
    assert!(server.pid() > 0);
    server.stop();
    is_aborted
}

fn block_abort() -> Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set before other functions read it.
    let blocked = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGABRT);
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), null_mut())
    };
    if blocked == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
