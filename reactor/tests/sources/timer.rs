//! `unix::Timer`.

use std::io::ErrorKind;
use std::time::{Duration, Instant, SystemTime};

use static_assertions::{assert_impl_all, assert_not_impl_any};

use super::util::{Loop, READ, assert_flags, assert_kind, assert_would_block, check_registration, is_cloexec};
use crate::mio::event::{Event, Source};
use crate::mio::unix::{Clock, Timer};

assert_impl_all!(Timer: Source, Send, Sync, Unpin, std::fmt::Debug);
assert_not_impl_any!(Timer: Clone);
assert_impl_all!(Clock: Copy, Eq, std::hash::Hash, std::fmt::Debug);

const CLOCKS: [Clock; 2] = [Clock::Monotonic, Clock::Realtime];
const HOUR: Duration = Duration::from_secs(3600);
const MILLIS: Duration = Duration::from_millis(1);

fn timer() -> Timer {
    Timer::new(Clock::Monotonic).unwrap()
}

#[test]
fn registers() {
    for clock in CLOCKS {
        let mut timer = Timer::new(clock).unwrap();
        assert_eq!(timer.clock(), clock);
        check_registration(&mut timer);
    }
}

#[test]
fn is_close_on_exec() {
    // A kqueue has no blocking mode.
    let check = if cfg!(any(forkio_kqueue, not(target_os = "linux"))) {
        |fd: &_| assert!(is_cloexec(fd))
    } else {
        |fd: &_| assert_flags(fd)
    };
    check(&timer());
}

#[test]
fn expires_once() {
    for clock in CLOCKS {
        let mut run = Loop::new();
        let mut timer = Timer::new(clock).unwrap();
        run.register(&mut timer, 1, READ);
        run.expect_nothing();
        let start = Instant::now();
        timer.set_after(3 * MILLIS, None).unwrap();
        run.expect(1, Event::is_readable);
        // The test's clock and the timer's clock may differ by a rounding error.
        assert!(start.elapsed() + MILLIS / 10 >= 3 * MILLIS, "{:?}", start.elapsed());
        assert_eq!(timer.expirations().unwrap(), 1);
        assert_would_block(timer.expirations());
        assert_eq!(timer.remaining(), None);
        run.expect_nothing();
    }
}

#[test]
fn expires_periodically() {
    let mut run = Loop::new();
    let mut timer = timer();
    run.register(&mut timer, 1, READ);
    let start = Clock::Monotonic.now();
    timer.set_at(start + 2 * MILLIS, Some(5 * MILLIS)).unwrap();
    let mut count = 0;
    while count < 5 {
        run.expect(1, Event::is_readable);
        count += timer.expirations().unwrap();
        let passed = (Clock::Monotonic.now() - start - 2 * MILLIS).as_nanos() / (5 * MILLIS).as_nanos() + 1;
        assert!(u128::from(count) <= passed, "{count} expirations of {passed}");
    }
}

#[test]
fn counts_expirations_that_were_not_taken() {
    for clock in CLOCKS {
        let mut timer = Timer::new(clock).unwrap();
        // The first expiration was ten and a half periods ago, and must not be before the start of the clock. So the
        // period is shorter than an hour if the system booted less than twelve hours ago.
        let period = HOUR.min(clock.now() / 12);
        timer.set_at(clock.now() - 10 * period - period / 2, Some(period)).unwrap();
        let mut run = Loop::new();
        run.register(&mut timer, 1, READ);
        run.expect(1, Event::is_readable);
        assert_eq!(timer.expirations().unwrap(), 11);
        assert_would_block(timer.expirations());
        let remaining = timer.remaining().unwrap();
        assert!(remaining <= period / 2, "{remaining:?}");
    }
}

#[test]
fn a_time_that_has_passed_expires_at_once() {
    let mut run = Loop::new();
    let mut timer = timer();
    run.register(&mut timer, 1, READ);
    for delay in [Duration::ZERO, Duration::from_nanos(1)] {
        timer.set_after(delay, None).unwrap();
        run.expect(1, Event::is_readable);
        assert_eq!(timer.expirations().unwrap(), 1);
    }
    timer.set_at(Duration::ZERO, None).unwrap();
    run.expect(1, Event::is_readable);
    assert_eq!(timer.expirations().unwrap(), 1);
}

#[test]
fn set_again_and_stopped() {
    let mut run = Loop::new();
    let mut timer = timer();
    run.register(&mut timer, 1, READ);
    timer.set_after(Duration::ZERO, Some(MILLIS)).unwrap();
    run.expect(1, Event::is_readable);
    // Setting the timer again discards the expirations that were not taken.
    timer.set_after(HOUR, None).unwrap();
    assert_would_block(timer.expirations());
    let remaining = timer.remaining().unwrap();
    assert!(remaining <= HOUR && remaining > HOUR / 2, "{remaining:?}");
    timer.set_after(MILLIS, None).unwrap();
    run.expect(1, Event::is_readable);
    timer.disarm().unwrap();
    assert_would_block(timer.expirations());
    assert_eq!(timer.remaining(), None);
    timer.disarm().unwrap();
    timer.set_after(Duration::ZERO, None).unwrap();
    run.expect(1, Event::is_readable);
}

#[test]
fn each_registration_gives_an_event_for_pending_expirations() {
    let mut timer = timer();
    timer.set_after(Duration::ZERO, None).unwrap();
    for token in 0..2 {
        let mut run = Loop::new();
        run.register(&mut timer, token, READ);
        run.expect(token, Event::is_readable);
        run.poll.registry().deregister(&mut timer).unwrap();
    }
    assert_eq!(timer.expirations().unwrap(), 1);
}

#[test]
fn times_out_of_range() {
    let mut timer = timer();
    assert_kind(timer.set_after(MILLIS, Some(Duration::ZERO)), ErrorKind::InvalidInput);
    timer.set_after(Duration::MAX, Some(Duration::MAX)).unwrap();
    assert!(timer.remaining().unwrap() > 1_000 * HOUR);
    assert_would_block(timer.expirations());
    timer.set_at(Duration::MAX, None).unwrap();
    assert!(timer.remaining().unwrap() > 1_000 * HOUR);
    assert_would_block(timer.expirations());
}

#[test]
fn the_clocks_are_those_of_the_standard_library() {
    let before = SystemTime::now();
    let shown = SystemTime::UNIX_EPOCH + Clock::Realtime.now();
    assert!(before <= shown && shown <= SystemTime::now());
    let (first, second) = (Clock::Monotonic.now(), Clock::Monotonic.now());
    assert!(first <= second);
}

#[test]
fn a_thousand_timers() {
    let mut run = Loop::new();
    let mut timers: Vec<Timer> = (0..1_000).map(|_| timer()).collect();
    for (token, timer) in timers.iter_mut().enumerate() {
        run.register(timer, token, READ);
        timer.set_after(MILLIS * (token as u32 % 7), None).unwrap();
    }
    let mut left: std::collections::BTreeSet<usize> = (0..timers.len()).collect();
    while !left.is_empty() {
        run.poll_until(Instant::now() + super::util::LIMIT);
        assert!(!run.events.is_empty(), "{} timers did not expire", left.len());
        for event in &run.events {
            let token = event.token().0;
            assert!(left.remove(&token), "{token} expired twice");
            assert_eq!(timers[token].expirations().unwrap(), 1);
        }
    }
}
