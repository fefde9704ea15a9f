//! `Poll` and `Registry`.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{mem, ptr, thread};

use super::util::{BOTH, LIMIT, Loop, READ, WRITE, assert_kind, assert_would_block, is_cloexec, without_children};
use crate::mio::event::Event;
use crate::mio::net::{UdpSocket, UnixStream};
use crate::mio::unix::{SourceFd, pipe};
use crate::mio::{Events, Poll, Registry, Token};

#[test]
fn without_sources_a_timeout_passes() {
    let mut run = Loop::new();
    let start = Instant::now();
    run.poll.poll(&mut run.events, Some(Duration::ZERO)).unwrap();
    assert!(run.events.is_empty() && start.elapsed() < LIMIT);
}

#[test]
fn timeouts_are_rounded_up() {
    let mut run = Loop::new();
    for timeout in [
        Duration::from_nanos(1),
        Duration::from_micros(1),
        Duration::from_nanos(999_999),
        Duration::from_millis(1),
        Duration::from_micros(1_500),
        Duration::from_millis(20),
    ] {
        let start = Instant::now();
        run.poll.poll(&mut run.events, Some(timeout)).unwrap();
        let elapsed = start.elapsed();
        assert!(run.events.is_empty());
        assert!(elapsed >= timeout && elapsed < LIMIT, "{timeout:?} took {elapsed:?}");
    }
}

#[test]
fn the_longest_timeout_is_accepted() {
    let mut run = Loop::new();
    let (mut sender, _receiver) = pipe::new().unwrap();
    run.register(&mut sender, 0, WRITE);
    run.poll.poll(&mut run.events, Some(Duration::MAX)).unwrap();
    assert_eq!(run.events.iter().count(), 1);
}

#[test]
fn no_timeout_waits_for_an_event() {
    let mut run = Loop::new();
    let (mut sender, mut receiver) = pipe::new().unwrap();
    run.register(&mut receiver, 4, READ);
    let thread = thread::spawn(move || {
        sender.write_all(b"x").unwrap();
        sender
    });
    run.poll.poll(&mut run.events, None).unwrap();
    let events: Vec<_> = run.events.iter().map(|event| (event.token(), event.is_readable())).collect();
    assert_eq!(events, [(Token(4), true)]);
    thread.join().unwrap();
}

#[test]
fn a_signal_interrupts() {
    extern "C" fn ignore(_: libc::c_int) {}

    // SAFETY: the handler does nothing; an all-zero `sigaction` is a valid one without flags.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &action, ptr::null_mut()), 0);
    }
    let thread = thread::spawn(|| {
        let mut run = Loop::new();
        run.poll.poll(&mut run.events, Some(LIMIT))
    });
    while !thread.is_finished() {
        // Repeats the signal, because the thread may not be in the system call yet.
        // SAFETY: the thread has not been joined, so its handle is valid.
        assert_eq!(unsafe { libc::pthread_kill(thread.as_pthread_t() as _, libc::SIGUSR2) }, 0);
        thread::sleep(Duration::from_millis(1));
    }
    assert_kind(thread.join().unwrap(), ErrorKind::Interrupted);
}

#[test]
fn events_beyond_the_capacity_come_next() {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(2);
    let mut pipes: Vec<_> = (0..5).map(|_| pipe::new().unwrap()).collect();
    for (token, (sender, _)) in pipes.iter_mut().enumerate() {
        poll.registry().register(sender, Token(token), WRITE).unwrap();
    }
    let mut seen = HashSet::new();
    for expected in [2, 2, 1, 0] {
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), expected);
        seen.extend(events.iter().map(Event::token));
    }
    assert_eq!(seen.len(), 5);
    assert_eq!(events.capacity(), 2);
}

#[test]
fn readiness_is_edge_triggered() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    run.register(&mut a, 0, READ);
    run.expect_nothing();
    b.write_all(b"one").unwrap();
    run.expect(0, Event::is_readable);
    // The data is unread, but nothing has changed.
    run.expect_nothing();

    let mut buf = [0; 8];
    assert_eq!(a.read(&mut buf).unwrap(), 3);
    assert_would_block(a.read(&mut buf));
    run.expect_nothing();
    b.write_all(b"two").unwrap();
    run.expect(0, Event::is_readable);
}

#[test]
fn readiness_before_registration_counts() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    b.write_all(b"x").unwrap();
    run.register(&mut a, 0, READ);
    run.expect(0, Event::is_readable);
}

#[test]
fn only_readiness_of_interest_is_reported() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    // The stream is writable from the start.
    run.register(&mut a, 0, READ);
    run.expect_nothing();
    run.poll.registry().reregister(&mut a, Token(0), WRITE).unwrap();
    run.expect(0, |event| event.is_writable() && !event.is_readable());
    b.write_all(b"x").unwrap();
    run.expect_nothing();
    run.poll.registry().reregister(&mut a, Token(0), BOTH).unwrap();
    run.expect(0, Event::is_readable);
}

#[test]
fn reregister_changes_the_token_and_arms_again() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    run.register(&mut a, 1, READ);
    b.write_all(b"x").unwrap();
    run.expect(1, Event::is_readable);
    run.expect_nothing();
    run.poll.registry().reregister(&mut a, Token(2), READ).unwrap();
    run.poll.poll(&mut run.events, None).unwrap();
    assert_eq!(run.events.iter().map(Event::token).collect::<Vec<_>>(), [Token(2)]);
}

#[test]
fn deregister_ends_events() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    run.register(&mut a, 0, READ);
    b.write_all(b"x").unwrap();
    // This drops events that no poll has returned yet, too.
    run.poll.registry().deregister(&mut a).unwrap();
    run.expect_nothing();
    b.write_all(b"x").unwrap();
    run.expect_nothing();
    // The data still gives an event to another registration, with this or another selector.
    run.register(&mut a, 1, READ);
    run.expect(1, Event::is_readable);
    run.poll.registry().deregister(&mut a).unwrap();
    let mut other = Loop::new();
    other.register(&mut a, 2, READ);
    other.expect(2, Event::is_readable);
}

#[test]
fn a_dropped_source_gives_no_events() {
    let _guard = without_children();
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    run.register(&mut a, 0, READ);
    b.write_all(b"x").unwrap();
    drop(a);
    run.expect_nothing();
    // The descriptor is free for another source.
    let (mut a, mut b) = UnixStream::pair().unwrap();
    run.register(&mut a, 1, READ);
    run.register(&mut b, 2, READ);
    b.write_all(b"x").unwrap();
    run.expect(1, Event::is_readable);
}

#[test]
fn a_source_converted_to_std_keeps_its_registration() {
    let mut run = Loop::new();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    run.register(&mut a, 3, READ);
    let std = std::os::unix::net::UnixStream::from(a);
    b.write_all(b"x").unwrap();
    run.expect(3, Event::is_readable);
    run.poll.registry().deregister(&mut SourceFd(&std.as_raw_fd())).unwrap();
}

#[test]
fn a_cloned_registry_is_the_same_selector() {
    let mut run = Loop::new();
    let clone = run.poll.registry().try_clone().unwrap();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    clone.register(&mut a, Token(0), READ).unwrap();
    b.write_all(b"x").unwrap();
    run.expect(0, Event::is_readable);
    assert_kind(run.poll.registry().register(&mut a, Token(1), READ), ErrorKind::AlreadyExists);
    run.poll.registry().reregister(&mut a, Token(2), READ).unwrap();
    clone.deregister(&mut a).unwrap();
    run.expect_nothing();
    // The clone outlives the poll.
    drop(run);
    clone.register(&mut a, Token(0), READ).unwrap();
    clone.deregister(&mut a).unwrap();
}

/// Checks the errors of debug builds. Each check has its own source, because in mio a failed call changes which selector a
/// source belongs to.
#[test]
fn a_source_belongs_to_one_selector() {
    #[track_caller]
    fn check(call: impl FnOnce(&Registry, &mut UdpSocket) -> io::Result<()>, kind: ErrorKind, text: &str) {
        let (first, second) = (Loop::new(), Loop::new());
        let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        first.poll.registry().register(&mut socket, Token(1), READ).unwrap();
        let error = call(second.poll.registry(), &mut socket).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
    }

    if cfg!(debug_assertions) {
        let registered = "I/O source already registered with a `Registry`";
        check(|second, socket| second.register(socket, Token(1), READ), ErrorKind::AlreadyExists, registered);
        let elsewhere = "I/O source already registered with a different `Registry`";
        check(|second, socket| second.reregister(socket, Token(1), READ), ErrorKind::AlreadyExists, elsewhere);
        let unregistered = "I/O source not registered with `Registry`";
        check(|second, socket| second.deregister(socket), ErrorKind::NotFound, unregistered);
    }
}

#[test]
fn a_source_may_be_registered_while_another_thread_polls() {
    let mut run = Loop::new();
    let registry = run.poll.registry().try_clone().unwrap();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        sender.send(()).unwrap();
        run.expect(9, Event::is_writable);
    });
    receiver.recv().unwrap();
    let (mut sender, _receiver) = pipe::new().unwrap();
    registry.register(&mut sender, Token(9), WRITE).unwrap();
    thread.join().unwrap();
}

#[test]
fn descriptors_of_a_selector() {
    let run = Loop::new();
    let registry = run.poll.registry();
    assert_eq!(run.poll.as_raw_fd(), registry.as_raw_fd());
    assert_eq!(registry.as_fd().as_raw_fd(), registry.as_raw_fd());
    assert!(is_cloexec(registry));
    assert!(is_cloexec(&registry.try_clone().unwrap()));
}

#[test]
fn a_selector_can_be_registered_with_another() {
    let mut inner = Loop::new();
    let mut outer = Loop::new();
    let (mut sender, mut receiver) = pipe::new().unwrap();
    inner.register(&mut receiver, 1, READ);
    outer.register(&mut SourceFd(&inner.poll.as_raw_fd()), 2, READ);
    outer.expect_nothing();
    sender.write_all(b"x").unwrap();
    outer.expect(2, Event::is_readable);
    inner.expect(1, Event::is_readable);
}

#[test]
fn debug_says_the_type_only() {
    let run = Loop::new();
    assert_eq!(format!("{:?}", run.poll), "Poll");
    assert_eq!(format!("{:?}", run.poll.registry()), "Registry");
}
