//! Kernel timers.

use std::io::ErrorKind;
use std::time::Duration;

use forkio_tests::runtime::*;

const SHORT: Duration = Duration::from_millis(20);

const HOUR: Duration = Duration::from_secs(3600);

const MILLIS: Duration = Duration::from_millis(1);

scenarios!(
    /// A timer that is armed at the fork expires once in each process.
    async fn expires_once() {
        for clock in [Clock::Monotonic, Clock::Realtime] {
            let mut timer = Timer::new(clock).unwrap();
            check_eq("the clock", timer.clock(), clock);
            let deadline = clock.now() + 50 * MILLIS;
            timer.set_at(deadline, None).unwrap();
            let mut check = async || {
                assert!(timer.remaining().is_none_or(|left| left <= 50 * MILLIS));
                check_eq("expirations", timer.expired().await.unwrap(), 1);
                assert!(clock.now() >= deadline, "too early");
                assert!(timeout(SHORT, timer.expired()).await.is_err(), "the timer expired twice");
                check_eq("remaining", timer.remaining(), None);
            };
            let child = fork_child(&mut check).await;
            check().await;
            reap(child).await;
        }
    }

    /// A task that waits at the fork continues in both processes. No period is missed or counted twice.
    async fn awaited() {
        const PERIOD: Duration = Duration::from_millis(7);
        let first = Clock::Monotonic.now() + PERIOD;
        let expired = move || (Clock::Monotonic.now() - first).as_nanos() / PERIOD.as_nanos() + 1;
        let waiting = tokio::spawn(async move {
            let mut timer = Timer::new(Clock::Monotonic).unwrap();
            timer.set_at(first, Some(PERIOD)).unwrap();
            let mut taken = 0;
            while taken < 12 {
                taken += u128::from(timer.expired().await.unwrap());
                assert!(taken <= expired(), "{taken} of {}", expired());
            }
            // The next result includes all expirations until now.
            let least = expired();
            while taken < least {
                taken += u128::from(timer.expired().await.unwrap());
            }
            assert!(taken <= expired(), "{taken} of {}", expired());
        });
        tokio::task::yield_now().await;
        let Some(child) = fork().await else {
            waiting.await.unwrap();
            std::process::exit(0);
        };
        waiting.await.unwrap();
        reap(child).await;
    }

    /// Expirations that were not taken before the fork can be taken in each process.
    async fn untaken_expirations() {
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        // The monotonic clock of a system that has just booted shows less than an hour.
        let period = HOUR.min(Clock::Monotonic.now() / 12);
        timer.set_at(Clock::Monotonic.now() - 10 * period - period / 2, Some(period)).unwrap();
        // Let the runtime see the event.
        tokio::time::sleep(MILLIS).await;
        let mut check = async || check_eq("expirations", timer.expired().await.unwrap(), 11);
        for _ in 0..2 {
            in_child(&mut check).await;
        }
        check().await;
    }

    /// Cancelled waits lose no expiration.
    async fn cancelled() {
        const PERIOD: Duration = Duration::from_millis(3);
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        let first = Clock::Monotonic.now();
        timer.set_at(first, Some(PERIOD)).unwrap();
        let (mut taken, mut cancelled) = (0, 0);
        let mut count = async || {
            while taken < 20 || cancelled < 20 {
                tokio::select! {
                    count = timer.expired() => taken += u128::from(count.unwrap()),
                    () = tokio::time::sleep(MILLIS) => cancelled += 1,
                }
            }
            let least = (Clock::Monotonic.now() - first).as_nanos() / PERIOD.as_nanos() + 1;
            while taken < least {
                taken += u128::from(timer.expired().await.unwrap());
            }
            let most = (Clock::Monotonic.now() - first).as_nanos() / PERIOD.as_nanos() + 1;
            assert!(taken <= most, "{taken} of {most}");
        };
        let child = fork_child(&mut count).await;
        count().await;
        reap(child).await;
    }

    /// A *no-fork* timer gives no events in the child. A task that waits for a severed timer gets an error.
    async fn policies() {
        check_eq("the default", default_policy(SourceKind::Timer), ForkPolicy::Renew);
        let timer = |policy| {
            let mut timer = Timer::new(Clock::Monotonic).unwrap();
            timer.set_after(HOUR, None).unwrap();
            forkio::set_policy(&timer, policy).unwrap();
            timer
        };
        let mut left_out = timer(ForkPolicy::NoFork);
        let mut severed = timer(ForkPolicy::Sever);
        // This task waits at the fork.
        let waiting = tokio::spawn(async move { severed.expired().await });
        tokio::task::yield_now().await;
        let Some(child) = fork().await else {
            left_out.set_after(Duration::ZERO, None).unwrap();
            assert!(timeout(SHORT, left_out.expired()).await.is_err(), "a no-fork timer gave an event");
            let error = timeout(limit(), waiting).await.expect("the wait hangs").unwrap().unwrap_err();
            check_eq("severed", error.kind(), ErrorKind::UnexpectedEof);
            std::process::exit(0);
        };
        reap(child).await;
        assert!(left_out.remaining().unwrap() > HOUR / 2);
        left_out.set_after(Duration::ZERO, None).unwrap();
        check_eq("the parent's expirations", left_out.expired().await.unwrap(), 1);
        assert!(!waiting.is_finished());
    }

    /// A timer expires once in each of five generations.
    async fn five_generations() {
        let deadline = Clock::Realtime.now() + 100 * MILLIS;
        let mut timer = Timer::new(Clock::Realtime).unwrap();
        timer.set_at(deadline, None).unwrap();
        let mut child = None;
        for _ in 0..4 {
            match forkio::fork().await.unwrap() {
                Fork::Child(_) => {}
                Fork::Parent(handle) => {
                    child = Some(handle);
                    break;
                }
            }
        }
        check_eq("expirations", timer.expired().await.unwrap(), 1);
        assert!(Clock::Realtime.now() >= deadline, "too early");
        assert!(timeout(SHORT, timer.expired()).await.is_err(), "the timer expired twice");
        if let Some(child) = child {
            reap(child).await;
        }
    }
);
