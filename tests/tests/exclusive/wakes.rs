//! Which processes an event wakes.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use forkio_reactor::fork::glue::{mute, set_exclusive};
use forkio_tests::reactor::*;

pub(crate) const LISTENER: usize = 1;
const STOP: usize = 2;

/// Waits until all of the processes sleep in the kernel queue.
pub(crate) fn wait_until_asleep(pids: &[i32]) {
    // A process may also sleep before it reaches the queue. The model of a kernel waits in another way.
    wait_until("the children sleep", || {
        let processes = processes();
        pids.iter().all(|pid| processes[pid].state == 'S' && (cfg!(forkio_kqueue) || is_in_epoll_wait(*pid)))
    });
}

/// A listener that is registered with the selector.
pub(crate) fn listen(selector: &Poll) -> TcpListener {
    registered(selector.registry(), forkio_tests::reactor::listener(), LISTENER)
}

/// Counts how often ten connections wake four processes that wait for one listener. Not every woken process returns from
/// `epoll_wait`: it sleeps again if another process has been faster.
fn wakes_by_ten_connections(exclusive: bool) -> u64 {
    let mut selector = Poll::new().unwrap();
    let listener = listen(&selector);
    let turn = Turn::new();
    register(selector.registry(), &mut SourceFd(&turn.as_raw_fd()), STOP);
    mute(&listener).unwrap();
    set_exclusive(&listener, exclusive).unwrap();
    let children: Vec<_> = (0..4).map(|_| fork_child(|| serve(&mut selector, &listener))).collect();
    wait_until_asleep(&children);
    let sleeps = || children.iter().map(|child| sleeps_of(*child)).sum::<u64>();
    let before = sleeps();
    for _ in 0..10 {
        // Once there is an answer, the kernel has woken every process that it wakes for the connection.
        connect(&listener).read_exact(&mut [0]).unwrap();
        wait_until_asleep(&children);
    }
    let wakes = sleeps() - before;
    // The children do not read this byte, so that the event wakes all of them.
    turn.give();
    children.into_iter().for_each(reap);
    wakes
}

/// Accepts connections until the parent says to stop.
fn serve(selector: &mut Poll, listener: &TcpListener) {
    let mut events = Events::with_capacity(4);
    loop {
        selector.poll(&mut events, None).unwrap();
        for event in &events {
            if event.token() == Token(STOP) {
                return;
            }
            loop {
                match listener.accept() {
                    Ok((mut stream, _)) => stream.write_all(b"!").unwrap(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

scenarios!(
    /// An exclusive registration wakes one process for each connection. A kqueue wakes all processes.
    fn one_process_is_woken() {
        let wakes = wakes_by_ten_connections(true);
        if cfg!(forkio_kqueue) {
            assert!(wakes >= 40, "{wakes}");
        } else {
            // A process may sleep once more, for a lock in the kernel.
            assert!((10..20).contains(&wakes), "{wakes}");
        }
    }

    /// Without exclusive wakes, each connection wakes all processes.
    fn all_processes_are_woken_otherwise() {
        let wakes = wakes_by_ten_connections(false);
        assert!(wakes >= 40, "{wakes}");
    }
);
