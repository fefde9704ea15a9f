//! Scenarios of [`set_exclusive`]: an event wakes one of the processes that wait.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use forkio_reactor::fork::{self, ForkResult, mute, rearm_exclusive, registrations, set_exclusive, unmute};
use forkio_reactor::net::TcpListener;
use forkio_reactor::unix::SourceFd;
use forkio_reactor::{Events, Interest, Poll, Token};
use forkio_tests::{Turn, check_eq, fixture_main, processes, wait_until};

const LONG: Option<Duration> = Some(Duration::from_secs(30));
const LISTENER: Token = Token(1);
const STOP: Token = Token(2);

/// `EPOLLEXCLUSIVE`, as `/proc/PID/fdinfo` shows it.
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE.cast_unsigned();

pub(super) fn main() {
    fixture_main(&[
        ("one-is-woken", one_is_woken),
        ("all-are-woken-otherwise", all_are_woken_otherwise),
        ("kernel-flags", kernel_flags),
        ("a-refused-change-changes-nothing", a_refused_change_changes_nothing),
        ("what-the-dead-was-told", what_the_dead_was_told),
    ]);
}

/// Forks; the child exits with what `child` returns.
fn fork_child(child: impl FnOnce() -> u8) -> i32 {
    // SAFETY: this process has one thread.
    match unsafe { fork::fork() }.expect("forking") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => std::process::exit(child().into()),
    }
}

/// Waits for the child's end, and returns its status as waitpid(2) gives it.
fn reap(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    check_eq("reaping the child", unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

/// Waits until all of them sleep, which they do nowhere but in `epoll_wait`.
fn wait_until_asleep(pids: &[i32]) {
    wait_until("the children sleep", || {
        let processes = processes();
        pids.iter().all(|pid| processes[pid].state == 'S')
    });
}

fn listen(poll: &Poll) -> TcpListener {
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).unwrap();
    listener
}

fn connect(listener: &TcpListener) -> TcpStream {
    TcpStream::connect(listener.local_addr().unwrap()).unwrap()
}

/// How often four processes that wait for one listener are woken by ten connections. Not all wakes come out of
/// `epoll_wait`: when another process has been faster, it goes back to sleep.
fn wakes_by_ten_connections(exclusive: bool) -> u64 {
    let mut poll = Poll::new().unwrap();
    let listener = listen(&poll);
    let turn = Turn::new().unwrap();
    poll.registry().register(&mut SourceFd(&turn.as_raw_fd()), STOP, Interest::READABLE).unwrap();
    mute(&listener).unwrap();
    set_exclusive(&listener, exclusive).unwrap();
    let mut children = Vec::new();
    for _ in 0..4 {
        children.push(fork_child(|| serve(&mut poll, &listener)));
    }
    wait_until_asleep(&children);
    let before = sleeps(&children);
    for _ in 0..10 {
        // Once there is an answer, everybody has been woken who is.
        connect(&listener).read_exact(&mut [0]).unwrap();
        wait_until_asleep(&children);
    }
    let wakes = sleeps(&children) - before;
    // Nobody reads it, so all are told.
    turn.give();
    for child in children {
        check_eq("the child's status", reap(child), 0);
    }
    wakes
}

/// Accepts until told to stop.
fn serve(poll: &mut Poll, listener: &TcpListener) -> u8 {
    let mut events = Events::with_capacity(4);
    loop {
        poll.poll(&mut events, None).unwrap();
        for event in &events {
            if event.token() == STOP {
                return 0;
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

fn one_is_woken() {
    let wakes = wakes_by_ten_connections(true);
    if cfg!(forkio_kqueue) {
        // A kqueue wakes all, whatever it is asked for.
        assert!(wakes >= 40, "{wakes}");
        return;
    }
    // One may sleep once more, for a lock in the kernel.
    assert!((10..20).contains(&wakes), "{wakes}");
}

fn all_are_woken_otherwise() {
    let wakes = wakes_by_ten_connections(false);
    assert!(wakes >= 40, "{wakes}");
}

/// The flags that the kernel has for the listener; `None`: it is not registered.
fn flags_in_kernel(poll: &Poll, listener: &TcpListener) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", poll.as_raw_fd())).unwrap();
    info.lines().find_map(|line| {
        let mut words = line.strip_prefix("tfd:")?.split_whitespace();
        let fd: i32 = words.next()?.parse().ok()?;
        let flags = words.skip_while(|word| *word != "events:").nth(1)?;
        (fd == listener.as_raw_fd()).then(|| u32::from_str_radix(flags, 16).unwrap())
    })
}

fn is_exclusive(poll: &Poll, listener: &TcpListener) -> Option<bool> {
    flags_in_kernel(poll, listener).map(|flags| flags & EXCLUSIVE != 0)
}

fn polled(poll: &mut Poll, timeout: Option<Duration>) -> Vec<Token> {
    let mut events = Events::with_capacity(4);
    poll.poll(&mut events, timeout).unwrap();
    events.iter().map(|event| event.token()).collect()
}

/// What the kernel has is what was asked for, whatever the order of asking, in both processes.
fn kernel_flags() {
    let mut poll = Poll::new().unwrap();
    let mut listener = listen(&poll);
    check_eq("at first", is_exclusive(&poll, &listener), Some(false));
    set_exclusive(&listener, true).unwrap();
    check_eq("set", is_exclusive(&poll, &listener), Some(true));
    let interests: Vec<_> = registrations().iter().map(|registration| registration.interest).collect();
    check_eq("what users see", interests, vec![Interest::READABLE]);

    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().reregister(&mut listener, LISTENER, both).unwrap();
    check_eq("with another interest", is_exclusive(&poll, &listener), Some(true));
    poll.registry().reregister(&mut listener, LISTENER, Interest::READABLE).unwrap();

    mute(&listener).unwrap();
    check_eq("muted", is_exclusive(&poll, &listener), None);
    set_exclusive(&listener, true).unwrap();
    check_eq("still muted", is_exclusive(&poll, &listener), None);
    let check_child = |poll: &mut Poll| {
        check_eq("in the child", is_exclusive(poll, &listener), Some(true));
        set_exclusive(&listener, false).unwrap();
        check_eq("ended in the child", is_exclusive(poll, &listener), Some(false));
        0
    };
    let status = reap(fork_child(|| check_child(&mut poll)));
    check_eq("the child's status", status, 0);
    unmute(&listener).unwrap();
    check_eq("armed again", is_exclusive(&poll, &listener), Some(true));

    // An edge that was seen is seen again when asked for, and not otherwise.
    let _first = connect(&listener);
    check_eq("a connection", polled(&mut poll, LONG), vec![LISTENER]);
    check_eq("the same connection", polled(&mut poll, Some(Duration::ZERO)), vec![]);
    rearm_exclusive().unwrap();
    check_eq("asked for", polled(&mut poll, LONG), vec![LISTENER]);

    set_exclusive(&listener, false).unwrap();
    check_eq("ended", is_exclusive(&poll, &listener), Some(false));
    check_eq("ended with a connection waiting", polled(&mut poll, LONG), vec![LISTENER]);
    rearm_exclusive().unwrap();
    check_eq("not exclusive, so not asked for", polled(&mut poll, Some(Duration::ZERO)), vec![]);

    poll.registry().deregister(&mut listener).unwrap();
    check_eq("set on what is not registered", set_exclusive(&listener, true).unwrap_err().kind(), ErrorKind::NotFound);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).unwrap();
    check_eq("registered anew", is_exclusive(&poll, &listener), Some(false));
}

/// Priority readiness and exclusive wakes do not go together in the kernel.
fn a_refused_change_changes_nothing() {
    let mut poll = Poll::new().unwrap();
    let mut listener = listen(&poll);
    let priority = Interest::READABLE | Interest::PRIORITY;
    poll.registry().reregister(&mut listener, LISTENER, priority).unwrap();
    check_eq("refused", set_exclusive(&listener, true).unwrap_err().kind(), ErrorKind::InvalidInput);
    check_eq("as before", is_exclusive(&poll, &listener), Some(false));

    poll.registry().reregister(&mut listener, LISTENER, Interest::READABLE).unwrap();
    set_exclusive(&listener, true).unwrap();
    let refused = poll.registry().reregister(&mut listener, Token(9), priority).unwrap_err();
    check_eq("refused", refused.kind(), ErrorKind::InvalidInput);
    check_eq("as before", is_exclusive(&poll, &listener), Some(true));
    let _connection = connect(&listener);
    check_eq("with its token", polled(&mut poll, LONG), vec![LISTENER]);
}

/// A connection that only a process was told of which has ended: the other one finds it when it looks again.
fn what_the_dead_was_told() {
    let mut poll = Poll::new().unwrap();
    let listener = listen(&poll);
    set_exclusive(&listener, true).unwrap();
    mute(&listener).unwrap();
    let turn = Turn::new().unwrap();
    let child = fork_child(|| {
        let tokens = polled(&mut poll, LONG);
        check_eq("the child is told", tokens, vec![LISTENER]);
        // It ends without accepting.
        turn.give();
        0
    });
    wait_until_asleep(&[child]);
    // Its queue is behind the first one's among those to be told.
    let waiting = fork_child(|| {
        turn.wait();
        check_eq("what the others are told", polled(&mut poll, Some(Duration::ZERO)), vec![]);
        rearm_exclusive().unwrap();
        check_eq("after looking again", polled(&mut poll, LONG), vec![LISTENER]);
        0
    });
    let _connection = connect(&listener);
    check_eq("the status of the one that was told", reap(child), 0);
    check_eq("the status of the other one", reap(waiting), 0);
}
