//! Policies of timers, and timers that are created, expire or are dropped during a fork.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::time::Duration;

use forkio_tests::reactor::*;

use crate::{CLOCKS, HOUR, MILLIS, check_blocked, with_timer};

scenarios!(
    /// A timer follows each policy, and can be muted.
    fn policies() {
        let selector_and_timer = |policy| {
            let (mut selector, mut timer) = (Poll::new().unwrap(), Timer::new(Clock::Monotonic).unwrap());
            register_with(selector.registry(), &mut timer, 1, policy);
            timer.set_after(Duration::ZERO, Some(HOUR)).unwrap();
            check_eq("the event", wait(&mut selector), tokens([1]));
            (selector, timer)
        };
        check_eq("the default", fork::default_policy(SourceKind::Timer), ForkPolicy::Renew);

        // No-fork: the timer is not registered in the child, but still private.
        let (mut selector, mut timer) = selector_and_timer(ForkPolicy::NoFork);
        in_child(|| {
            check_eq("no registration", registrations().len(), 0);
            check_silent("no event", &mut selector);
            check_eq("expirations", timer.expirations().unwrap(), 1);
            let error = selector.registry().reregister(&mut timer, Token(2), Interest::READABLE).unwrap_err();
            check_eq("reregistering", error.kind(), ErrorKind::NotFound);
            selector.registry().deregister(&mut timer).unwrap();
            register(selector.registry(), &mut timer, 3);
            timer.set_after(Duration::ZERO, None).unwrap();
            check_eq("registered again", wait(&mut selector), tokens([3]));
        });
        check_eq("the parent's expirations", timer.expirations().unwrap(), 1);
        check_eq("the parent has no more", ready(&mut selector), tokens([]));
        timer.set_after(Duration::ZERO, None).unwrap();
        check_eq("the parent's event", wait(&mut selector), tokens([1]));
        // The next child follows the same policy.
        in_both(&mut || check_eq("expirations", timer.expirations().unwrap(), 1));
        drop((selector, timer));

        // Inherit: one timer for both processes, if the system can share one.
        let (mut selector, mut timer) = selector_and_timer(ForkPolicy::Inherit);
        in_child(|| {
            check_eq("inherited", wait(&mut selector), tokens([1]));
            check_eq("expirations", timer.expirations().unwrap(), 1);
        });
        if cfg!(not(epoll)) {
            check_eq("not taken by the child", timer.expirations().unwrap(), 1);
        } else {
            check_blocked("taken by the child", timer.expirations());
        }
        drop((selector, timer));

        // Sever: every call fails in the child.
        let (mut selector, mut timer) = selector_and_timer(ForkPolicy::Sever);
        in_child(|| {
            check_eq("severed", wait(&mut selector), tokens([1]));
            let error = timer.expirations().unwrap_err();
            check_eq("severed", error.kind(), ErrorKind::UnexpectedEof);
            assert!(error.to_string().contains("forked"), "{error}");
            timer.set_after(MILLIS, None).unwrap_err();
        });
        check_eq("the parent's expirations", timer.expirations().unwrap(), 1);
        drop((selector, timer));

        // Muted: armed in the child.
        let (mut selector, mut timer) = selector_and_timer(ForkPolicy::Renew);
        fork::glue::mute(&timer).unwrap();
        in_child(|| check_eq("armed in the child", wait(&mut selector), tokens([1])));
        check_silent("muted", &mut selector);
        check_eq("the parent's expirations", timer.expirations().unwrap(), 1);
    }

    /// A timer that expires between prepare and the fork expires in both processes.
    fn expires_after_prepare() {
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        let deadline = Clock::Monotonic.now() + 20 * MILLIS;
        timer.set_at(deadline, Some(HOUR)).unwrap();
        let prepared = prepare().unwrap();
        check_eq("the event", wait(&mut selector), tokens([1]));
        // SAFETY: this process has one thread, and no signal handlers.
        let side = unsafe { prepared.fork() }.unwrap();
        if side == ForkResult::Child {
            check_eq("the event", wait(&mut selector), tokens([1]));
        }
        check_eq("expirations", timer.expirations().unwrap(), 1);
        if let ForkResult::Parent { child } = side {
            reap(child.cast_signed());
        }
    }

    /// A timer that expires during a fork, at any moment of it, expires once in each process.
    fn expires_at_the_fork() {
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        for round in 0..rounds(300) as u64 {
            timer.set_after(Duration::from_micros(round * 2), None).unwrap();
            in_both(&mut || {
                let mut count = 0;
                while count == 0 {
                    assert!(!wait(&mut selector).is_empty(), "round {round}: no event");
                    count = timer.expirations().unwrap_or(0);
                }
                check_eq("expirations", count, 1);
                check_eq("a second event", ready(&mut selector), tokens([]));
            });
        }
    }

    /// If another file has reused the descriptor of a dropped timer, a fork does not renew that descriptor.
    fn reused_descriptor() {
        let (selector, timer) = with_timer(Clock::Monotonic);
        let fd = timer.as_raw_fd();
        drop(timer);
        let (reader, writer) = std::io::pipe().unwrap();
        assert!([reader.as_raw_fd(), writer.as_raw_fd()].contains(&fd), "the descriptor is not reused");
        in_child(|| {
            check_eq("registrations", registrations().len(), 0);
            std::io::Write::write_all(&mut &writer, b"x").unwrap();
            std::io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
        });
        drop(selector);
    }

    /// If no descriptor is left for a new timer, the error names the timer, and nothing has changed.
    fn descriptor_limit() {
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        timer.set_after(Duration::ZERO, None).unwrap();
        let errors = prepare_with_each_descriptor_limit();
        let objects: Vec<_> = errors.iter().map(|error| error.object()).collect();
        // With kqueue(2), the child creates the timer, so the parent needs no descriptor for it.
        let is_timer = objects.contains(&PrepareObject::Timer(timer.as_raw_fd()));
        assert!(is_timer || cfg!(not(epoll)), "{objects:?}");
        check_eq("the event", wait(&mut selector), tokens([1]));
        check_eq("expirations", timer.expirations().unwrap(), 1);
    }

    /// Between prepare and commit, creating a timer returns an error. Dropping a timer works.
    fn inside_a_fork() {
        let timer = Timer::new(Clock::Monotonic).unwrap();
        let prepared = prepare().unwrap();
        let error = Timer::new(Clock::Monotonic).unwrap_err();
        assert!(error.to_string().contains("between prepare and commit"), "{error}");
        drop(timer);
        prepared.abort();
        Timer::new(Clock::Monotonic).unwrap();
    }

    /// A thread creates, sets, reads and drops timers all the time. No child misses an expiration or has one too many.
    fn threads_with_timers() {
        let (mut selector, mut timer) = with_timer(Clock::Monotonic);
        let descriptors = open_descriptors();
        let other = Poll::new().unwrap();
        let use_timers = || {
            let mut timers: Vec<Timer> = (0..4).map(|_| Timer::new(Clock::Realtime).unwrap()).collect();
            for (token, timer) in timers.iter_mut().enumerate() {
                timer.set_after(Duration::ZERO, (token < 2).then_some(HOUR)).unwrap();
                if token % 2 == 0 {
                    register(other.registry(), timer, token);
                }
            }
            timers[0].disarm().unwrap();
            wait_until("the third timer has expired", || timers[2].expirations().is_ok());
        };
        beside_threads([use_timers], || {
            for _ in 0..rounds(200) {
                timer.set_after(Duration::ZERO, None).unwrap();
                in_child(|| {
                    check_eq("the event", wait(&mut selector), tokens([1]));
                    check_eq("expirations", timer.expirations().unwrap(), 1);
                    exit_now(0);
                });
                wait_until("the timer has expired in the parent", || timer.expirations().is_ok());
            }
        });
        check_eq("registrations", registrations().len(), 1);
        drop(other);
        check_eq("descriptors", open_descriptors(), descriptors);
    }

    /// At least half of a thousand timers have expired at the fork. Each of the thousand expires once in each process.
    fn thousand_timers() {
        const COUNT: usize = 1_000;
        let mut selector = Poll::new().unwrap();
        let mut timers: Vec<Timer> = (0..COUNT).map(|index| Timer::new(CLOCKS[index % 2]).unwrap()).collect();
        for (token, timer) in timers.iter_mut().enumerate() {
            register(selector.registry(), timer, token);
            let delay = if token % 2 == 0 { Duration::ZERO } else { MILLIS * (token as u32 % 100) };
            timer.set_after(delay, None).unwrap();
        }
        in_both(&mut || {
            let mut left: BTreeSet<usize> = (0..COUNT).collect();
            while !left.is_empty() {
                let seen = wait(&mut selector);
                assert!(!seen.is_empty(), "process {}: {} timers did not expire", std::process::id(), left.len());
                for token in seen {
                    assert!(left.remove(&token), "{token} expired twice");
                    check_eq("expirations", timers[token].expirations().unwrap(), 1);
                }
            }
            check_eq("no more", ready(&mut selector), tokens([]));
        });
    }
);
