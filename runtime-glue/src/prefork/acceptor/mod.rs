//! [`Acceptor`]: accepts connections according to the server's distribution.

mod queue;
mod turn;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;

pub use self::queue::Accept;
use self::queue::Accepted;
pub(super) use self::queue::{Queue, refuse_new_connections};
use self::turn::{Armed, Rule, Turn};
use super::Distribution;
use super::connections::{Connections, Counted};
use super::drain::{Phase, Status};
use crate::sys;

/// The most connections that [`Acceptor::close`] takes out of a queue. Without a limit, `close` would not return while
/// clients connect faster than the worker accepts.
const CLOSE_LIMIT: usize = 4096;

/// A listener that accepts according to the server's [`Distribution`](super::Distribution), and counts its connections.
/// [`Worker::acceptor`](super::Worker::acceptor) makes one.
///
/// # Examples
///
/// ```no_run
/// # async fn work(mut worker: forkio::prefork::Worker) -> std::io::Result<()> {
/// use forkio::prefork::Listener;
///
/// let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return Ok(()) };
/// let mut acceptor = worker.acceptor(listener);
/// loop {
///     let (stream, peer) = acceptor.accept().await?;
///     tokio::spawn(async move {
///         println!("{peer}: one of {:?}", stream.local_addr()); // Serve the stream, which counts until it is dropped.
///     });
/// }
/// # }
/// ```
pub struct Acceptor<L: Accept> {
    // This field is declared first, so that it is closed before `turn` wakes the other workers.
    listener: L,
    turn: Turn,
    status: Arc<Status>,
    /// Whether no other process accepts from this worker's queue while the worker runs.
    is_own_queue: bool,
}

impl<L: Accept> Acceptor<L> {
    /// Makes an acceptor. `None` as the distribution means that the queue is this worker's alone.
    pub(super) fn new(
        listener: L,
        connections: Connections,
        status: Arc<Status>,
        distribution: Option<Distribution>,
    ) -> Acceptor<L> {
        let is_own_queue = distribution.is_none();
        let rule = match distribution {
            Some(Distribution::Balanced) => Rule::Balanced,
            Some(Distribution::Shared) => match crate::policy::set_exclusive(&listener, true) {
                Ok(()) => Rule::Exclusive { since: Instant::now() },
                Err(error) => {
                    tracing::debug!(%error, "cannot register a listener exclusively: each connection wakes all workers");
                    Rule::None
                }
            },
            Some(Distribution::ReusePort | Distribution::ReusePortPerCpu) | None => Rule::None,
        };
        let turn = Turn { connections, rule, armed: Armed(true), waiting: None };
        Acceptor { listener, turn, status, is_own_queue }
    }

    /// Accepts a connection. Waits while the worker has [`max_connections`](super::Prefork::max_connections) open. With
    /// [`Balanced`](super::Distribution::Balanced), also waits while it must leave connections to workers with fewer.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`: an error of a single connection, or no descriptor or memory left. Also those of
    /// `epoll_ctl(2)` or `kevent(2)`, if the worker begins to accept again; the next call tries again.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped before it resolves.
    pub async fn accept(&mut self) -> io::Result<(Counted<L::Stream>, L::Address)> {
        self.status.accepts();
        // The fast path: most connections arrive when there is room.
        if let Some(accepted) = self.accept_if_room().await {
            return accepted;
        }
        let connections = self.turn.connections.clone();
        loop {
            // The future is enabled before the check for room, so that it misses no change.
            let mut changed = pin!(connections.shared().changed.notified());
            changed.as_mut().enable();
            if let Some(accepted) = self.accept_if_room().await {
                return accepted;
            }
            if connections.is_full() {
                self.pause();
                changed.await;
                continue;
            }
            if self.turn.has_overlooked_connection(&self.listener) {
                connections.exclude_unresponsive();
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = self.turn.wait(&self.listener) => {}
            }
        }
    }

    /// Accepts a connection, or returns `None` if this worker has no room.
    async fn accept_if_room(&mut self) -> Option<io::Result<Accepted<L>>> {
        poll_fn(|cx| self.turn.poll_accept(&self.listener, cx)).await
    }

    /// Leaves new connections to the other workers until the next [`accept`](Acceptor::accept). Use it if the worker has no
    /// descriptors left, or as many connections as it can serve.
    ///
    /// Without a pause, the kernel may wake only this worker for a connection, which then waits. If each worker has its
    /// own queue ([`ReusePort`](super::Distribution::ReusePort)), connections wait for this worker in any case.
    pub fn pause(&mut self) {
        if !self.turn.armed.0 {
            return;
        }
        match self.turn.rule {
            Rule::None => {}
            Rule::Exclusive { .. } => {
                self.turn.armed.mute(&self.listener);
                // The kernel may have woken only this worker for a connection that waits.
                if sys::is_readable(&self.listener).unwrap_or(true) {
                    self.turn.connections.wake_workers();
                }
            }
            Rule::Balanced => {
                self.turn.armed.mute(&self.listener);
                self.turn.connections.stop_accepting();
            }
        }
    }

    /// Closes the listener. Returns the connections of its queue that no other process will accept.
    ///
    /// The kernel has told their clients that they are connected, and the clients may have sent a request. If the server
    /// stops, the result has the connections that wait, at most 4096. If only this worker
    /// [retires](super::Phase::Retiring), its siblings or its successor serve the queue, and the result is empty. The
    /// exception is the worker's own queue, if no successor will serve that queue.
    ///
    /// An [`Incoming`](super::Incoming) also does this, and waits for descriptors if the process has none left. `close` logs a
    /// warning instead, and loses the connections that it could not accept.
    pub fn close(self) -> Vec<(Counted<L::Stream>, L::Address)> {
        let mut waiting = Vec::new();
        if !self.empties_queue() {
            return waiting;
        }
        let mut queue = match self.into_queue() {
            Ok(queue) => queue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept the connections that were waiting");
                return waiting;
            }
        };
        let _refuses_now = queue.refuse_now();
        while waiting.len() < CLOSE_LIMIT {
            match queue.accept() {
                Ok(Some(accepted)) => waiting.push(accepted),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept all connections that were waiting");
                    break;
                }
            }
        }
        waiting
    }

    /// Whether this worker must empty the queue because no other process will.
    pub(super) fn empties_queue(&self) -> bool {
        match self.status.phase() {
            Phase::Stopping => true,
            Phase::Retiring => self.is_own_queue && self.status.empties_own_queue(),
            Phase::Serving => false,
        }
    }

    /// Stops accepting, and returns the queue for the caller to empty.
    pub(super) fn into_queue(self) -> io::Result<Queue<L>> {
        let refuses = self.status.common.slots.owns_listeners();
        if refuses {
            refuse_new_connections(&self.listener);
        }
        let connections = self.turn.connections.clone();
        let is_last = self.status.phase() == Phase::Retiring;
        Ok(Queue { listener: self.listener.into_std()?, connections, refuses, is_last })
    }

    /// Returns the listener. From now on, each connection wakes this worker.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)` or `kevent(2)`.
    pub fn into_inner(mut self) -> io::Result<L> {
        self.turn.armed.unmute(&self.listener)?;
        if let Rule::Exclusive { .. } = self.turn.rule {
            crate::policy::set_exclusive(&self.listener, false)?;
        }
        Ok(self.listener)
    }
}

impl<L: Accept> AsFd for Acceptor<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl<L: Accept + fmt::Debug> fmt::Debug for Acceptor<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("listener", &self.listener)
            .field("connections", &self.turn.connections)
            .finish_non_exhaustive()
    }
}
