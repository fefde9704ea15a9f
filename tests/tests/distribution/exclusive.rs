//! One queue whose connections wake one worker each.

use std::thread;
use std::time::Duration;

use forkio_tests::reactor::*;

use crate::server::DOES_NOT_ACCEPT;
use crate::{Connecting, Server, by_worker, close};

fn is_answered(connecting: &Connecting) -> bool {
    connecting.0.set_nonblocking(true).expect("a socket");
    let answered = connecting.0.peek(&mut [0]).is_ok();
    connecting.0.set_nonblocking(false).expect("a socket");
    answered
}

scenarios!(
    /// With one exclusive queue, a quiet server gives connections to all workers in turn.
    fn shared_queue_wakes_workers_in_turn() {
        const WORKERS: usize = 3;
        let server = Server::start("shared", WORKERS, "hold");
        server.wait_for_all(WORKERS);
        // Repeats the check, because on a busy machine a worker may not sleep again after a pause.
        wait_until("each worker has one of a few connections", || {
            // After the pause all workers sleep. The worker that accepted last is the last in the kernel's list.
            let connections: Vec<_> = (0..4 * WORKERS)
                .map(|_| {
                    thread::sleep(Duration::from_millis(3));
                    server.connect().answered()
                })
                .collect();
            let counts = by_worker(&connections, WORKERS);
            close(connections);
            counts.iter().all(|count| *count > 0)
        });
        server.stop();
    }

    /// A worker that was woken for a connection ends without accepting it. Another worker accepts the connection.
    fn connection_of_an_ended_worker() {
        let mut program = Server::program("shared", 2, "first-does-not-accept");
        // The first worker announces itself, and never accepts.
        let lines = [program.line(), program.line()];
        let (first, address): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.starts_with(DOES_NOT_ACCEPT));
        let server = Server { program, address: address[0].clone() };
        let first = first[0][DOES_NOT_ACCEPT.len()..].parse().expect("a process id");
        let mut served = Vec::new();
        let mut waiting = None;
        // Each time the second worker accepts, it moves to the end of the kernel's list.
        wait_until("only the first worker is woken for a connection", || {
            let connecting = server.connect();
            thread::sleep(Duration::from_millis(20));
            if is_answered(&connecting) {
                served.push(connecting.answered());
            } else {
                waiting = Some(connecting);
            }
            waiting.is_some()
        });
        kill(first, libc::SIGKILL);
        let connection = waiting.expect("a connection that waits").answered();
        assert_eq!(connection.worker, 1);
        drop((served, connection));
        // If the server noticed the death only after the stop, its exit code would be that of the dead worker.
        server.wait_for_replacement(first, 2);
        server.stop();
    }
);
