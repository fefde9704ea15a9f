//! The worker's side.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use forkio_reactor::unix::Process;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tracing::Instrument;

use super::connections::Common;
use super::{Accept, Acceptor, Connections, Distribution, Listener, PreforkError, Stopped};
use crate::{lineage, sys};

/// The exit status of a process that panicked, as the standard library has it.
const PANICKED: i32 = 101;

/// The exit status of a worker that could not begin.
const FAILED: i32 = 1;

/// How long after the drain timeout the kernel ends a worker that does not end by itself: later than the parent would.
const ALARM_GRACE: Duration = Duration::from_secs(3);

/// Who this worker is, and what it serves.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    listeners: Vec<Listener>,
    /// The numbers of those listeners that all workers have, each with its distribution.
    distributions: Vec<(RawFd, Distribution)>,
    connections: Connections,
    shutdown: Shutdown,
    drain_timeout: Duration,
}

impl Worker {
    /// Which of the workers this is, from 0. A worker that replaces one has its index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The listeners given to [`Prefork::listener`](super::Prefork::listener), in that order; the second time none.
    ///
    /// They are inherited, not opened again: connections that arrived while no worker waited are in their queues. Each is
    /// to be made an [`acceptor`](Worker::acceptor) of, so that the server's [`Distribution`] holds.
    pub fn take_listeners(&mut self) -> Vec<Listener> {
        std::mem::take(&mut self.listeners)
    }

    /// Accepts from one of the [listeners](Worker::take_listeners) as its [`Distribution`](super::Distribution) has it, and
    /// counts what it accepts.
    pub fn acceptor<L: Accept>(&self, listener: L) -> Acceptor<L> {
        let number = listener.as_fd().as_raw_fd();
        let common = self.distributions.iter().find(|(common, _)| *common == number);
        Acceptor::new(listener, self.connections.clone(), common.map(|(_, distribution)| *distribution))
    }

    /// How many connections are open, here and in the other workers. Those count that an
    /// [acceptor](Worker::acceptor) has accepted, and those that are [counted](Connections::count) by hand.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Resolves when the worker is to stop: accept what is in the listeners' queues, finish what has begun, and return.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// How long the worker has for that; see [`Prefork::drain_timeout`](super::Prefork::drain_timeout).
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }
}

/// A future that resolves when the worker is to stop: SIGTERM, SIGINT, or the parent's end. Clone it as often as needed.
#[must_use = "futures do nothing unless polled"]
pub struct Shutdown {
    told: Arc<Told>,
    waiting: Option<Waiting>,
}

#[derive(Debug, Default)]
struct Told {
    /// Set before those who wait are notified.
    is_told: AtomicBool,
    waiting: Arc<Notify>,
}

struct Waiting {
    notified: Pin<Box<OwnedNotified>>,
    /// Whom that wakes.
    waker: Waker,
}

impl Shutdown {
    /// What resolves once `signal` has, which somebody is to drive.
    fn new(signal: impl Future<Output = ()> + Send + 'static) -> (Shutdown, impl Future<Output = ()> + Send + 'static) {
        let told = Arc::new(Told::default());
        let shutdown = Shutdown { told: Arc::clone(&told), waiting: None };
        let drive = async move {
            signal.await;
            told.is_told.store(true, Ordering::Release);
            told.waiting.notify_waiters();
        };
        (shutdown, drive)
    }
}

impl Clone for Shutdown {
    fn clone(&self) -> Shutdown {
        Shutdown { told: Arc::clone(&self.told), waiting: None }
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Shutdown { told, waiting } = &mut *self;
        if told.is_told.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        // A connection's task polls this with each of its events.
        if waiting.as_ref().is_some_and(|waiting| waiting.waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let mut notified =
            waiting.take().map_or_else(|| Box::pin(Arc::clone(&told.waiting).notified_owned()), |old| old.notified);
        // It may have been said before this one was there to be notified.
        if notified.as_mut().poll(cx).is_ready() || told.is_told.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        *waiting = Some(Waiting { notified, waker: cx.waker().clone() });
        Poll::Pending
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}

/// What a worker may resolve to, and the status that its process exits with.
pub trait WorkerOutput {
    /// The exit status. An error is logged on the way.
    fn exit_status(self) -> u8;
}

impl WorkerOutput for () {
    fn exit_status(self) -> u8 {
        0
    }
}

impl WorkerOutput for u8 {
    fn exit_status(self) -> u8 {
        self
    }
}

impl WorkerOutput for Infallible {
    fn exit_status(self) -> u8 {
        match self {}
    }
}

impl<T: WorkerOutput, E: fmt::Display> WorkerOutput for Result<T, E> {
    fn exit_status(self) -> u8 {
        match self {
            Ok(output) => output.exit_status(),
            Err(error) => {
                tracing::error!(%error, "worker failed");
                1
            }
        }
    }
}

/// Ends the process if dropped: a worker is not to come out of [`Prefork::run`](super::Prefork::run), neither by a panic
/// nor because somebody drops the future.
pub(super) struct NoWayBack;

impl Drop for NoWayBack {
    fn drop(&mut self) {
        process::exit(PANICKED)
    }
}

/// What a child needs to take its seat.
pub(super) struct Seat {
    pub(super) no_way_back: NoWayBack,
    pub(super) index: usize,
    pub(super) listeners: Vec<Listener>,
    pub(super) distributions: Vec<(RawFd, Distribution)>,
    pub(super) common: Arc<Common>,
    pub(super) shutdown: BoxFuture<'static, ()>,
}

/// Works on the inherited runtime, which the caller drives.
pub(super) async fn run<F, Fut>(seat: Seat, drain_timeout: Duration, worker: F) -> Result<Stopped, PreforkError>
where
    F: FnOnce(Worker) -> Fut,
    Fut: Future,
    Fut::Output: WorkerOutput,
{
    work(seat, drain_timeout, worker).await
}

/// Works on a runtime of the worker's own. The inherited one, which the caller drives, stands still.
pub(super) fn run_on<B, F, Fut>(seat: Seat, drain_timeout: Duration, build: B, worker: F) -> !
where
    B: FnOnce() -> io::Result<Runtime> + Send,
    F: FnOnce(Worker) -> Fut + Send,
    Fut: Future,
    Fut::Output: WorkerOutput,
{
    let index = seat.index;
    let fail = |what, error: io::Error| -> ! {
        tracing::error!(worker = index, %error, "{what}");
        process::exit(FAILED)
    };
    // The thread may not start, and a seat that is dropped ends the process.
    let mut seat = ManuallyDrop::new(seat);
    let move_over = || {
        let runtime = build().unwrap_or_else(|error| fail("cannot build the worker's runtime", error));
        let listeners = std::mem::take(&mut seat.listeners);
        let moved: io::Result<_> = {
            let _context = runtime.enter();
            listeners.into_iter().map(Listener::move_here).collect()
        };
        seat.listeners = moved.unwrap_or_else(|error| fail("cannot register a listener", error));
        runtime.block_on(work(ManuallyDrop::into_inner(seat), drain_timeout, worker))
    };
    // On another thread, because this one is inside a runtime.
    thread::scope(|scope| {
        let own = thread::Builder::new().name(format!("worker-{index}")).spawn_scoped(scope, move_over);
        match own {
            Ok(thread) => {
                // It ends with the process; before that by a panic only, of which the hook has told.
                let _ = thread.join();
                process::exit(PANICKED)
            }
            Err(error) => fail("cannot start the worker's first thread", error),
        }
    })
}

/// Works, and exits.
async fn work<F, Fut>(seat: Seat, drain_timeout: Duration, worker: F) -> !
where
    F: FnOnce(Worker) -> Fut,
    Fut: Future,
    Fut::Output: WorkerOutput,
{
    let Seat { no_way_back: _no_way_back, index, listeners, distributions, common, shutdown } = seat;
    let span = tracing::info_span!("worker", index, pid = process::id());
    let status = async {
        if !tie_to_parent(drain_timeout) {
            return 0;
        }
        tracing::info!("started");
        let (shutdown, drive) = Shutdown::new(shutdown);
        tokio::spawn(drive.in_current_span());
        let connections = Connections::new(common, index);
        tokio::spawn(connections.clone().attend().in_current_span());
        // Called inside, because a closure may panic as well as its future.
        let work =
            async { worker(Worker { index, listeners, distributions, connections, shutdown, drain_timeout }).await };
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(output) => output.exit_status().into(),
            // The panic hook has said so already.
            Err(_) => PANICKED,
        }
    };
    let status = status.instrument(span.clone()).await;
    span.in_scope(|| tracing::info!(status, "ended"));
    process::exit(status)
}

/// Sees to it that this process ends with its parent, and ends when it is told to. `false`: the parent is gone already.
fn tie_to_parent(drain_timeout: Duration) -> bool {
    // Longer than alarm(2) can count is for ever.
    if let Ok(seconds) = drain_timeout.saturating_add(ALARM_GRACE).as_secs().try_into()
        && let Err(error) = sys::end_after_stop_signal(seconds)
    {
        tracing::warn!(%error, "cannot bound the time that this worker takes to stop");
    }
    let Some(parent) = lineage::lineage().parent() else { return true };
    // Two ways: the kernel's signal reaches also a worker that is stuck, but is lost with a change of credentials.
    match Process::open(parent).and_then(|process| sys::watch(process).map_err(|(_, error)| error)) {
        Ok(process) => {
            let watch = async move {
                if process.readable().await.is_ok() {
                    tracing::warn!(parent, "the parent has ended");
                    sys::raise_terminate();
                }
            };
            tokio::spawn(watch.in_current_span());
        }
        // Gone already.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => tracing::debug!(parent, "the parent has ended"),
        // Not every system has the other way.
        Err(error) => {
            tracing::warn!(%error, parent, "cannot watch the parent: this worker may outlive it if it is killed")
        }
    }
    sys::terminate_with_parent(parent).unwrap_or_else(|error| {
        tracing::warn!(%error, "this worker may outlive its parent if that is killed");
        true
    })
}
