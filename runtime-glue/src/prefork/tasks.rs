//! The tasks that a worker finishes before it ends.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::task;

/// Counts the running tasks of [`WorkerHandle::spawn`](super::WorkerHandle::spawn).
#[derive(Debug)]
pub(super) struct Tasks {
    running: AtomicUsize,
    all_ended: Notify,
    /// The task that the worker's own future runs in, or `None` if the runtime blocks on that future.
    owner: Option<task::Id>,
}

impl Tasks {
    /// Makes an empty set. Call it in the worker's own future.
    pub(super) fn new() -> Tasks {
        Tasks { running: AtomicUsize::new(0), all_ended: Notify::new(), owner: task::try_id() }
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Returns whether the caller is the worker's own future. A task that waited for all tasks would wait for itself.
    pub(super) fn may_wait(&self) -> bool {
        task::try_id() == self.owner
    }

    pub(super) async fn all_ended(&self) {
        loop {
            // The future is notified from here on, so a task that ends after the check is not missed.
            let all_ended = self.all_ended.notified();
            if self.running() == 0 {
                return;
            }
            all_ended.await;
        }
    }

    /// Counts `task` from now until it has ended, panicked or been dropped.
    pub(super) fn count<T: Future>(self: &Arc<Tasks>, task: T) -> impl Future<Output = T::Output> + use<T> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running(Arc::clone(self));
        async move {
            let _running = running;
            task.await
        }
    }
}

/// A task that has not ended.
struct Running(Arc<Tasks>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all_ended.notify_waiters();
        }
    }
}
