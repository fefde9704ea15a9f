//! Forks while other threads wait for locks and conditions of `parking_lot`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};

use forkio_tests::runtime::*;
use forkio_tests::{reactor, unplanned};
use parking_lot::{Condvar, Mutex};
use parking_lot_core::{DEFAULT_PARK_TOKEN, DEFAULT_UNPARK_TOKEN};

use crate::{RUNTIME, fork_without_threads, use_runtime};

/// How many threads wait at a fork. Together, their stacks exceed 40 MiB, beyond which glibc unmaps unused stacks.
const WAITING: usize = 64;

scenarios!(
    /// `parking_lot` keeps a table of waiting threads. A child keeps the entries of the parent's threads as they are,
    /// even if the child starts threads and the table grows. Half of the entries share a bucket. The others are spread.
    #[limit(900)]
    fn entries_stay() {
        park_threads(WAITING);
        for round in 0..rounds(5) {
            let child = fork_with_threads(|| {
                wake_threads(3 * WAITING);
                use_runtime();
                check_entries(WAITING);
            });
            wait(child);
            // The child starts no thread before it uses its runtime.
            unplanned::in_child(|| {
                use_runtime();
                wake_threads(3 * WAITING + round);
                check_entries(WAITING);
            });
            // Forks on another thread, so that the child does not have the main thread.
            thread::scope(|scope| {
                let fork = || {
                    reactor::in_child(|| {
                        use_runtime();
                        wake_threads(WAITING);
                        check_entries(WAITING);
                    });
                };
                scope.spawn(fork).join().unwrap();
            });
        }
        check_entries(WAITING);
    }

    /// After `atfork::install`, the child of an unplanned fork may start threads before it uses its runtime.
    #[limit(900)]
    fn threads_before_the_runtime() {
        forkio::atfork::install().unwrap();
        park_threads(WAITING);
        for _ in 0..rounds(5) {
            unplanned::in_child(|| {
                wake_threads(3 * WAITING);
                compete();
                check_entries(WAITING);
                use_runtime();
                unplanned::in_child(use_runtime);
            });
        }
        check_entries(WAITING);
    }

    /// Each generation has threads that wait at its fork, and the entries of all its ancestors.
    #[limit(900)]
    fn generations() {
        fn descend(depth: usize) {
            use_runtime();
            park_threads(WAITING / 4);
            if depth < 5 {
                let next = || descend(depth + 1);
                if depth.is_multiple_of(2) { wait(fork_with_threads(next)) } else { unplanned::in_child(next) }
            }
            use_runtime();
            check_entries(WAITING / 4 * (depth + 1));
        }
        descend(0);
    }

    /// A child uses one runtime after the other, while the parent has many, each with idle threads.
    #[limit(900)]
    fn many_runtimes() {
        const RUNTIMES: usize = 32;
        let runtimes: Vec<_> = (0..RUNTIMES).map(|_| multi_thread().unwrap()).collect();
        runtimes.iter().for_each(|runtime| use_blocking_pool(runtime, 4));
        use_runtime();
        let run = || {
            use_runtime();
            for _ in 0..RUNTIMES {
                use_blocking_pool(&multi_thread().unwrap(), 8);
            }
            RUNTIME.shutdown_timeout(limit());
            use_runtime();
            wait(fork_with_threads(use_runtime));
        };
        for _ in 0..rounds(10) {
            wait(fork_with_threads(run));
            unplanned::in_child(run);
        }
        runtimes.iter().for_each(|runtime| use_blocking_pool(runtime, 8));
    }

    /// Threads of a child compete for locks in all buckets, among the entries of threads that the child does not have.
    #[limit(900)]
    fn contention() {
        park_threads(WAITING);
        use_runtime();
        for _ in 0..rounds(5) {
            wait(fork_with_threads(|| {
                compete();
                use_runtime();
                check_entries(WAITING);
            }));
            unplanned::in_child(|| {
                use_runtime();
                compete();
                check_entries(WAITING);
            });
        }
    }

    /// If a child cannot keep the stacks of the parent's threads, it gets no runtime, and the error says why. The next use tries
    /// again.
    #[limit(900)]
    fn refused_without_descriptors() {
        use_runtime();
        reactor::in_child(|| {
            let files = use_up_descriptors();
            let error = RUNTIME.get().expect_err("a runtime that is refused");
            assert!(matches!(error, RuntimeError::Check(ForkError::ParkingLot(_))), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("`parking_lot`") && text.contains("os error"), "{text}");
            drop(files);
            use_runtime();
        });
    }

    /// A child can join a thread that ended before the fork. If its stack were kept, the join would wait forever.
    #[limit(900)]
    fn joins_of_ended_threads() {
        use_runtime();
        let ended = thread::Builder::new().name("ended".to_owned()).spawn(|| 7).unwrap();
        wait_until("the thread has ended", || {
            ended.is_finished() && !thread_names(own_pid()).iter().any(|name| name == "ended")
        });
        let child = fork_with_threads(|| {
            use_runtime();
            check_eq("the result", ended.join().unwrap(), 7);
        });
        wait(child);
    }

    /// Without other threads, a fork works, and the runtime continues.
    #[limit(900)]
    fn one_thread() {
        fork_without_threads();
    }
);

/// Starts threads that wait until [`check_entries`] wakes them.
fn park_threads(count: usize) {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let first = STARTED.fetch_add(count, Ordering::Relaxed);
    park(first..first + count);
}

/// Checks that `parking_lot` lists each thread that [`park_threads`] has started in this process and its ancestors.
/// Removes these entries.
fn check_entries(count: usize) {
    let missing: HashSet<_> = (0..count).filter(|index| !unpark(*index)).collect();
    check_eq("entries that are missing", missing, HashSet::new());
}

/// Starts threads that wait, and wakes them.
fn wake_threads(count: usize) {
    const FIRST: usize = 1 << 20;
    let threads = park(FIRST..FIRST + count);
    for index in FIRST..FIRST + count {
        assert!(unpark(index), "in process {}: thread {index} is not listed", std::process::id());
    }
    for thread in threads {
        wait_until("the thread wakes", || thread.is_finished());
        thread.join().unwrap();
    }
}

/// Starts a thread for each index. The thread waits until [`unpark`] wakes it.
fn park(indices: std::ops::Range<usize>) -> Vec<JoinHandle<()>> {
    let parked = Arc::new(AtomicUsize::new(0));
    let count = indices.len();
    let start = |index| {
        let parked = Arc::clone(&parked);
        thread::spawn(move || {
            let is_listed = || _ = parked.fetch_add(1, Ordering::Relaxed);
            // SAFETY: no object has this address.
            unsafe { parking_lot_core::park(key(index), || true, is_listed, |_, _| (), DEFAULT_PARK_TOKEN, None) };
        })
    };
    let threads = indices.map(start).collect();
    wait_until("the threads wait", || parked.load(Ordering::Relaxed) == count);
    threads
}

/// Wakes the thread of an index. Returns whether it was listed.
fn unpark(index: usize) -> bool {
    // SAFETY: no object has this address.
    unsafe { parking_lot_core::unpark_all(key(index), DEFAULT_UNPARK_TOKEN) == 1 }
}

/// The address that a thread waits at. Odd indices have addresses in one bucket, however large the table is. The addresses
/// of even indices are spread.
fn key(index: usize) -> usize {
    /// The factor by which `parking_lot_core` multiplies an address. The highest bits of the product are the index of the
    /// bucket.
    const FACTOR: usize = 0x9E37_79B9_7F4A_7C15;
    /// The number whose product with `FACTOR` is 1. Each step of Newton's method doubles the number of correct bits.
    const INVERSE: usize = {
        let mut inverse = FACTOR;
        let mut step = 0;
        while step < 5 {
            inverse = inverse.wrapping_mul(2_usize.wrapping_sub(FACTOR.wrapping_mul(inverse)));
            step += 1;
        }
        assert!(FACTOR.wrapping_mul(inverse) == 1);
        inverse
    };
    let product = if index % 2 == 1 { index } else { (index + 1).wrapping_mul(FACTOR) };
    product.wrapping_mul(INVERSE)
}

/// Runs `count` blocking tasks at the same time, so that the blocking pool has that many threads, which are idle afterwards.
fn use_blocking_pool(runtime: &Runtime, count: usize) {
    let barrier = Arc::new(Barrier::new(count));
    let run = async {
        let start = || {
            let barrier = Arc::clone(&barrier);
            tokio::task::spawn_blocking(move || _ = barrier.wait())
        };
        for task in (0..count).map(|_| start()).collect::<Vec<_>>() {
            task.await.unwrap();
        }
    };
    runtime.block_on(async { timeout(limit(), run).await.expect("the blocking pool hangs") });
}

/// Starts threads that take turns, with locks and conditions in many buckets.
fn compete() {
    const THREADS: usize = 16;
    const ROUNDS: usize = 200;
    let turns: Vec<_> = (0..ROUNDS).map(|_| (Mutex::new(0), Condvar::new())).collect();
    thread::scope(|scope| {
        for own in 0..THREADS {
            let turns = &turns;
            scope.spawn(move || {
                for (turn, has_changed) in turns {
                    let mut turn = turn.lock();
                    while *turn != own {
                        let waited = has_changed.wait_for(&mut turn, limit());
                        assert!(!waited.timed_out(), "in process {}: a wake is lost", std::process::id());
                    }
                    *turn += 1;
                    has_changed.notify_all();
                }
            });
        }
    });
}

/// Waits for a child, which must exit with 0.
fn wait(mut child: Child) {
    let status = RUNTIME.block_on(async { timeout(limit(), child.wait()).await.expect("the child hangs") });
    let status = status.expect("a runtime").expect("waiting");
    assert!(status.success(), "{status}");
}
