//! Signals in a tokio runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forkio_tests::runtime::*;

/// Sends this process a signal and receives it, `count` times.
pub(crate) async fn receive(stream: &mut Signal, count: usize, signal: i32) {
    for _ in 0..count {
        kill(own_pid(), signal);
        timeout(limit(), stream.recv()).await.expect("a signal").expect("a stream that has not ended");
    }
}

async fn is_silent(stream: &mut Signal) -> bool {
    timeout(Duration::from_millis(30), stream.recv()).await.is_err()
}

scenarios!(
    /// Each process receives exactly the signals that are sent to it.
    async fn private_signals() {
        let mut first = signal(SignalKind::user_defined1()).unwrap();
        let (to_parent, to_child) = Turn::both_ways();
        let child = fork_child(async || {
            receive(&mut first, rounds(200), libc::SIGUSR1).await;
            // The parent has no stream for this signal.
            let mut second = signal(SignalKind::user_defined2()).unwrap();
            receive(&mut second, rounds(200), libc::SIGUSR2).await;
            to_parent.give();
            wait_for(&to_child).await;
            assert!(is_silent(&mut first).await, "the parent's signals in the child");
            receive(&mut first, 1, libc::SIGUSR1).await;
            in_child(async || receive(&mut first, 5, libc::SIGUSR1).await).await;
            assert!(is_silent(&mut first).await, "the grandchild's signals in the child");
        })
        .await;
        wait_for(&to_parent).await;
        assert!(is_silent(&mut first).await, "the child's signals in the parent");
        receive(&mut first, rounds(200), libc::SIGUSR1).await;
        to_child.give();
        reap(child).await;
        assert!(is_silent(&mut first).await, "the child's signals in the parent");
    }

    /// A fork lets the parent receive a pending signal first. The child does not receive that signal again.
    async fn signal_before_the_fork() {
        fork_after_signals(async || {}).await;
    }

    /// If the runtime has read a signal that its task has not received yet, only the parent receives the signal.
    async fn signal_read_before_the_fork() {
        // The runtime reads the signal and wakes the task, which runs after this one.
        fork_after_signals(tokio::task::yield_now).await;
    }
);

/// Repeatedly signals this process, calls `before`, and forks. The parent's task receives each signal before the fork.
async fn fork_after_signals(before: impl AsyncFn()) {
    let received = Arc::new(AtomicU32::new(0));
    tokio::spawn({
        let received = Arc::clone(&received);
        let mut stream = signal(SignalKind::user_defined1()).unwrap();
        async move {
            while stream.recv().await.is_some() {
                received.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    tokio::task::yield_now().await;
    for round in 1..=rounds(200) as u32 {
        kill(own_pid(), libc::SIGUSR1);
        before().await;
        let received = Arc::clone(&received);
        let at_fork = Arc::clone(&received);
        let child = fork_child(async || {
            check_eq("received before the fork", received.load(Ordering::Relaxed), round);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            sleep(Duration::from_millis(1)).await;
            check_eq("in the child", received.load(Ordering::Relaxed), round);
        })
        .await;
        check_eq("in the parent", at_fork.load(Ordering::Relaxed), round);
        reap(child).await;
    }
}
