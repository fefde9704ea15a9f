//! A worker process.

mod output;
mod span;
mod work;

use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

pub use self::output::WorkerOutput;
#[cfg(feature = "http")]
pub(crate) use self::span::enter as enter_worker_span;
pub(super) use self::span::span_of_tasks;
#[cfg(feature = "status")]
pub(super) use self::span::stay_in;
pub(super) use self::work::{Assignment, ExitOnDrop, FAILED, PANICKED, run, run_on, tie_to_supervisor};
#[cfg(feature = "status")]
pub(super) use self::work::{fail, run_on_thread};
use super::drain::Status;
use super::slots::{REACHED_REQUESTS, WANTS_HALT, WANTS_RETIRE};
use super::status::RequestStart;
use super::{Accept, Acceptor, Connections, Distribution, Incoming, Listener, Phase, Shutdown};

/// The current worker: its identity, its listeners and its connections.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    generation: u64,
    listeners: Vec<Listener>,
    /// The descriptors of the listeners that all workers share, each with its distribution.
    distributions: Vec<(RawFd, Distribution)>,
    connections: Connections,
    handle: WorkerHandle,
}

impl Worker {
    /// Returns the index of this worker, from 0. A replacement has the index of the worker that it replaces, and starts
    /// before that worker ends, unless that worker has died, or [`max_extra`](super::Prefork::max_extra) leaves no room.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the generation of workers that this one belongs to: 1 at first, one more after each reload.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes the listeners that [`Prefork::listener`](super::Prefork::listener) was given, in that order. The second call
    /// returns an empty list.
    ///
    /// The listeners are inherited, not opened again: connections that arrived while no worker ran wait in their queues.
    /// Make an [`incoming`](Worker::incoming) of each, so that the server's [`Distribution`] applies and no connection is
    /// lost.
    pub fn take_listeners(&mut self) -> Vec<Listener> {
        std::mem::take(&mut self.listeners)
    }

    /// Takes the first listener.
    #[cfg(feature = "axum")]
    pub(crate) fn take_listener(&mut self) -> Option<Listener> {
        (!self.listeners.is_empty()).then(|| self.listeners.remove(0))
    }

    /// Returns the incoming connections of one of the [listeners](Worker::take_listeners). They end when the worker must end.
    pub fn incoming<L: Accept>(&self, listener: L) -> Incoming<L> {
        Incoming::new(self.acceptor(listener), self.shutdown())
    }

    /// Returns an acceptor for one of the [listeners](Worker::take_listeners). It follows the listener's [`Distribution`], and
    /// counts the connections. [`incoming`](Worker::incoming) also handles errors, and the worker's end.
    pub fn acceptor<L: Accept>(&self, listener: L) -> Acceptor<L> {
        let fd = listener.as_fd().as_raw_fd();
        let common = self.distributions.iter().find(|(common, _)| *common == fd);
        let distribution = common.map(|(_, distribution)| *distribution);
        Acceptor::new(listener, self.connections.clone(), Arc::clone(&self.handle.0), distribution)
    }

    /// Returns the counts of the open connections of this worker and of the other workers. A connection counts if an
    /// [acceptor](Worker::acceptor) has accepted it, or if it is [counted](Connections::count) by hand.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Returns how long the worker may take to end: [`Prefork::shutdown_timeout`](super::Prefork::shutdown_timeout).
    pub fn shutdown_timeout(&self) -> Duration {
        self.handle.0.shutdown_timeout
    }

    /// Tells the supervisor that this worker is ready to serve. The worker's first accept does the same, and so does
    /// waiting for [`shutdown`](WorkerHandle::shutdown), unless [`Prefork::explicit_ready`](super::Prefork::explicit_ready) is set.
    pub fn ready(&self) {
        self.handle.0.ready();
    }

    /// Returns a handle for tasks of the worker.
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }
}

/// Gives a worker the methods of a [`WorkerHandle`].
impl Deref for Worker {
    type Target = WorkerHandle;

    fn deref(&self) -> &WorkerHandle {
        &self.handle
    }
}

/// A handle to the worker for its tasks. Clone it as often as needed.
#[derive(Clone, Debug)]
pub struct WorkerHandle(Arc<Status>);

impl WorkerHandle {
    /// Resolves when the worker must end. Stop accepting, finish the work that has begun, and return.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::new(Arc::clone(&self.0))
    }

    #[cfg(feature = "http")]
    pub(super) fn status(&self) -> &Status {
        &self.0
    }

    /// Spawns a task that the worker finishes before it ends, such as one that serves a connection. The worker waits for it
    /// at most until the shutdown timeout.
    ///
    /// In the worker's own future, [`Incoming::next`] waits for these tasks before it returns `None`. When that future
    /// has resolved, the worker waits for the tasks that still run. Tasks that still run at the timeout are cut off,
    /// and the worker exits with 1 instead of 0.
    ///
    /// # Panics
    ///
    /// Outside a runtime, like `tokio::spawn`.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.0.tasks.count(task).instrument(self.span_of_tasks()))
    }

    /// Returns the span for a task of the worker: an empty one if the task is in the worker's span anyway.
    pub(super) fn span_of_tasks(&self) -> Span {
        self.0.span_of_tasks.clone()
    }

    /// Returns what the worker should do with its connections now.
    pub fn phase(&self) -> Phase {
        self.0.phase()
    }

    /// Asks the supervisor to replace this worker. The supervisor tells this worker to end when its successor is ready.
    pub fn retire(&self) {
        self.0.raise(WANTS_RETIRE);
    }

    /// Asks the supervisor to stop the whole server, for an error that other workers would have too.
    pub fn halt(&self) {
        self.0.raise(WANTS_HALT);
    }

    /// Returns whether load balancers should send no more connections, because the server is about to stop. Use it to
    /// answer a readiness probe. See [`Prefork::lame_duck`](super::Prefork::lame_duck).
    pub fn is_lame_duck(&self) -> bool {
        self.0.is_lame_duck()
    }

    /// Counts a request for [`Prefork::max_requests`](super::Prefork::max_requests). `prefork::http` counts
    /// its requests itself.
    ///
    /// # Fork
    ///
    /// A child that the worker forks counts nothing.
    pub fn count_request(&self) {
        if self.number_request().is_some() {
            self.0.common.slots.end_request(self.0.slot);
        }
    }

    /// Counts a request as [`count_request`](WorkerHandle::count_request) does, and shows the worker as busy until the value
    /// is dropped. With a status page, one of sixteen requests is timed. `prefork::http` tracks its requests itself.
    ///
    /// # Fork
    ///
    /// The request belongs to the worker. Dropping the value in a child that the worker forks changes nothing.
    pub fn track_request(&self) -> TrackedRequest {
        TrackedRequest { started: self.begin_request(), worker: self.clone() }
    }

    /// Counts a request. Returns how many have begun before it. Does nothing in a child of the worker, and returns `None`.
    fn number_request(&self) -> Option<u64> {
        if !self.0.is_own_process() {
            return None;
        }
        let requests = self.0.common.slots.begin_request(self.0.slot);
        if self.0.max_requests == Some(requests) {
            self.0.raise(REACHED_REQUESTS);
        }
        Some(requests - 1)
    }

    /// Begins a request. Returns `None` in a child of the worker.
    pub(super) fn begin_request(&self) -> Option<RequestStart> {
        self.number_request().map(|number| self.0.common.scoreboard.begin(number))
    }

    pub(super) fn end_request(&self, started: Option<RequestStart>) {
        // A child of the worker has a copy of each request.
        if let Some(started) = started.filter(|_| self.0.is_own_process()) {
            let common = &self.0.common;
            common.slots.end_request(self.0.slot);
            common.scoreboard.end(self.0.slot, started);
        }
    }

    /// Returns how many requests the worker has begun.
    pub fn requests(&self) -> u64 {
        self.0.common.slots.requests(self.0.slot)
    }
}

/// A request that is in flight until this value is dropped: [`WorkerHandle::track_request`].
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
pub struct TrackedRequest {
    worker: WorkerHandle,
    started: Option<RequestStart>,
}

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        self.worker.end_request(self.started);
    }
}
