//! Timerfds that the program itself has opened: the reactor knows only their descriptors.

use std::os::fd::AsRawFd;
use std::time::Duration;

use forkio_tests::reactor::*;

use crate::{HOUR, MILLIS};

scenarios!(
    /// The reactor detects that the descriptor is a timer, and renews it with its remaining time and its blocking mode.
    fn expires_once() {
        for clock in TimerClock::ALL {
            let mut selector = Poll::new().unwrap();
            let Some(blocking) = Timerfd::new(clock, true) else { return };
            let [timer, disarmed, taken] = [(); 3].map(|()| Timerfd::new(clock, false).unwrap());
            for (token, timer) in [&timer, &blocking, &disarmed, &taken].into_iter().enumerate() {
                register(selector.registry(), &mut SourceFd(&timer.as_raw_fd()), token + 1);
            }
            taken.set(Duration::from_nanos(1), Duration::ZERO);
            check_eq("to be taken", wait(&mut selector), tokens([4]));
            check_eq("taken", taken.take(), 1);
            let start = Clock::Monotonic.now();
            blocking.set(HOUR, Duration::ZERO);
            timer.set(60 * MILLIS, Duration::ZERO);
            in_both(&mut || {
                check_eq("the event", wait(&mut selector), tokens([1]));
                let passed = Clock::Monotonic.now() - start;
                assert!(passed + Duration::from_micros(100) >= 60 * MILLIS, "too early: {passed:?}");
                check_eq("expirations", timer.take(), 1);
                check_silent("a second expiration", &mut selector);
                check_eq("disarmed", (disarmed.take(), taken.take()), (0, 0));
                check_eq("the mode", (blocking.blocks(), timer.blocks()), (true, false));
                let kinds: Vec<_> = registrations().iter().map(|registration| registration.kind).collect();
                if fork::generation() == 1 {
                    check_eq("kinds", kinds, vec![Some(SourceKind::Timer); 4]);
                }
            });
        }
    }

    /// Expirations that were not read before the fork can be read in each process.
    fn untaken_expirations() {
        for clock in TimerClock::ALL {
            let mut selector = Poll::new().unwrap();
            let (Some(many), Some(once)) = (Timerfd::new(clock, false), Timerfd::new(clock, false)) else { return };
            register(selector.registry(), &mut SourceFd(&many.as_raw_fd()), 1);
            register(selector.registry(), &mut SourceFd(&once.as_raw_fd()), 2);
            let now = match clock {
                TimerClock::Realtime => Clock::Realtime.now(),
                TimerClock::Monotonic | TimerClock::Boottime => Clock::Monotonic.now(),
            };
            let period = HOUR.min(now / 12);
            many.set_at(now - 10 * period - period / 2, period);
            once.set(Duration::from_nanos(1), Duration::ZERO);
            wait_for_all(&mut selector, [1, 2]);
            for _ in 0..2 {
                in_child(|| {
                    wait_for_all(&mut selector, [1, 2]);
                    check_eq("in the child", (many.take(), once.take()), (11, 1));
                    check_eq("more expirations", (many.take(), once.take()), (0, 0));
                    in_child(|| check_eq("in the grandchild", (many.take(), once.take()), (0, 0)));
                });
            }
            check_eq("in the parent", (many.take(), once.take()), (11, 1));
        }
    }

    /// A timerfd that expires at any moment during a fork expires once in each process.
    fn expires_at_the_fork() {
        let mut selector = Poll::new().unwrap();
        let Some(timer) = Timerfd::new(TimerClock::Monotonic, false) else { return };
        register(selector.registry(), &mut SourceFd(&timer.as_raw_fd()), 1);
        for round in 0..rounds(300) as u64 {
            timer.set(Duration::from_micros(round * 2 + 1), Duration::ZERO);
            in_both(&mut || {
                let mut count = 0;
                while count == 0 {
                    assert!(!wait(&mut selector).is_empty(), "round {round}: no event");
                    count = timer.take();
                }
                check_eq("expirations", count, 1);
                check_eq("a second event", ready(&mut selector), tokens([]));
            });
        }
    }

    /// If there is no descriptor for reading the state of a timerfd, the error names the timer and the limit.
    fn descriptor_limit() {
        let selector = Poll::new().unwrap();
        let Some(timer) = Timerfd::new(TimerClock::Monotonic, false) else { return };
        register(selector.registry(), &mut SourceFd(&timer.as_raw_fd()), 1);
        let errors = prepare_with_each_descriptor_limit();
        let objects: Vec<_> = errors.iter().map(|error| error.object()).collect();
        assert!(objects.contains(&PrepareObject::Timer(timer.as_raw_fd())) || cfg!(not(epoll)), "{objects:?}");
        drop(selector);
    }

    /// A timerfd set with `TFD_TIMER_CANCEL_ON_SET` keeps that flag in the child.
    fn cancelled_by_the_clock() {
        let selector = Poll::new().unwrap();
        let Some(timer) = Timerfd::new(TimerClock::Realtime, false) else { return };
        register(selector.registry(), &mut SourceFd(&timer.as_raw_fd()), 1);
        timer.set_until_clock_is_set(Clock::Realtime.now() + HOUR);
        let mut check = || {
            assert!(timer.is_until_clock_is_set());
            check_eq("not expired", timer.take(), 0);
        };
        check();
        in_both(&mut check);
    }
);
