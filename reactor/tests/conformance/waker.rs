//! `Waker`.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::util::{LIMIT, Loop};
use crate::mio::event::Event;
use crate::mio::net::UnixStream;
use crate::mio::unix::SourceFd;
use crate::mio::{Events, Interest, Token, Waker};

fn waker(run: &Loop) -> Waker {
    Waker::new(run.poll.registry(), Token(10)).unwrap()
}

#[test]
fn a_wake_before_the_poll_counts() {
    let mut run = Loop::new();
    let waker = waker(&run);
    run.expect_nothing();
    waker.wake().unwrap();
    run.expect(10, |event| event.is_readable() && !event.is_writable());
    run.expect_nothing();
    waker.wake().unwrap();
    run.expect(10, Event::is_readable);
}

#[test]
fn a_wake_from_another_thread() {
    let mut run = Loop::new();
    let waker = Arc::new(waker(&run));
    for _ in 0..100 {
        let waker = Arc::clone(&waker);
        let thread = thread::spawn(move || waker.wake());
        run.poll.poll(&mut run.events, None).unwrap();
        assert_eq!(run.events.iter().map(Event::token).collect::<Vec<_>>(), [Token(10)]);
        thread.join().unwrap().unwrap();
    }
}

#[test]
fn a_wake_before_the_descriptor_is_taken_counts() {
    let (mut inner, mut outer) = (Loop::new(), Loop::new());
    let waker = waker(&inner);
    waker.wake().unwrap();
    outer.register(&mut SourceFd(&inner.poll.as_raw_fd()), 1, Interest::READABLE);
    outer.expect(1, Event::is_readable);
    inner.expect(10, Event::is_readable);
}

#[test]
fn wakes_between_two_polls_are_one_event() {
    let mut run = Loop::new();
    let waker = waker(&run);
    for _ in 0..1000 {
        waker.wake().unwrap();
    }
    run.poll.poll(&mut run.events, None).unwrap();
    assert_eq!(run.events.iter().count(), 1);
    run.expect_nothing();
}

#[test]
fn no_wake_is_lost() {
    const THREADS: usize = 4;
    const WAKES: usize = 5_000;
    let mut run = Loop::new();
    let waker = Arc::new(waker(&run));
    let count = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (waker, count) = (Arc::clone(&waker), Arc::clone(&count));
            thread::spawn(move || {
                for _ in 0..WAKES {
                    // Relaxed on purpose: not this operation but the wake must publish the count.
                    count.fetch_add(1, Ordering::Relaxed);
                    waker.wake().unwrap();
                }
            })
        })
        .collect();
    let deadline = Instant::now() + LIMIT;
    // A wake that is lost leaves the last count unseen, and the poll runs into the limit.
    while count.load(Ordering::Relaxed) < THREADS * WAKES {
        run.poll_until(deadline);
        assert!(!run.events.is_empty(), "a wake was lost");
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_waker_registered_through_a_clone() {
    let mut run = Loop::new();
    let registry = run.poll.registry().try_clone().unwrap();
    let waker = Waker::new(&registry, Token(3)).unwrap();
    waker.wake().unwrap();
    run.expect(3, Event::is_readable);
}

#[test]
fn a_waker_may_outlive_its_poll() {
    let run = Loop::new();
    let waker = waker(&run);
    drop(run);
    waker.wake().unwrap();
    assert!(format!("{waker:?}").starts_with("Waker {"));
}

#[test]
fn a_wake_comes_beside_a_busy_source() {
    let mut run = Loop::new();
    let waker = waker(&run);
    let mut events = Events::with_capacity(1);
    let (mut receiver, sender) = UnixStream::pair().unwrap();
    run.poll.registry().register(&mut receiver, Token(1), Interest::READABLE).unwrap();
    waker.wake().unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        (&sender).write_all(b"x").unwrap();
        run.poll.poll(&mut events, Some(LIMIT)).unwrap();
        seen.extend(events.iter().map(Event::token));
    }
    assert_eq!(seen, BTreeSet::from([Token(1), Token(10)]));
}
