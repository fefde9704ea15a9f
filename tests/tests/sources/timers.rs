//! Timers in parent and child.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::time::Duration;

use forkio_tests::reactor::*;

use crate::{CLOCKS, HOUR, MILLIS, check_blocked, with_timer};

/// The unit of a `Duration`.
const NANO: Duration = Duration::from_nanos(1);

/// How often a timer has expired by `now`.
fn expired(now: Duration, first: Duration, period: Duration) -> u64 {
    now.checked_sub(first).map_or(0, |passed| (passed.as_nanos() / period.as_nanos()) as u64 + 1)
}

/// Takes expirations until the total, which begins with `taken`, includes all expirations up to now. Returns the total.
fn take_all(timer: &mut Timer, mut taken: u64, first: Duration, period: Duration) -> u64 {
    let least = expired(timer.clock().now(), first, period);
    // The kernel may be a moment late.
    wait_until("every expiration has come", || {
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

scenarios!(
    /// A timer that is armed at the fork expires once in each process, when its remaining time is over.
    fn expires_once() {
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
                    check_eq("the event", wait(&mut selector), tokens([1]));
                    assert!(clock.now() >= deadline, "too early");
                    check_eq("expirations", timer.expirations().unwrap(), 1);
                    check_silent("a second expiration", &mut selector);
                    check_blocked("a second expiration", timer.expirations());
                    check_eq("remaining", timer.remaining(), None);
                });
            }
        }
    }

    /// A periodic timer keeps its period and its phase in the child, expiration by expiration.
    fn keeps_phase() {
        const PERIOD: Duration = Duration::from_millis(15);
        for clock in CLOCKS {
            let (mut selector, mut timer) = with_timer(clock);
            let first = clock.now() + 5 * MILLIS;
            timer.set_at(first, Some(PERIOD)).unwrap();
            let mut taken = 0;
            let mut take = |until: u64| {
                while taken < until {
                    check_eq("the event", wait(&mut selector), tokens([1]));
                    taken = take_all(&mut timer, taken, first, PERIOD);
                    let (before, left, after) = (clock.now(), timer.remaining().unwrap(), clock.now());
                    let between = expired(after + left, first, PERIOD) - expired(before + left - NANO, first, PERIOD);
                    assert!(between > 0, "{left:?} left at {before:?}..{after:?}: no expiration since {first:?} fits");
                }
            };
            take(2);
            in_both(&mut || take(6));
        }
    }

    /// Expirations that the parent has not taken before the fork can be taken in each process, and an event announces
    /// them.
    fn untaken_expirations() {
        for clock in CLOCKS {
            let (mut selector, mut timer) = with_timer(clock);
            timer.set_at(clock.now() - MILLIS, None).unwrap();
            check_eq("the event", wait(&mut selector), tokens([1]));
            in_both(&mut || {
                // The parent had its event before the fork.
                if fork::generation() == 1 {
                    check_eq("the event", wait(&mut selector), tokens([1]));
                }
                check_eq("expirations", timer.expirations().unwrap(), 1);
                check_blocked("a second expiration", timer.expirations());
            });

            // The monotonic clock of a system that has just booted shows less than an hour.
            let period = HOUR.min(clock.now() / 12);
            timer.set_at(clock.now() - 10 * period - period / 2, Some(period)).unwrap();
            let (to_parent, to_child) = Turn::both_ways();
            let child = fork_child(|| {
                check_eq("the child's event", wait(&mut selector), tokens([1]));
                check_eq("in the child", timer.expirations().unwrap(), 11);
                check_blocked("more expirations", timer.expirations());
                to_parent.give();
                to_child.wait();
                check_blocked("the parent's expirations", timer.expirations());
            });
            to_parent.wait();
            check_eq("the parent's event", wait(&mut selector), tokens([1]));
            check_eq("in the parent", timer.expirations().unwrap(), 11);
            to_child.give();
            reap(child);
        }
    }

    /// Expirations that the parent has taken before the fork do not come again.
    fn taken_expirations() {
        const PERIOD: Duration = Duration::from_millis(4);
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        timer.set_after(Duration::ZERO, None).unwrap();
        wait(&mut selector);
        check_eq("taken", timer.expirations().unwrap(), 1);
        in_both(&mut || {
            check_silent("expired", &mut selector);
            check_blocked("expired", timer.expirations());
        });

        let first = Clock::Monotonic.now();
        timer.set_at(first, Some(PERIOD)).unwrap();
        let mut taken = 0;
        for _ in 0..10 {
            wait(&mut selector);
            taken = take_all(&mut timer, taken, first, PERIOD);
            // In some rounds, an expiration is pending at the fork.
            if taken.is_multiple_of(2) {
                wait(&mut selector);
            }
            in_both(&mut || {
                let now = take_all(&mut timer, taken, first, PERIOD);
                wait(&mut selector);
                taken = take_all(&mut timer, now, first, PERIOD);
            });
        }
    }

    /// Setting or disarming a timer in one process does not change the other process's timer.
    fn set_in_one_process() {
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        timer.set_after(50 * MILLIS, None).unwrap();
        let turn = Turn::new();
        let child = fork_child(|| {
            timer.disarm().unwrap();
            turn.wait();
            check_eq("disarmed", ready(&mut selector), tokens([]));
            timer.set_after(MILLIS, None).unwrap();
            check_eq("the child's event", wait(&mut selector), tokens([1]));
            check_eq("the child's expirations", timer.expirations().unwrap(), 1);
        });
        check_eq("the parent's event", wait(&mut selector), tokens([1]));
        check_eq("the parent's expirations", timer.expirations().unwrap(), 1);
        turn.give();
        reap(child);
        check_silent("the child's timer", &mut selector);

        timer.set_after(30 * MILLIS, None).unwrap();
        let child = fork_child(|| {
            turn.wait();
            check_eq("the child's event", wait(&mut selector), tokens([1]));
            check_eq("the child's expirations", timer.expirations().unwrap(), 1);
        });
        timer.set_after(HOUR, None).unwrap();
        turn.give();
        reap(child);
        check_eq("no event of the child's timer", ready(&mut selector), tokens([]));
        assert!(timer.remaining().unwrap() > HOUR / 2);
    }

    /// A periodic and a one-shot timer expire in each of the generations 0 to 5.
    fn six_generations() {
        const PERIOD: Duration = Duration::from_millis(20);
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        let mut once = registered(selector.registry(), Timer::new(Clock::Realtime).unwrap(), 2);
        let first = Clock::Monotonic.now();
        timer.set_at(first, Some(PERIOD)).unwrap();
        once.set_after(150 * MILLIS, None).unwrap();
        let mut taken = 0;
        let mut children = Vec::new();
        for generation in 1..=5 {
            if let Some(child) = fork() {
                children.push(child);
                break;
            }
            check_eq("generation", fork::generation(), generation);
            taken = take_all(&mut timer, taken, first, PERIOD);
        }
        let mut seen = BTreeSet::new();
        while taken < 9 || !seen.contains(&2) {
            seen.append(&mut wait(&mut selector));
            taken = take_all(&mut timer, taken, first, PERIOD);
        }
        check_eq("the single timer", once.expirations().unwrap(), 1);
        children.into_iter().for_each(reap);
    }

    /// A timer that is disarmed at the fork can be set in each process.
    fn disarmed() {
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        timer.set_after(Duration::ZERO, Some(MILLIS)).unwrap();
        wait(&mut selector);
        timer.disarm().unwrap();
        in_both(&mut || {
            check_silent("disarmed", &mut selector);
            check_blocked("disarmed", timer.expirations());
            timer.set_after(MILLIS, None).unwrap();
            check_eq("set later", wait(&mut selector), tokens([1]));
            check_eq("set later", timer.expirations().unwrap(), 1);
        });
    }

    /// A timer that is not registered at the fork is private too. Each process can register it with a new selector, and with
    /// one from before the fork.
    fn not_registered() {
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
        let selector = Poll::new().unwrap();
        for selector in [None, Some(selector)] {
            let fd = timer.as_raw_fd();
            let mut take = || {
                let mut own = Poll::new().unwrap();
                let registry = selector.as_ref().unwrap_or(&own).registry().try_clone().unwrap();
                check_eq("the descriptor", timer.as_raw_fd(), fd);
                // SAFETY: no memory is involved.
                check_eq("close-on-exec", unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC);
                register(&registry, &mut timer, 1);
                registry.deregister(&mut timer).unwrap();
                register(own.registry(), &mut timer, 2);
                check_eq("pending", wait(&mut own), tokens([2]));
                check_eq("expirations", timer.expirations().unwrap(), 1);
                own.registry().deregister(&mut timer).unwrap();
            };
            // The parent can still take the expirations that the child has taken.
            in_child(&mut take);
            take();
            timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
            in_child(|| timer.disarm().unwrap());
            wait_until("the timer expires in the parent", || timer.expirations().is_ok());
            timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
        }
    }

    /// A timer that is registered as a source in one selector, and by its descriptor in another one, is renewed once.
    fn in_two_selectors() {
        for policy in [ForkPolicy::Renew, ForkPolicy::Inherit] {
            let (mut first, mut timer) = with_timer(Clock::Monotonic);
            let mut second = Poll::new().unwrap();
            let fd = timer.as_raw_fd();
            register_with(second.registry(), &mut SourceFd(&fd), 2, policy);
            timer.set_after(20 * MILLIS, None).unwrap();
            let turn = Turn::new();
            let child = fork_child(|| {
                check_eq("in the first", wait(&mut first), tokens([1]));
                check_eq("in the second", wait(&mut second), tokens([2]));
                check_eq("expirations", timer.expirations().unwrap(), 1);
                turn.give();
            });
            turn.wait();
            check_eq("in the first", wait(&mut first), tokens([1]));
            check_eq("in the second", wait(&mut second), tokens([2]));
            // The timer is renewed even if the second selector inherits it, because both selectors watch the same descriptor.
            check_eq("expirations", timer.expirations().unwrap(), 1);
            reap(child);
        }
    }
);
