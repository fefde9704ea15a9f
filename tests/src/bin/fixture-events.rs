//! Scenarios of timers, signals and processes as sources of the bare reactor, across forks.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forkio_reactor::event::Source;
use forkio_reactor::fork::{self, ForkPolicy, ForkResult, PrepareObject, SourceKind, prepare, registrations};
use forkio_reactor::unix::{Clock, Process, Signals, SourceFd, Timer};
use forkio_reactor::{Interest, Poll, Token};
use forkio_tests::reactor::{fork_child, poll, tokens};
use forkio_tests::{TimerClock, Timerfd, Turn, check_eq, fixture_main, open_descriptors, reap, wait_until};

const LONG: Option<Duration> = Some(Duration::from_secs(30));
const SHORT: Option<Duration> = Some(Duration::from_millis(20));
const NOW: Option<Duration> = Some(Duration::ZERO);
const NANO: Duration = Duration::from_nanos(1);
const MILLIS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const CLOCKS: [Clock; 2] = [Clock::Monotonic, Clock::Realtime];

fn main() {
    fixture_main(&[
        ("timer-once", timer_once),
        ("timer-keeps-phase", timer_keeps_phase),
        ("timer-untaken", timer_untaken),
        ("timer-taken", timer_taken),
        ("timer-set-on-one-side", timer_set_on_one_side),
        ("timer-in-grandchildren", timer_in_grandchildren),
        ("timer-policies", timer_policies),
        ("timer-disarmed", timer_disarmed),
        ("timer-not-registered", timer_not_registered),
        ("timer-in-two-selectors", timer_in_two_selectors),
        ("timer-expires-after-prepare", timer_expires_after_prepare),
        ("timer-expires-at-the-fork", timer_expires_at_the_fork),
        ("timer-is-gone", timer_is_gone),
        ("timer-descriptor-limit", timer_descriptor_limit),
        ("timer-inside-a-fork", timer_inside_a_fork),
        ("timers-during-a-fork", timers_during_a_fork),
        ("thousand-timers", thousand_timers),
        ("timerfd", timerfd),
        ("timerfd-untaken", timerfd_untaken),
        ("timerfd-expires-at-the-fork", timerfd_expires_at_the_fork),
        ("timerfd-cancelled-by-the-clock", timerfd_cancelled_by_the_clock),
        ("signals", signals),
        ("signals-pending", signals_pending),
        ("signals-to-the-group", signals_to_the_group),
        ("process", process),
        ("process-inherited", process_inherited),
    ]);
}

/// Forks; both processes run `check`, and the child exits then.
fn in_both(check: &mut dyn FnMut()) {
    let child = fork_child(&mut *check);
    check();
    reap(child);
}

fn register(selector: &Poll, source: &mut impl Source, token: usize) {
    selector.registry().register(source, Token(token), Interest::READABLE).unwrap();
}

/// A selector with a timer in it, token 1.
fn with_timer(clock: Clock) -> (Poll, Timer) {
    let (selector, mut timer) = (Poll::new().unwrap(), Timer::new(clock).unwrap());
    register(&selector, &mut timer, 1);
    (selector, timer)
}

#[track_caller]
fn check_blocked<T: std::fmt::Debug>(what: &str, result: std::io::Result<T>) {
    check_eq(what, result.unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// How often a timer has expired by `now`.
fn expired(now: Duration, first: Duration, period: Duration) -> u64 {
    now.checked_sub(first).map_or(0, |passed| (passed.as_nanos() / period.as_nanos()) as u64 + 1)
}

/// Takes expirations, and checks that with the `taken` ones they are all there were until now.
fn take_all(timer: &mut Timer, mut taken: u64, first: Duration, period: Duration) -> u64 {
    let least = expired(timer.clock().now(), first, period);
    // The kernel may be a moment late.
    wait_until("every expiration is there", || {
        match timer.expirations() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => taken += result.unwrap(),
        }
        taken >= least
    });
    let most = expired(timer.clock().now(), first, period);
    assert!(taken <= most, "process {}: {taken} of {most}", std::process::id());
    taken
}

/// Armed at the fork: it expires once in each process, when the time that remained is over.
fn timer_once() {
    for clock in CLOCKS {
        for relative in [true, false] {
            let (mut selector, mut timer) = with_timer(clock);
            let deadline = clock.now() + 60 * MILLIS;
            if relative {
                timer.set_after(60 * MILLIS, None).unwrap();
            } else {
                timer.set_at(deadline, None).unwrap();
            }
            in_both(&mut || {
                assert!(timer.remaining().is_none_or(|left| left <= 60 * MILLIS));
                check_eq("the event", poll(&mut selector, LONG), tokens([1]));
                assert!(clock.now() >= deadline, "too early");
                check_eq("expirations", timer.expirations().unwrap(), 1);
                check_eq("once", poll(&mut selector, SHORT), tokens([]));
                check_blocked("once", timer.expirations());
                check_eq("remaining", timer.remaining(), None);
            });
        }
    }
}

/// Period and phase are those of the first process, expiration by expiration.
fn timer_keeps_phase() {
    const PERIOD: Duration = Duration::from_millis(15);
    for clock in CLOCKS {
        let (mut selector, mut timer) = with_timer(clock);
        let first = clock.now() + 5 * MILLIS;
        timer.set_at(first, Some(PERIOD)).unwrap();
        let mut taken = 0;
        let mut take = |until: u64| {
            while taken < until {
                check_eq("the event", poll(&mut selector, LONG), tokens([1]));
                taken = take_all(&mut timer, taken, first, PERIOD);
                let (before, left, after) = (clock.now(), timer.remaining().unwrap(), clock.now());
                let between = expired(after + left, first, PERIOD) - expired(before + left - NANO, first, PERIOD);
                assert!(between > 0, "{left:?} do not remain between {before:?} and {after:?}, from {first:?} on");
            }
        };
        take(2);
        in_both(&mut || take(6));
    }
}

/// Expirations that nobody has taken are there to be taken in both, each of them, and an event tells of them.
fn timer_untaken() {
    for clock in CLOCKS {
        let (mut selector, mut timer) = with_timer(clock);
        timer.set_at(clock.now() - MILLIS, None).unwrap();
        check_eq("the event", poll(&mut selector, LONG), tokens([1]));
        in_both(&mut || {
            // The parent has had its event.
            if fork::generation() == 1 {
                check_eq("the event", poll(&mut selector, LONG), tokens([1]));
            }
            check_eq("expirations", timer.expirations().unwrap(), 1);
            check_blocked("once", timer.expirations());
        });

        // A system that was just booted has no hour behind it.
        let period = HOUR.min(clock.now() / 12);
        timer.set_at(clock.now() - 10 * period - period / 2, Some(period)).unwrap();
        let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
        let child = fork_child(|| {
            check_eq("the child's event", poll(&mut selector, LONG), tokens([1]));
            check_eq("in the child", timer.expirations().unwrap(), 11);
            check_blocked("all of them", timer.expirations());
            to_parent.give();
            to_child.wait();
            check_blocked("the parent's give none", timer.expirations());
        });
        to_parent.wait();
        check_eq("the parent's event", poll(&mut selector, LONG), tokens([1]));
        check_eq("in the parent", timer.expirations().unwrap(), 11);
        to_child.give();
        reap(child);
    }
}

/// What was taken before the fork does not come again.
fn timer_taken() {
    const PERIOD: Duration = Duration::from_millis(4);
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    timer.set_after(Duration::ZERO, None).unwrap();
    poll(&mut selector, LONG);
    check_eq("taken", timer.expirations().unwrap(), 1);
    in_both(&mut || {
        check_eq("expired", poll(&mut selector, SHORT), tokens([]));
        check_blocked("expired", timer.expirations());
    });

    let first = Clock::Monotonic.now();
    timer.set_at(first, Some(PERIOD)).unwrap();
    let mut taken = 0;
    for _ in 0..10 {
        poll(&mut selector, LONG);
        taken = take_all(&mut timer, taken, first, PERIOD);
        // Some forks find an expiration that nobody has taken.
        if taken.is_multiple_of(2) {
            poll(&mut selector, LONG);
        }
        in_both(&mut || {
            let now = take_all(&mut timer, taken, first, PERIOD);
            poll(&mut selector, LONG);
            taken = take_all(&mut timer, now, first, PERIOD);
        });
    }
}

fn timer_set_on_one_side() {
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    timer.set_after(50 * MILLIS, None).unwrap();
    let turn = Turn::new().unwrap();
    let child = fork_child(|| {
        timer.disarm().unwrap();
        turn.wait();
        check_eq("disarmed", poll(&mut selector, NOW), tokens([]));
        timer.set_after(MILLIS, None).unwrap();
        check_eq("the child's", poll(&mut selector, LONG), tokens([1]));
        check_eq("the child's", timer.expirations().unwrap(), 1);
    });
    check_eq("the parent's", poll(&mut selector, LONG), tokens([1]));
    check_eq("the parent's", timer.expirations().unwrap(), 1);
    turn.give();
    reap(child);
    check_eq("the parent's", poll(&mut selector, SHORT), tokens([]));

    timer.set_after(30 * MILLIS, None).unwrap();
    let child = fork_child(|| {
        turn.wait();
        check_eq("the child's", poll(&mut selector, LONG), tokens([1]));
        check_eq("the child's", timer.expirations().unwrap(), 1);
    });
    timer.set_after(HOUR, None).unwrap();
    turn.give();
    reap(child);
    check_eq("the parent's", poll(&mut selector, NOW), tokens([]));
    assert!(timer.remaining().unwrap() > HOUR / 2);
}

fn timer_in_grandchildren() {
    const PERIOD: Duration = Duration::from_millis(20);
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    let mut once = Timer::new(Clock::Realtime).unwrap();
    register(&selector, &mut once, 2);
    let first = Clock::Monotonic.now();
    timer.set_at(first, Some(PERIOD)).unwrap();
    once.set_after(150 * MILLIS, None).unwrap();
    let mut taken = 0;
    let mut children = Vec::new();
    for generation in 1..=5 {
        // SAFETY: one thread.
        match unsafe { fork::fork() }.unwrap() {
            ForkResult::Child => {
                check_eq("generation", fork::generation(), generation);
                children.clear();
                taken = take_all(&mut timer, taken, first, PERIOD);
            }
            ForkResult::Parent { child } => {
                children.push(child);
                break;
            }
        }
    }
    let mut seen = BTreeSet::new();
    while taken < 9 || !seen.contains(&2) {
        seen.append(&mut poll(&mut selector, LONG));
        taken = take_all(&mut timer, taken, first, PERIOD);
    }
    check_eq("the other one", once.expirations().unwrap(), 1);
    children.into_iter().for_each(reap);
}

fn timer_policies() {
    let selector_and_timer = |policy| {
        let (mut selector, mut timer) = (Poll::new().unwrap(), Timer::new(Clock::Monotonic).unwrap());
        selector.registry().register_with_policy(&mut timer, Token(1), Interest::READABLE, policy).unwrap();
        timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
        check_eq("the event", poll(&mut selector, LONG), tokens([1]));
        (selector, timer)
    };
    check_eq("the default", fork::default_policy(SourceKind::Timer), ForkPolicy::Renew);

    // Not registered, but the child's own: what it does with it the parent does not feel.
    let (mut selector, mut timer) = selector_and_timer(ForkPolicy::NoFork);
    let child = fork_child(|| {
        check_eq("no registration", registrations().len(), 0);
        check_eq("no event", poll(&mut selector, SHORT), tokens([]));
        check_eq("expirations", timer.expirations().unwrap(), 1);
        let error = selector.registry().reregister(&mut timer, Token(2), Interest::READABLE).unwrap_err();
        check_eq("reregistering", error.kind(), ErrorKind::NotFound);
        selector.registry().deregister(&mut timer).unwrap();
        register(&selector, &mut timer, 3);
        timer.set_after(Duration::ZERO, None).unwrap();
        check_eq("registered anew", poll(&mut selector, LONG), tokens([3]));
    });
    reap(child);
    check_eq("the parent's", timer.expirations().unwrap(), 1);
    check_eq("the parent has no more", poll(&mut selector, NOW), tokens([]));
    timer.set_after(Duration::ZERO, None).unwrap();
    check_eq("the parent's", poll(&mut selector, LONG), tokens([1]));
    // Its child inherits the tag.
    in_both(&mut || check_eq("expirations", timer.expirations().unwrap(), 1));
    drop((selector, timer));

    // One timer for both, where processes can share one.
    let (mut selector, mut timer) = selector_and_timer(ForkPolicy::Inherit);
    let child = fork_child(|| {
        check_eq("inherited", poll(&mut selector, LONG), tokens([1]));
        check_eq("expirations", timer.expirations().unwrap(), 1);
    });
    reap(child);
    if cfg!(not(epoll)) {
        check_eq("not taken by the child", timer.expirations().unwrap(), 1);
    } else {
        check_blocked("taken by the child", timer.expirations());
    }
    drop((selector, timer));

    let (mut selector, mut timer) = selector_and_timer(ForkPolicy::Sever);
    let child = fork_child(|| {
        check_eq("severed", poll(&mut selector, LONG), tokens([1]));
        let error = timer.expirations().unwrap_err();
        check_eq("severed", error.kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("forked"), "{error}");
        timer.set_after(MILLIS, None).unwrap_err();
    });
    reap(child);
    check_eq("the parent's", timer.expirations().unwrap(), 1);
    drop((selector, timer));

    // Held back in the parent, armed in the child.
    let (mut selector, mut timer) = selector_and_timer(ForkPolicy::Renew);
    fork::mute(&timer).unwrap();
    reap(fork_child(|| check_eq("armed in the child", poll(&mut selector, LONG), tokens([1]))));
    check_eq("muted", poll(&mut selector, SHORT), tokens([]));
    check_eq("the parent's", timer.expirations().unwrap(), 1);
}

fn timer_disarmed() {
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    timer.set_after(Duration::ZERO, Some(MILLIS)).unwrap();
    poll(&mut selector, LONG);
    timer.disarm().unwrap();
    in_both(&mut || {
        check_eq("disarmed", poll(&mut selector, SHORT), tokens([]));
        check_blocked("disarmed", timer.expirations());
        timer.set_after(MILLIS, None).unwrap();
        check_eq("set later", poll(&mut selector, LONG), tokens([1]));
        check_eq("set later", timer.expirations().unwrap(), 1);
    });
}

/// A timer that no selector has is each process's own too, also where there is no selector.
fn timer_not_registered() {
    let mut timer = Timer::new(Clock::Monotonic).unwrap();
    timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
    let selector = Poll::new().unwrap();
    for selector in [None, Some(selector)] {
        let number = timer.as_raw_fd();
        let mut take = || {
            let mut own = Poll::new().unwrap();
            let registry = selector.as_ref().unwrap_or(&own).registry().try_clone().unwrap();
            check_eq("the number", timer.as_raw_fd(), number);
            // SAFETY: no memory is involved.
            check_eq("close-on-exec", unsafe { libc::fcntl(number, libc::F_GETFD) }, libc::FD_CLOEXEC);
            registry.register(&mut timer, Token(1), Interest::READABLE).unwrap();
            registry.deregister(&mut timer).unwrap();
            register(&own, &mut timer, 2);
            check_eq("pending", poll(&mut own, LONG), tokens([2]));
            check_eq("expirations", timer.expirations().unwrap(), 1);
            own.registry().deregister(&mut timer).unwrap();
        };
        // One after the other: what the first one takes the second one finds.
        reap(fork_child(&mut take));
        take();
        timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
        reap(fork_child(|| timer.disarm().unwrap()));
        wait_until("it expires here", || timer.expirations().is_ok());
        timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
    }
}

/// Registered as a timer in one selector and by number in another one: one timer, renewed once.
fn timer_in_two_selectors() {
    for policy in [ForkPolicy::Renew, ForkPolicy::Inherit] {
        let (mut first, mut timer) = with_timer(Clock::Monotonic);
        let mut second = Poll::new().unwrap();
        let number = timer.as_raw_fd();
        let registry = second.registry();
        registry.register_with_policy(&mut SourceFd(&number), Token(2), Interest::READABLE, policy).unwrap();
        timer.set_after(20 * MILLIS, None).unwrap();
        let turn = Turn::new().unwrap();
        let child = fork_child(|| {
            check_eq("in the first", poll(&mut first, LONG), tokens([1]));
            check_eq("in the second", poll(&mut second, LONG), tokens([2]));
            check_eq("expirations", timer.expirations().unwrap(), 1);
            turn.give();
        });
        turn.wait();
        check_eq("in the first", poll(&mut first, LONG), tokens([1]));
        check_eq("in the second", poll(&mut second, LONG), tokens([2]));
        // Inherited there is renewed here: the number is one.
        check_eq("expirations", timer.expirations().unwrap(), 1);
        reap(child);
    }
}

/// Time passes between prepare and the fork.
fn timer_expires_after_prepare() {
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    let deadline = Clock::Monotonic.now() + 20 * MILLIS;
    timer.set_at(deadline, Some(HOUR)).unwrap();
    let prepared = prepare().unwrap();
    check_eq("the event", poll(&mut selector, LONG), tokens([1]));
    // SAFETY: one thread, and no signal handlers.
    let side = unsafe { prepared.fork() }.unwrap();
    if side == ForkResult::Child {
        check_eq("the event", poll(&mut selector, LONG), tokens([1]));
    }
    check_eq("expirations", timer.expirations().unwrap(), 1);
    if let ForkResult::Parent { child } = side {
        reap(child);
    }
}

/// Wherever in a fork a timer expires, it does once in each process.
fn timer_expires_at_the_fork() {
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    for round in 0..300 {
        timer.set_after(Duration::from_micros(round * 2), None).unwrap();
        in_both(&mut || {
            let mut count = 0;
            while count == 0 {
                assert!(!poll(&mut selector, LONG).is_empty(), "round {round}: no event");
                count = timer.expirations().unwrap_or(0);
            }
            check_eq("expirations", count, 1);
            check_eq("once", poll(&mut selector, NOW), tokens([]));
        });
    }
}

/// A number that was a timer's is something else: nobody makes a timer of it.
fn timer_is_gone() {
    let (selector, timer) = with_timer(Clock::Monotonic);
    let number = timer.as_raw_fd();
    drop(timer);
    let (reader, writer) = std::io::pipe().unwrap();
    assert!([reader.as_raw_fd(), writer.as_raw_fd()].contains(&number), "the number is not used again");
    reap(fork_child(|| {
        check_eq("registrations", registrations().len(), 0);
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        std::io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
    }));
    drop(selector);
}

/// The object that cannot be made is named, and nothing has changed.
fn timer_descriptor_limit() {
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    timer.set_after(Duration::ZERO, None).unwrap();
    let before = open_descriptors();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`.
    check_eq("getrlimit", unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    let mut objects = Vec::new();
    for highest in 0.. {
        let set = |current| {
            let limit = libc::rlimit { rlim_cur: current, ..limit };
            // SAFETY: the kernel reads `limit`.
            check_eq("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        set(highest);
        let result = prepare().map(|prepared| prepared.abort());
        set(limit.rlim_cur);
        check_eq("descriptors", open_descriptors(), before.clone());
        match result {
            Ok(()) => break,
            Err(error) => {
                assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
                objects.push(error.object());
            }
        }
    }
    // A kqueue is made in the child.
    let is_timer = objects.contains(&PrepareObject::Timer(timer.as_raw_fd()));
    assert!(is_timer || cfg!(not(epoll)), "{objects:?}");
    check_eq("the event", poll(&mut selector, LONG), tokens([1]));
    check_eq("expirations", timer.expirations().unwrap(), 1);
}

/// A timer that is made between prepare and the end of the fork would wait for itself; dropping one does not.
fn timer_inside_a_fork() {
    let timer = Timer::new(Clock::Monotonic).unwrap();
    let prepared = prepare().unwrap();
    let error = Timer::new(Clock::Monotonic).unwrap_err();
    assert!(error.to_string().contains("between prepare and commit"), "{error}");
    drop(timer);
    prepared.abort();
    Timer::new(Clock::Monotonic).unwrap();
}

/// Another thread makes, sets, takes and drops timers all the time, registered and not.
fn timers_during_a_fork() {
    let (mut selector, mut timer) = with_timer(Clock::Monotonic);
    let descriptors = open_descriptors();
    let stop = AtomicBool::new(false);
    let other = Poll::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut timers: Vec<Timer> = (0..4).map(|_| Timer::new(Clock::Realtime).unwrap()).collect();
                for (token, timer) in timers.iter_mut().enumerate() {
                    timer.set_after(Duration::ZERO, (token < 2).then_some(HOUR)).unwrap();
                    if token % 2 == 0 {
                        register(&other, timer, token);
                    }
                }
                timers[0].disarm().unwrap();
                wait_until("it has expired", || timers[2].expirations().is_ok());
            }
        });
        for _ in 0..200 {
            timer.set_after(Duration::ZERO, None).unwrap();
            let child = fork_child(|| {
                check_eq("the event", poll(&mut selector, LONG), tokens([1]));
                check_eq("expirations", timer.expirations().unwrap(), 1);
                // SAFETY: ends the process at once; its scope would wait for a thread that is not there.
                unsafe { libc::_exit(0) };
            });
            reap(child);
            wait_until("the parent's", || timer.expirations().is_ok());
        }
        stop.store(true, Ordering::Relaxed);
    });
    check_eq("registrations", registrations().len(), 1);
    drop(other);
    check_eq("descriptors", open_descriptors(), descriptors);
}

/// Half of them have expired at the fork; each process sees every one of them expire once.
fn thousand_timers() {
    const COUNT: usize = 1_000;
    let mut selector = Poll::new().unwrap();
    let mut timers: Vec<Timer> = (0..COUNT).map(|index| Timer::new(CLOCKS[index % 2]).unwrap()).collect();
    for (token, timer) in timers.iter_mut().enumerate() {
        register(&selector, timer, token);
        let delay = if token % 2 == 0 { Duration::ZERO } else { MILLIS * (token as u32 % 100) };
        timer.set_after(delay, None).unwrap();
    }
    in_both(&mut || {
        let mut left: BTreeSet<usize> = (0..COUNT).collect();
        while !left.is_empty() {
            let seen = poll(&mut selector, LONG);
            assert!(!seen.is_empty(), "process {}: {} did not expire", std::process::id(), left.len());
            for token in seen {
                assert!(left.remove(&token), "{token} expired twice");
                check_eq("expirations", timers[token].expirations().unwrap(), 1);
            }
        }
        check_eq("no more", poll(&mut selector, NOW), tokens([]));
    });
}

/// A timerfd that the reactor knows by its number only: its kind is found out, and with it the default: the child's expires after the time that remained.
fn timerfd() {
    for clock in TimerClock::ALL {
        let mut selector = Poll::new().unwrap();
        let Some(blocking) = Timerfd::new(clock, true) else { return };
        let [timer, disarmed, taken] = [(); 3].map(|()| Timerfd::new(clock, false).unwrap());
        for (token, timer) in [&timer, &blocking, &disarmed, &taken].into_iter().enumerate() {
            register(&selector, &mut SourceFd(&timer.as_raw_fd()), token + 1);
        }
        taken.set(Duration::from_nanos(1), Duration::ZERO);
        check_eq("to be taken", poll(&mut selector, LONG), tokens([4]));
        check_eq("taken", taken.take(), 1);
        let start = Clock::Monotonic.now();
        blocking.set(HOUR, Duration::ZERO);
        timer.set(60 * MILLIS, Duration::ZERO);
        in_both(&mut || {
            check_eq("the event", poll(&mut selector, LONG), tokens([1]));
            let passed = Clock::Monotonic.now() - start;
            assert!(passed + Duration::from_micros(100) >= 60 * MILLIS, "too early: {passed:?}");
            check_eq("expirations", timer.take(), 1);
            check_eq("once", poll(&mut selector, SHORT), tokens([]));
            check_eq("disarmed", (disarmed.take(), taken.take()), (0, 0));
            check_eq("the mode", (blocking.blocks(), timer.blocks()), (true, false));
            let kinds: Vec<_> = registrations().iter().map(|registration| registration.kind).collect();
            if fork::generation() == 1 {
                check_eq("kinds", kinds, vec![Some(SourceKind::Timer); 4]);
            }
        });
    }
}

fn timerfd_untaken() {
    for clock in TimerClock::ALL {
        let mut selector = Poll::new().unwrap();
        let (Some(many), Some(once)) = (Timerfd::new(clock, false), Timerfd::new(clock, false)) else { return };
        register(&selector, &mut SourceFd(&many.as_raw_fd()), 1);
        register(&selector, &mut SourceFd(&once.as_raw_fd()), 2);
        let now = match clock {
            TimerClock::Realtime => Clock::Realtime.now(),
            TimerClock::Monotonic | TimerClock::Boottime => Clock::Monotonic.now(),
        };
        let period = HOUR.min(now / 12);
        many.set_at(now - 10 * period - period / 2, period);
        once.set(Duration::from_nanos(1), Duration::ZERO);
        let mut seen = BTreeSet::new();
        while seen.len() < 2 {
            seen.append(&mut poll(&mut selector, LONG));
        }
        for _ in 0..2 {
            reap(fork_child(|| {
                let mut seen = BTreeSet::new();
                while seen.len() < 2 {
                    seen.append(&mut poll(&mut selector, LONG));
                }
                check_eq("in the child", (many.take(), once.take()), (11, 1));
                check_eq("all of them", (many.take(), once.take()), (0, 0));
                // And on, in a child of its own.
                reap(fork_child(|| check_eq("in the grandchild", (many.take(), once.take()), (0, 0))));
            }));
        }
        check_eq("in the parent", (many.take(), once.take()), (11, 1));
    }
}

fn timerfd_expires_at_the_fork() {
    let mut selector = Poll::new().unwrap();
    let Some(timer) = Timerfd::new(TimerClock::Monotonic, false) else { return };
    register(&selector, &mut SourceFd(&timer.as_raw_fd()), 1);
    for round in 0..300 {
        timer.set(Duration::from_micros(round * 2 + 1), Duration::ZERO);
        in_both(&mut || {
            let mut count = 0;
            while count == 0 {
                assert!(!poll(&mut selector, LONG).is_empty(), "round {round}: no event");
                count = timer.take();
            }
            check_eq("expirations", count, 1);
            check_eq("once", poll(&mut selector, NOW), tokens([]));
        });
    }
}

/// A timer that is to be told when the clock is set goes on to be so: that is one of its flags.
fn timerfd_cancelled_by_the_clock() {
    let selector = Poll::new().unwrap();
    let Some(timer) = Timerfd::new(TimerClock::Realtime, false) else { return };
    register(&selector, &mut SourceFd(&timer.as_raw_fd()), 1);
    timer.set_until_clock_is_set(Clock::Realtime.now() + HOUR);
    let mut check = || {
        assert!(timer.is_until_clock_is_set());
        check_eq("not expired", timer.take(), 0);
    };
    check();
    in_both(&mut check);
}

fn send(pid: i32, signal: i32) {
    // SAFETY: no memory is involved.
    check_eq("kill", unsafe { libc::kill(pid, signal) }, 0);
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// Each process receives what is sent to it, and only that.
fn signals() {
    check_eq("the default", fork::default_policy(SourceKind::Signal), ForkPolicy::Inherit);
    let mut selector = Poll::new().unwrap();
    let mut signals = Signals::new([libc::SIGUSR1, libc::SIGUSR2]).unwrap();
    register(&selector, &mut signals, 1);
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let parent = own_pid();
    let child = fork_child(|| {
        check_eq("the child's", poll(&mut selector, LONG), tokens([1]));
        let received = signals.receive().unwrap();
        check_eq("from the parent", received.sender(), Some(parent.cast_unsigned()));
        check_eq("its number", received.signal(), libc::SIGUSR1);
        check_blocked("one", signals.receive());
        to_parent.give();
        to_child.wait();
        // The parent was sent one meanwhile.
        check_eq("nothing", poll(&mut selector, NOW), tokens([]));
        check_blocked("nothing", signals.receive());
        send(parent, libc::SIGUSR1);
    });
    send(child, libc::SIGUSR1);
    to_parent.wait();
    check_eq("nothing", poll(&mut selector, NOW), tokens([]));
    check_blocked("nothing", signals.receive());
    send(parent, libc::SIGUSR2);
    check_eq("the parent's", poll(&mut selector, LONG), tokens([1]));
    check_eq("its number", signals.receive().unwrap().signal(), libc::SIGUSR2);
    to_child.give();
    reap(child);
    check_eq("the child's to the parent", poll(&mut selector, LONG), tokens([1]));
    check_eq("from the child", signals.receive().unwrap().sender(), Some(child.cast_unsigned()));

    // Left out of the child, where it can be registered anew.
    fork::set_policy(&signals, ForkPolicy::NoFork).unwrap();
    reap(fork_child(|| {
        send(own_pid(), libc::SIGUSR1);
        check_eq("not registered", poll(&mut selector, SHORT), tokens([]));
        selector.registry().deregister(&mut signals).unwrap();
        register(&selector, &mut signals, 2);
        check_eq("registered anew", poll(&mut selector, LONG), tokens([2]));
        signals.receive().unwrap();
    }));
    check_eq("nothing", poll(&mut selector, NOW), tokens([]));
}

/// A signal that is pending at the fork is the parent's alone.
fn signals_pending() {
    let mut selector = Poll::new().unwrap();
    let mut signals = Signals::new([libc::SIGUSR1]).unwrap();
    register(&selector, &mut signals, 1);
    send(own_pid(), libc::SIGUSR1);
    let child = fork_child(|| {
        check_eq("not pending", poll(&mut selector, SHORT), tokens([]));
        check_blocked("not pending", signals.receive());
        send(own_pid(), libc::SIGUSR1);
        check_eq("its own", poll(&mut selector, LONG), tokens([1]));
        signals.receive().unwrap();
        check_blocked("one", signals.receive());
    });
    reap(child);
    check_eq("pending", poll(&mut selector, LONG), tokens([1]));
    check_eq("from itself", signals.receive().unwrap().sender(), Some(std::process::id()));
    check_blocked("one", signals.receive());
}

fn signals_to_the_group() {
    let mut selector = Poll::new().unwrap();
    let mut signals = Signals::new([libc::SIGUSR1]).unwrap();
    register(&selector, &mut signals, 1);
    let parent = own_pid();
    let turn = Turn::new().unwrap();
    in_both(&mut || {
        if own_pid() == parent {
            turn.wait();
            send(0, libc::SIGUSR1);
        } else {
            turn.give();
        }
        check_eq("received", poll(&mut selector, LONG), tokens([1]));
        check_eq("sender", signals.receive().unwrap().sender(), Some(parent.cast_unsigned()));
        check_blocked("one", signals.receive());
    });
}

/// A process that ends with status 7 when it is told to.
fn subject(turn: &Turn) -> i32 {
    fork_child(|| {
        turn.wait();
        std::process::exit(7);
    })
}

/// The watch is the parent's: the child is not told, and has nothing to reap.
fn process() {
    check_eq("the default", fork::default_policy(SourceKind::Process), ForkPolicy::NoFork);
    let mut selector = Poll::new().unwrap();
    let (end, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let watched = subject(&end);
    let mut process = Process::open(watched.cast_unsigned()).unwrap();
    register(&selector, &mut process, 1);
    // By number only, too.
    let number = process.as_raw_fd();
    let mut second = Poll::new().unwrap();
    register(&second, &mut SourceFd(&number), 2);
    let child = fork_child(|| {
        check_eq("registrations", registrations().len(), 0);
        check_eq("waiting", process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        to_child.wait();
        assert!(process.has_ended().unwrap());
        check_eq("no event", poll(&mut selector, SHORT), tokens([]));
        check_eq("no event", poll(&mut second, NOW), tokens([]));
        check_eq("reaping", process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        selector.registry().deregister(&mut process).unwrap();
        // A watch of its own.
        let end = Turn::new().unwrap();
        let mut own = Process::open(subject(&end).cast_unsigned()).unwrap();
        register(&selector, &mut own, 3);
        end.give();
        check_eq("its own child", poll(&mut selector, LONG), tokens([3]));
        check_eq("the status", own.try_wait().unwrap().unwrap().code(), Some(7));
    });
    check_eq("it runs", poll(&mut selector, NOW), tokens([]));
    end.give();
    check_eq("the parent's event", poll(&mut selector, LONG), tokens([1]));
    check_eq("the parent's event", poll(&mut second, LONG), tokens([2]));
    to_child.give();
    reap(child);
    check_eq("the status", process.try_wait().unwrap().unwrap().code(), Some(7));
}

/// Tagged so, both are told; the parent reaps.
fn process_inherited() {
    let mut selector = Poll::new().unwrap();
    let end = Turn::new().unwrap();
    let watched = subject(&end);
    let mut process = Process::open(watched.cast_unsigned()).unwrap();
    register(&selector, &mut process, 1);
    fork::set_policy(&process, ForkPolicy::Inherit).unwrap();
    let child = fork_child(|| {
        check_eq("the child's event", poll(&mut selector, LONG), tokens([1]));
        assert!(process.has_ended().unwrap());
        check_eq("reaping", process.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
    });
    end.give();
    check_eq("the parent's event", poll(&mut selector, LONG), tokens([1]));
    reap(child);
    check_eq("the status", process.try_wait().unwrap().unwrap().code(), Some(7));
}
