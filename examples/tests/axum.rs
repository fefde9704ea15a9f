//! The example `axum`: several processes serve. A server that is told to stop finishes its requests first, until a timeout.

use std::collections::HashSet;
use std::process::Command;
use std::time::Instant;

use forkio_tests::http::{body, get, request};
use forkio_tests::{Program, children_of, example, freeze, kill, limit, read_to_end, scenarios, wait_until};
use rustix::process::Signal;

forkio_tests::main!();

fn start(arguments: &[&str]) -> (Program, String) {
    let mut command = Command::new(example("axum"));
    // A slow machine must not cut off draining connections.
    if !arguments.contains(&"--shutdown-timeout") {
        command.args(["--shutdown-timeout", "60"]);
    }
    let mut server = Program::spawn(command.args(["--listen", "127.0.0.1:0"]).args(arguments));
    let address = server.line().strip_prefix("listening on http://").expect("an address").to_owned();
    (server, address)
}

scenarios!(
    /// All workers serve, and the supervisor does not.
    fn workers_serve() {
        let (server, address) = start(&["--workers", "2"]);
        let mut answered = HashSet::new();
        wait_until("both workers have answered", || {
            let answer = get(&address, "/");
            let pid = answer.trim_end().rsplit_once(' ').expect("a process id").1.to_owned();
            assert_ne!(pid, server.pid().to_string(), "the supervisor serves");
            answered.insert(pid);
            answered.len() == 2
        });
        server.stop();
    }

    /// A server that is told to stop finishes the requests that have begun.
    fn requests_that_have_begun_are_finished() {
        let (server, address) = start(&["--workers", "1"]);
        let slow = request(&address, "/sleep/0.3");
        // The worker has one queue and one thread, so an answer to this request shows that the slow one has begun.
        get(&address, "/");
        server.signal(Signal::TERM.as_raw());
        body(slow);
        server.finish_well();
    }

    /// A server that is told to stop also answers the requests that wait in the queue.
    fn queued_requests_are_served() {
        let (server, address) = start(&["--workers", "1"]);
        let worker = children_of(server.pid())[0];
        freeze(worker);
        let waiting: Vec<_> = (0..10).map(|_| request(&address, "/")).collect();
        server.signal(Signal::TERM.as_raw());
        kill(worker, Signal::CONT.as_raw());
        for stream in waiting {
            body(stream);
        }
        server.finish_well();
    }

    /// A request that takes longer than the shutdown timeout is cut off.
    fn requests_beyond_the_shutdown_timeout_are_cut_off() {
        const KILLED: i32 = 128 + Signal::KILL.as_raw();
        for _ in 0..5 {
            let (server, address) = start(&["--workers", "1", "--shutdown-timeout", "0.5"]);
            let stuck = request(&address, "/sleep/3600");
            get(&address, "/");
            let started = Instant::now();
            server.signal(Signal::TERM.as_raw());
            assert_eq!(read_to_end(stuck), "");
            let (status, output) = server.finish();
            assert!(started.elapsed() < limit(), "{:?}", started.elapsed());
            // The supervisor kills a worker that still runs a second after the shutdown timeout. If the machine stalls
            // that long, the supervisor also kills a healthy worker.
            if status.code() != Some(KILLED) {
                return assert_eq!(status.code(), Some(1), "{output}");
            }
        }
        panic!("the worker was killed each time");
    }

    /// The help does not show the rustdoc of `ServerOptions`.
    fn help_begins_with_the_usage() {
        let output = Command::new(example("axum")).arg("--help").output().expect("running the program");
        let help = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && help.starts_with("Usage: axum") && help.contains("--workers"), "{help}");
    }
);
