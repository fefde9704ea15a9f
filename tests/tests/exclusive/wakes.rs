//! Which processes an event wakes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use forkio_reactor::fork::glue::{mute, set_exclusive};
use forkio_tests::reactor::*;

/// The token of the listener.
pub(crate) const LISTENER: usize = 1;
const STOP: usize = 2;

/// Waits until all of the processes sleep in the kernel queue.
pub(crate) fn wait_until_asleep(pids: &[i32]) {
    wait_until("the children sleep", || {
        let processes = processes();
        pids.iter().all(|pid| processes[pid].state == 'S' && is_in_queue(*pid))
    });
}

/// Whether a sleeping process sleeps in the kernel queue. A process may also sleep before it reaches the queue.
fn is_in_queue(pid: i32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    let number = call.split(' ').next().and_then(|number| number.parse().ok());
    // Only old architectures have a system call without the signal mask.
    #[cfg(target_arch = "x86_64")]
    let calls = [libc::SYS_epoll_pwait, libc::SYS_epoll_wait];
    #[cfg(not(target_arch = "x86_64"))]
    let calls = [libc::SYS_epoll_pwait];
    // The model of a kernel waits in another way.
    cfg!(forkio_kqueue) || number.is_some_and(|number: libc::c_long| calls.contains(&number))
}

/// A listener that is registered with the selector.
pub(crate) fn listen(selector: &Poll) -> TcpListener {
    let mut listener = forkio_tests::reactor::listener();
    register(selector.registry(), &mut listener, LISTENER);
    listener
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
    let before = sleeps(&children);
    for _ in 0..10 {
        // Once there is an answer, the kernel has woken every process that it wakes for the connection.
        connect(&listener).read_exact(&mut [0]).unwrap();
        wait_until_asleep(&children);
    }
    let wakes = sleeps(&children) - before;
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

/// How often the processes have gone to sleep.
fn sleeps(pids: &[i32]) -> u64 {
    let of = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse::<u64>().unwrap()
    };
    pids.iter().map(of).sum()
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
