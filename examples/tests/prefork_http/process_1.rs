//! A stop of process 1 of a container, when another program serves and is just being replaced.

use std::time::{Duration, Instant};

use forkio_tests::{freeze, scenarios, wait_until};
use rustix::process::Signal;

use crate::server::{Server, signal};
use crate::service::{processes_of, start_copy_as_process_1};
use crate::stop::{expect_answer, pending_signals};
use crate::upgrade::Copy;

/// Upgrades the server, and waits until the new program serves. Returns its process id.
#[track_caller]
fn upgrade(server: &Server, supervisor: i32) -> i32 {
    let before = processes_of(supervisor);
    signal(supervisor, Signal::USR2);
    server.until_logged("the new program is ready: this one retires");
    let is_new = |pid: i32| before.iter().all(|process| process.pid != pid);
    let new = processes_of(supervisor).into_iter().map(|process| process.pid).find(|pid| is_new(*pid));
    new.expect("the new program")
}

scenarios!(
    /// The program that serves is told to stop, and is killed before it stops. The program that it was starting must
    /// not serve.
    fn serving_program_dies_before_it_stops() {
        let copy = Copy::new("dies-before-stop");
        let options = ["--workers", "1", "--idle-grace", "0"];
        let Some((mut server, supervisor)) = start_copy_as_process_1(&copy.program(), &options) else { return };
        let serving = upgrade(&server, supervisor);
        wait_until("process 1 has drained", || processes_of(supervisor).len() == 1);
        let gate = copy.replace_with_gate();
        signal(serving, Signal::USR2);
        gate.until_started();
        freeze(serving);
        signal(supervisor, Signal::TERM);
        // Process 1 has carried out the first signal once it carries out the second.
        signal(supervisor, Signal::USR1);
        wait_until("the signal waits for the program", || {
            let pending = pending_signals(serving);
            pending.contains(&Signal::TERM) && pending.contains(&Signal::USR1)
        });
        signal(serving, Signal::KILL);
        server.wait();
    }

    /// The program that serves is killed while process 1 still drains its own workers. Then process 1 is told to stop.
    fn serving_program_is_dead_while_process_1_drains() {
        let copy = Copy::new("dead-while-draining");
        let Some((mut server, supervisor)) = start_copy_as_process_1(&copy.program(), &["--workers", "1"]) else {
            return;
        };
        let (mut in_flight, _) = server.busy(10_000);
        let serving = upgrade(&server, supervisor);
        let gate = copy.replace_with_gate();
        signal(serving, Signal::USR2);
        gate.until_started();
        signal(serving, Signal::KILL);
        signal(supervisor, Signal::TERM);
        expect_answer(&mut in_flight);
        server.wait();
    }

    /// A program takes over and is told to stop. But its predecessor kills it, because it was late, and continues to serve:
    /// the predecessor must stop, too.
    fn predecessor_continues_to_serve() {
        let copy = Copy::new("late");
        let options = ["--workers", "1", "--idle-grace", "0", "--upgrade-timeout", "3"];
        let Some((mut server, supervisor)) = start_copy_as_process_1(&copy.program(), &options) else { return };
        let serving = upgrade(&server, supervisor);
        wait_until("process 1 has drained", || processes_of(supervisor).len() == 1);
        let began = Instant::now();
        signal(serving, Signal::USR2);
        server.until_logged_times("started the program again", 2);
        freeze(serving);
        server.until_logged("process 1 waits for it");
        wait_until("the deadline has passed", || began.elapsed() > Duration::from_secs(4));
        signal(supervisor, Signal::TERM);
        server.until_logged("stopping: draining the workers");
        signal(serving, Signal::CONT);
        server.wait();
    }
);
