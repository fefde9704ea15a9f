//! How a worker learns that it must end.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use forkio_reactor::fork::generation;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use super::connections::{Common, wake};
use super::options::WorkerSettings;
use super::slots::{EMPTIES_OWN_QUEUE, READY, ServerPhase, TOLD};
use super::tasks::Tasks;
use super::worker::span_of_tasks;

/// The phase of a worker, which says how to treat its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Accept and serve.
    Serving,
    /// This worker ends, and other workers continue to serve. The worker stops accepting, leaves the shared queues to its
    /// siblings, and finishes its connections.
    Retiring,
    /// The server ends. Each worker also accepts the connections that still wait in the queues.
    Stopping,
}

/// The state of one worker process, as the process itself knows it.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) common: Arc<Common>,
    pub(super) slot: usize,
    /// The generation of the worker process, to tell it from its children.
    generation: u32,
    phase: AtomicU8,
    /// When the worker was told to end.
    told: OnceLock<Instant>,
    waiting: Arc<Notify>,
    is_ready: AtomicBool,
    /// Whether only [`Worker::ready`](super::Worker::ready) makes the worker ready.
    is_explicit: bool,
    pub(super) shutdown_timeout: Duration,
    pub(super) max_requests: Option<u64>,
    pub(super) tasks: Arc<Tasks>,
    pub(super) span_of_tasks: Span,
}

impl Status {
    /// Creates the status of a worker. Call it in the worker's own future.
    pub(super) fn new(
        common: Arc<Common>,
        slot: usize,
        settings: &WorkerSettings,
        max_requests: Option<u64>,
    ) -> Status {
        Status {
            common,
            slot,
            generation: generation(),
            phase: AtomicU8::new(0),
            told: OnceLock::new(),
            waiting: Arc::new(Notify::new()),
            is_ready: AtomicBool::new(false),
            is_explicit: settings.explicit_ready,
            shutdown_timeout: settings.shutdown_timeout,
            max_requests,
            tasks: Arc::new(Tasks::new()),
            span_of_tasks: span_of_tasks(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Retiring,
            _ => Phase::Stopping,
        }
    }

    /// Whether this is the worker, and not a child that it has forked.
    pub(super) fn is_own_process(&self) -> bool {
        self.generation == generation()
    }

    /// Whether the supervisor has told this worker, or all workers, to end.
    pub(super) fn is_told_by_supervisor(&self) -> bool {
        matches!(self.common.slots.phase(), ServerPhase::Stopping | ServerPhase::HandedOver)
            || self.common.slots.flags(self.slot) & TOLD != 0
    }

    /// Tells the worker to end. Returns whether that changes its phase. `is_orphan`: the supervisor has ended, so all workers
    /// end.
    pub(super) fn end(&self, is_orphan: bool) -> bool {
        let stops = is_orphan || self.common.slots.phase() == ServerPhase::Stopping;
        self.told.get_or_init(Instant::now);
        let phase = if stops { 2 } else { 1 };
        let is_new = self.phase.fetch_max(phase, Ordering::AcqRel) < phase;
        self.waiting.notify_waiters();
        is_new
    }

    /// Whether no other process will serve this worker's own queues.
    pub(super) fn empties_own_queue(&self) -> bool {
        self.common.slots.flags(self.slot) & EMPTIES_OWN_QUEUE != 0
    }

    /// Returns when the worker's remaining work is cut off. `None` if the worker need not end, or if an `Instant` cannot hold
    /// the time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.told.get()?.checked_add(self.shutdown_timeout)
    }

    /// Returns `until`, or, if the worker must end, the earlier one of `until` and a time shortly before the
    /// [`deadline`](Status::deadline). At that time the worker closes connections without a request, because a
    /// connection that is cut off at the deadline counts as an error.
    #[cfg(feature = "http")]
    pub(super) fn before_deadline(&self, until: Instant) -> Instant {
        let limit = |told: &Instant| told.checked_add(self.shutdown_timeout - self.shutdown_timeout / 8);
        self.told.get().and_then(limit).map_or(until, |limit| until.min(limit))
    }

    /// Resolves when the worker must end, like [`Shutdown`], but allocates nothing.
    #[cfg(feature = "http")]
    pub(super) async fn must_end(&self) {
        let (mut notified, mut waker) = (std::pin::pin!(self.waiting.notified()), None);
        std::future::poll_fn(|cx| self.poll_end(notified.as_mut(), &mut waker, cx)).await
    }

    /// Returns `Ready` once the worker must end. `waker`: the one that `notified` wakes.
    fn poll_end(
        &self,
        notified: Pin<&mut impl Future<Output = ()>>,
        waker: &mut Option<Waker>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.phase() != Phase::Serving {
            return Poll::Ready(());
        }
        // The task of a connection polls this future at each of its events, so most polls must be cheap.
        if waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.accepts();
        // The worker may have been told to end before this future could be notified.
        if notified.poll(cx).is_ready() || self.phase() != Phase::Serving {
            return Poll::Ready(());
        }
        *waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits for the worker's tasks until the deadline. If the worker was not told to end, waits for at most the
    /// shutdown timeout. Returns how many tasks still run.
    pub(super) async fn finish_tasks(&self) -> usize {
        let limit = self.told.get().copied().unwrap_or_else(Instant::now).checked_add(self.shutdown_timeout);
        match limit {
            Some(limit) => {
                let _ = timeout_at(limit, self.tasks.all_ended()).await;
            }
            None => self.tasks.all_ended().await,
        }
        self.tasks.running()
    }

    pub(super) fn is_lame_duck(&self) -> bool {
        self.common.slots.phase() != ServerPhase::Running
    }

    /// Makes the worker ready, unless only [`Worker::ready`](super::Worker::ready) does. The worker calls
    /// this function when it waits for connections or for its end.
    pub(super) fn accepts(&self) {
        if !self.is_explicit {
            self.ready();
        }
    }

    pub(super) fn ready(&self) {
        // Most calls come from a worker that has long been ready.
        if !self.is_ready.load(Ordering::Relaxed) && !self.is_ready.swap(true, Ordering::Relaxed) {
            self.raise(READY);
        }
    }

    /// Sets a flag of the slot. Wakes the supervisor, if the flag was not set before.
    pub(super) fn raise(&self, flag: u64) {
        if !self.common.slots.raise(self.slot, flag) {
            wake(&self.common.supervisor);
        }
    }
}

/// A future that resolves when the worker must end: on SIGTERM, SIGINT, or when its supervisor has ended. Clone it as often as
/// needed. [`phase`](Shutdown::phase) says how the worker should end.
#[must_use = "futures do nothing unless polled"]
pub struct Shutdown {
    status: Arc<Status>,
    notified: Option<Pin<Box<OwnedNotified>>>,
    waker: Option<Waker>,
}

impl Shutdown {
    pub(super) fn new(status: Arc<Status>) -> Shutdown {
        Shutdown { status, notified: None, waker: None }
    }

    /// Returns the current phase: what the worker should do now.
    pub fn phase(&self) -> Phase {
        self.status.phase()
    }

    /// Waits for the worker's tasks until the deadline. Does nothing outside the worker's own future.
    pub(super) async fn finish_tasks(&self) {
        if self.status.tasks.may_wait() {
            self.status.finish_tasks().await;
        }
    }

    /// Returns when open connections must be cut off: [`shutdown_timeout`](super::Prefork::shutdown_timeout) after the worker
    /// was told to end. Returns `None` before that, or if an `Instant` cannot hold the time.
    pub fn deadline(&self) -> Option<Instant> {
        self.status.deadline()
    }
}

impl Clone for Shutdown {
    fn clone(&self) -> Shutdown {
        Shutdown::new(Arc::clone(&self.status))
    }
}

impl Future for Shutdown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Shutdown { status, notified, waker } = &mut *self;
        let notified = notified.get_or_insert_with(|| Box::pin(Arc::clone(&status.waiting).notified_owned()));
        status.poll_end(notified.as_mut(), waker, cx)
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").field("phase", &self.phase()).finish_non_exhaustive()
    }
}
