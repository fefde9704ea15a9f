//! [`parent_only`]: futures that children do not run.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll};

use forkio_reactor::fork::generation;
use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::sys::this_thread;
use crate::{NotInChild, policy};

#[derive(Default)]
pub(crate) struct Waiter {
    waker: AtomicWaker,
    /// The [`this_thread`] of the thread that polled the future last.
    thread: AtomicUsize,
}

/// The waiters of all [`ParentOnly`] futures. A child wakes them.
static WAITERS: Mutex<Vec<Weak<Waiter>>> = Mutex::new(Vec::new());

pub(crate) fn waiters() -> MutexGuard<'static, Vec<Weak<Waiter>>> {
    WAITERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wraps a future that a forked child must not run, such as a maintenance task or a connection to a coordinator.
///
/// # Fork
///
/// In the child, `ParentOnly` drops the future without polling it again, and resolves to [`NotInChild`] at once. If the future
/// itself forks, it continues in that child, but not in children that other code forks.
///
/// Dropping the future in the child runs the destructors of the values that it holds. If a destructor acts outside the
/// process, such as that of a `TempDir`, a lock file or a buffer that flushes, keep the value in a
/// [`ParentOwned`](crate::ParentOwned).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let report = tokio::spawn(forkio::parent_only(async { "written once" }));
/// assert_eq!(report.await.unwrap(), Ok("written once"));
/// # }
/// ```
pub fn parent_only<F: Future>(future: F) -> ParentOnly<F> {
    policy::install_defaults();
    let waiter = Arc::new(Waiter::default());
    let mut waiters = waiters();
    if waiters.len() == waiters.capacity() {
        // Before the list grows, remove the entries of dropped futures.
        waiters.retain(|waiter| waiter.strong_count() > 0);
    }
    waiters.push(Arc::downgrade(&waiter));
    ParentOnly { future: Some(future), generation: generation(), waiter }
}

pin_project! {
    /// A future that children do not run: [`parent_only`] makes it.
    #[must_use = "futures do nothing unless polled"]
    pub struct ParentOnly<F> {
        // `None` once the future is dropped.
        #[pin]
        future: Option<F>,
        generation: u32,
        waiter: Arc<Waiter>,
    }
}

impl<F: Future> Future for ParentOnly<F> {
    type Output = Result<F::Output, NotInChild>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if *this.generation != generation() {
            this.future.set(None);
        }
        match this.future.as_pin_mut() {
            Some(future) => {
                this.waiter.waker.register(cx.waker());
                this.waiter.thread.store(this_thread(), Ordering::Relaxed);
                let result = future.poll(cx);
                // If the generation has changed, the future itself has forked, and knows which process it is in.
                *this.generation = generation();
                result.map(Ok)
            }
            None => Poll::Ready(Err(NotInChild)),
        }
    }
}

impl<F> fmt::Debug for ParentOnly<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParentOnly").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Wakes all [`ParentOnly`] futures in the child of a parent without other threads, so that they resolve.
pub(crate) fn wake_all() {
    wake(|_| true);
}

/// Wakes, in the child, the [`ParentOnly`] futures that this thread polled last, if its runtime has no other threads. Waking
/// other futures could wait for a lock of a thread that the child does not have.
pub(crate) fn wake_own() {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    // Another thread of the parent may have had the lock at the fork.
    let is_locked = matches!(WAITERS.try_lock(), Err(TryLockError::WouldBlock));
    if flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::CurrentThread) && !is_locked {
        wake(|waiter| waiter.thread.load(Ordering::Relaxed) == this_thread());
    }
}

fn wake(is_wanted: impl Fn(&Waiter) -> bool) {
    let mut woken: Vec<_> = waiters().iter().filter_map(Weak::upgrade).collect();
    woken.retain(|waiter| is_wanted(waiter));
    for waiter in woken {
        waiter.waker.wake();
    }
}
