//! Futures that the child does not run.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use forkio_reactor::fork::generation;
use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;

use crate::Forked;

/// Every future that may have to be told that it is in a child now.
static WAITING: Mutex<Vec<Weak<AtomicWaker>>> = Mutex::new(Vec::new());

pub(crate) fn waiting() -> MutexGuard<'static, Vec<Weak<AtomicWaker>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a future that a forked child does not run: there it is dropped without being polled again, and resolves to
/// [`Forked`] at once.
///
/// For what only one process should do: maintenance tasks, timers, a connection to a coordinator. A child that the future
/// forks itself goes on with it; one forked by anybody else does not.
///
/// Dropping it in the child runs the destructors of what it holds, there too: take care with those that act on the
/// world, as a `TempDir`, a lock file, a buffer that flushes, or a `tokio::process::Child` with `kill_on_drop`, which would
/// kill the parent's process. Those go into a [`ProcessOwned`](crate::ProcessOwned).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let report = tokio::spawn(forkio::no_fork(async { "written once" }));
/// assert_eq!(report.await.unwrap(), Ok("written once"));
/// # }
/// ```
pub fn no_fork<F: Future>(future: F) -> NoFork<F> {
    let waker = Arc::new(AtomicWaker::new());
    let mut waiting = waiting();
    if waiting.len() == waiting.capacity() {
        // Before it grows: by now half of them or more may be gone.
        waiting.retain(|waker| waker.strong_count() > 0);
    }
    waiting.push(Arc::downgrade(&waker));
    NoFork { future: Some(future), generation: generation(), waker }
}

pin_project! {
    /// A future that the child of a fork does not run; see [`no_fork`].
    #[must_use = "futures do nothing unless polled"]
    pub struct NoFork<F> {
        // `None` once the future is dropped.
        #[pin]
        future: Option<F>,
        generation: u32,
        waker: Arc<AtomicWaker>,
    }
}

impl<F: Future> Future for NoFork<F> {
    type Output = Result<F::Output, Forked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if *this.generation != generation() {
            this.future.set(None);
        }
        match this.future.as_pin_mut() {
            Some(future) => {
                this.waker.register(cx.waker());
                let result = future.poll(cx);
                // Changed meanwhile: the future has forked, and knows which side it is on.
                *this.generation = generation();
                result.map(Ok)
            }
            None => Poll::Ready(Err(Forked)),
        }
    }
}

impl<F> fmt::Debug for NoFork<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoFork").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// In the child: each of them is to find out.
pub(crate) fn wake_all() {
    let waiting = std::mem::take(&mut *waiting());
    for waker in waiting.iter().filter_map(Weak::upgrade) {
        waker.wake();
    }
}
