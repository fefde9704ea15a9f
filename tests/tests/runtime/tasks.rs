//! Tasks, timers, threads and futures in parent and child.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use forkio_tests::runtime::*;
use tokio::task::LocalSet;

scenarios!(
    /// Sleeps, timeouts and intervals that span the fork fire once in each process, neither early nor much too late.
    async fn timers() {
        static SLEPT: AtomicU32 = AtomicU32::new(0);
        static TIMED_OUT: AtomicU32 = AtomicU32::new(0);
        static TICKS: AtomicU32 = AtomicU32::new(0);
        let start = Instant::now();
        let on_time = move |what: &str, due: Duration| {
            let elapsed = start.elapsed();
            assert!(elapsed >= due && elapsed < due + limit(), "{what} in {}: {elapsed:?}", std::process::id());
        };
        tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            on_time("sleep", Duration::from_millis(300));
            SLEPT.fetch_add(1, Ordering::Relaxed);
        });
        tokio::spawn(async move {
            timeout(Duration::from_millis(400), std::future::pending::<()>()).await.unwrap_err();
            on_time("timeout", Duration::from_millis(400));
            TIMED_OUT.fetch_add(1, Ordering::Relaxed);
        });
        let mut every = interval(Duration::from_millis(50));
        tokio::spawn(async move {
            for tick in 0..20 {
                every.tick().await;
                on_time("interval", tick * Duration::from_millis(50));
                TICKS.fetch_add(1, Ordering::Relaxed);
            }
        });
        sleep(Duration::from_millis(110)).await;
        let check = async || {
            let counts = || [&SLEPT, &TIMED_OUT, &TICKS].map(|count| count.load(Ordering::Relaxed));
            while counts().iter().sum::<u32>() < 22 {
                sleep(Duration::from_millis(5)).await;
            }
            check_eq("how often each fired", counts(), [1, 1, 20]);
        };
        let child = fork_child(check).await;
        check().await;
        reap(child).await;
    }

    /// A task that waits for a channel at the fork continues in both processes.
    async fn tasks_continue() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<u32>(1);
        let echo = tokio::spawn(async move {
            let mut sum = 0;
            while let Some(number) = receiver.recv().await {
                sum += number;
            }
            sum
        });
        tokio::task::yield_now().await;
        let finish = async |number| {
            for _ in 0..rounds(1_000) {
                sender.send(number).await.unwrap();
            }
            drop(sender);
            check_eq("the sum", echo.await.unwrap(), rounds(1_000) as u32 * number);
        };
        let Some(child) = fork().await else {
            check_eq("generation", forkio::Lineage::current().generation(), 1);
            finish(2).await;
            std::process::exit(0);
        };
        finish(1).await;
        reap(child).await;
    }

    /// Thousands of wakes by other threads reach the process that they are meant for.
    async fn wakes_by_threads() {
        let count = rounds(3_000) as u32;
        let storm = async || {
            let (sender, mut receiver) = tokio::sync::mpsc::channel::<u32>(1);
            let thread = thread::spawn(move || (0..count).for_each(|number| sender.blocking_send(number).unwrap()));
            for expected in 0..count {
                check_eq("from the thread", receiver.recv().await, Some(expected));
            }
            thread.join().unwrap();
        };
        let child = fork_child(storm).await;
        storm().await;
        reap(child).await;
        // The thread has ended, so the process can fork again.
        in_child(storm).await;
    }

    /// `spawn_blocking` works in parent and child, before and after forks. A fork waits until idle threads have ended.
    async fn spawn_blocking() {
        // Several calls at once start several threads, which end when they have been idle for some time.
        let blocking = async || {
            let tasks: Vec<_> = (0..3).map(|number| tokio::task::spawn_blocking(move || number)).collect();
            for (number, task) in tasks.into_iter().enumerate() {
                check_eq("blocking", task.await.unwrap(), number);
            }
        };
        in_child(blocking).await;
        for _ in 0..10 {
            blocking().await;
            in_child(async || {
                for _ in 0..3 {
                    blocking().await;
                }
                tokio::fs::metadata("/").await.unwrap();
                // Threads that have ended in the parent must not prevent a fork of the child.
                in_child(blocking).await;
                blocking().await;
            })
            .await;
        }
    }

    /// Local tasks continue in the child.
    async fn local_set() {
        let local = LocalSet::new();
        let count = Rc::new(Cell::new(0));
        let counting = Rc::clone(&count);
        local.spawn_local(async move {
            loop {
                counting.set(counting.get() + 1);
                sleep(Duration::from_millis(1)).await;
            }
        });
        local
            .run_until(async {
                in_child(async || {
                    let before = count.get();
                    while count.get() < before + 10 {
                        sleep(Duration::from_millis(2)).await;
                    }
                })
                .await;
            })
            .await;
    }

    /// In the child, `parent_only` returns an error, and drops its future without polling it.
    async fn parent_only_future() {
        static POLLS: AtomicU32 = AtomicU32::new(0);
        static DROPS: AtomicU32 = AtomicU32::new(0);
        struct Dropped;
        impl Drop for Dropped {
            fn drop(&mut self) {
                DROPS.fetch_add(1, Ordering::Relaxed);
            }
        }
        let dropped = Dropped;
        let maintenance = tokio::spawn(forkio::parent_only(async move {
            let _dropped = dropped;
            // The child does not wait for an hour: its future returns an error at once.
            for pause in [Duration::from_millis(10), Duration::from_secs(3_600)] {
                POLLS.fetch_add(1, Ordering::Relaxed);
                sleep(pause).await;
            }
        }));
        while POLLS.load(Ordering::Relaxed) < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        let never_polled = forkio::parent_only(async { panic!("polled in the child") });
        let Some(child) = fork().await else {
            check_eq("in the child", maintenance.await.unwrap(), Err(NotInChild));
            check_eq("polls", POLLS.load(Ordering::Relaxed), 2);
            check_eq("drops", DROPS.load(Ordering::Relaxed), 1);
            check_eq("never polled", never_polled.await, Err(NotInChild));
            // A future that the child creates belongs to the child.
            check_eq("a new future", forkio::parent_only(async { 3 }).await, Ok(3));
            std::process::exit(0);
        };
        reap(child).await;
        assert!(!maintenance.is_finished());
        check_eq("drops", DROPS.load(Ordering::Relaxed), 0);
        check_eq("a new future", forkio::parent_only(async { 3 }).await, Ok(3));
    }

    /// A future that only the parent runs can fork. The child of that fork continues the future.
    async fn parent_only_future_that_forks() {
        let forking = forkio::parent_only(async {
            let Some(mut child) = fork().await else {
                sleep(Duration::from_millis(20)).await;
                std::process::exit(7);
            };
            child.wait().await.unwrap().code()
        });
        check_eq("the child's status", forking.await, Ok(Some(7)));
    }
);
