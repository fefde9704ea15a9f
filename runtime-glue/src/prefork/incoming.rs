//! Accepts the connections of a worker until the worker must end, and then those that no other process will accept.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::acceptor::Queue;
use super::{Accept, Acceptor, Counted, Shutdown};

/// How long to wait after a failed accept. A process without free descriptors or memory gets some when connections end.
/// To try again at once would only take processor time from these connections.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// How long a queue must stay empty before the worker closes it: the last packet of a handshake may be on its way.
const QUIET_PERIOD: Duration = Duration::from_millis(10);

/// How long a worker empties a queue at most, because the kernel may still add connections to it. The time starts again after
/// an error, and when the worker makes the kernel refuse new connections.
const EMPTYING_LIMIT: Duration = Duration::from_secs(2);

/// The connections of one listener, until the worker must end. [`Worker::incoming`](super::Worker::incoming) makes it.
///
/// `Incoming` handles the cases that every accept loop must handle: errors of single connections, a process without free
/// descriptors, and the worker's end. When the worker [retires](super::Phase::Retiring), `Incoming` leaves the queue to the
/// other workers. If no other worker will serve the queue, or if the server [stops](super::Phase::Stopping), `Incoming` first
/// returns the connections that wait in the queue.
///
/// # Examples
///
/// ```no_run
/// use forkio::prefork::{Listener, Worker};
///
/// async fn work(mut worker: Worker) {
///     let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
///     let mut incoming = worker.incoming(listener);
///     while let Some((stream, peer)) = incoming.next().await {
///         worker.spawn(async move { drop((stream, peer)) }); // Serve it here.
///     }
///     // All connections have ended, or the shutdown timeout has passed.
/// }
/// ```
pub struct Incoming<L: Accept> {
    state: State<L>,
    /// When the next connection may be accepted. `None` means at once.
    pause: Option<Instant>,
    shutdown: Shutdown,
}

enum State<L: Accept> {
    Accepting(Acceptor<L>),
    Emptying { queue: Queue<L>, since: Instant, is_quiet: bool },
    Ended,
}

impl<L: Accept> Incoming<L> {
    pub(super) fn new(acceptor: Acceptor<L>, shutdown: Shutdown) -> Incoming<L> {
        Incoming { state: State::Accepting(acceptor), pause: None, shutdown }
    }

    /// Returns the next connection, or `None` if the worker must end and need not accept more connections from this listener.
    ///
    /// In the worker's own future, `next` waits for the tasks of [`spawn`](super::WorkerHandle::spawn) before it returns `None`,
    /// at most until the [deadline](Shutdown::deadline). In a task `next` does not, because a task cannot wait for itself.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped before it resolves.
    pub async fn next(&mut self) -> Option<(Counted<L::Stream>, L::Address)> {
        let next = self.accept().await;
        if next.is_none() {
            self.shutdown.finish_tasks().await;
        }
        next
    }

    /// Like [`next`](Incoming::next), but does not wait for tasks.
    pub(crate) async fn accept(&mut self) -> Option<(Counted<L::Stream>, L::Address)> {
        loop {
            if let Some(pause) = self.pause {
                // The pause is kept in `self`, because the caller may drop this future and call again.
                match &self.state {
                    State::Accepting(_) => tokio::select! {
                        biased;
                        () = &mut self.shutdown => {}
                        () = sleep_until(pause) => {}
                    },
                    State::Emptying { .. } | State::Ended => sleep_until(pause).await,
                }
                self.pause = None;
            }
            match &mut self.state {
                State::Accepting(acceptor) => tokio::select! {
                    biased;
                    () = &mut self.shutdown => self.stop_accepting(),
                    accepted = acceptor.accept() => match accepted {
                        Ok(accepted) => return Some(accepted),
                        // The client has given up already.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a connection");
                            acceptor.pause();
                            self.pause = Some(Instant::now() + ERROR_PAUSE);
                        }
                    },
                },
                State::Emptying { queue, since, is_quiet } => match queue.accept() {
                    Ok(Some(accepted)) => {
                        *is_quiet = false;
                        // In an upgrade, the new program may not serve this queue, and clients may keep the queue busy.
                        if since.elapsed() > EMPTYING_LIMIT {
                            if queue.refuse_now() {
                                *since = Instant::now();
                            } else {
                                self.state = State::Ended;
                            }
                        }
                        return Some(accepted);
                    }
                    // A connection that came after this accept would be reset by the close. So the kernel must refuse
                    // connections first, and the queue must stay empty for another period.
                    Ok(None) if *is_quiet && queue.refuse_now() => {
                        *since = Instant::now();
                        self.pause = Some(*since + QUIET_PERIOD);
                    }
                    Ok(None) if *is_quiet => self.state = State::Ended,
                    Ok(None) => {
                        self.pause = Some(Instant::now() + QUIET_PERIOD);
                        *is_quiet = true;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection that waits");
                        let now = Instant::now();
                        self.pause = Some(now + ERROR_PAUSE);
                        // The time starts again, because the connections still wait.
                        *since = now;
                        if self.shutdown.deadline().is_some_and(|deadline| deadline <= now) {
                            self.state = State::Ended;
                        }
                    }
                },
                State::Ended => return None,
            }
        }
    }

    /// Stops accepting because the worker must end.
    fn stop_accepting(&mut self) {
        let State::Accepting(acceptor) = std::mem::replace(&mut self.state, State::Ended) else { return };
        if acceptor.empties_queue() {
            match acceptor.into_queue() {
                Ok(queue) => self.state = State::Emptying { queue, since: Instant::now(), is_quiet: false },
                Err(error) => tracing::warn!(%error, "cannot accept the connections that were waiting"),
            }
        }
    }
}

impl<L: Accept> fmt::Debug for Incoming<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Accepting(_) => "Accepting",
            State::Emptying { .. } => "Emptying",
            State::Ended => "Ended",
        };
        f.debug_struct("Incoming").field("state", &state).finish_non_exhaustive()
    }
}
