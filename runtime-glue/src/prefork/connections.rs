//! Counts the open connections.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use forkio_reactor::fork::generation;
use forkio_reactor::fork::glue::rearm_exclusive;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::balance::{Balance, State};
use super::slots::Slots;
use super::status::Scoreboard;
use crate::sys::SharedWake;

/// Wakes other processes of the server.
pub(super) fn wake(processes: &SharedWake) {
    if let Err(error) = processes.wake() {
        tracing::debug!(%error, "cannot wake the other processes of the server");
    }
}

/// The shared state of the supervisor and its workers. It is made before the first fork.
#[derive(Debug)]
pub(super) struct Common {
    /// Whether any listener is balanced: otherwise no worker waits to be called.
    pub(super) is_balanced: bool,
    pub(super) balance: Balance,
    pub(super) slots: Slots,
    pub(super) scoreboard: Scoreboard,
    /// Wakes all workers.
    pub(super) workers: SharedWake,
    /// Wakes the supervisor.
    pub(super) supervisor: SharedWake,
}

impl Common {
    /// Maps the shared memory. `is_shown` says whether the scoreboard is used.
    pub(super) fn new(capacity: usize, is_balanced: bool, is_shown: bool) -> io::Result<Common> {
        Ok(Common {
            is_balanced,
            balance: Balance::new(capacity)?,
            slots: Slots::new(capacity)?,
            scoreboard: Scoreboard::new(capacity, is_shown)?,
            workers: SharedWake::new()?,
            supervisor: SharedWake::new()?,
        })
    }

    /// Takes a slot for a process that will be worker `index`. Only the supervisor calls it.
    pub(super) fn assign(&self, index: usize, generation: u64) -> Option<usize> {
        let slot = self.slots.assign(index, generation)?;
        self.balance.set_used(self.slots.used());
        Some(slot)
    }

    /// Clears the slot of a worker that has ended. Wakes the other workers: the kernel may have woken only that worker for a
    /// connection. Only the supervisor calls this function.
    pub(super) fn clear(&self, slot: usize) {
        self.scoreboard.clear(&self.slots, slot);
        self.balance.vacate(slot);
        self.balance.call();
        wake(&self.workers);
    }
}

/// Counts the open connections of this worker and of the other workers, in memory that all processes of the server share.
///
/// An [`Acceptor`](super::Acceptor) counts the connections that it accepts. Clone the handle as often as needed.
///
/// # Fork
///
/// The count belongs to the worker. In a child that the worker forks, [`count`](Connections::count) counts nothing, and
/// dropping a connection does not change the worker's count.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

pub(super) struct Shared {
    common: Arc<Common>,
    slot: usize,
    generation: u32,
    /// How many connections the worker may have open.
    most: Option<usize>,
    /// Locked from the check for room to the accept: a worker may accept on several threads.
    pub(super) accepting: Mutex<()>,
    /// Notified when there may be room again, and when another process has woken this one to look for connections.
    pub(super) changed: Notify,
    /// Notified when a connection has been closed.
    closed: Notify,
}

impl Connections {
    pub(super) fn new(common: Arc<Common>, slot: usize, most: Option<usize>) -> Connections {
        let (accepting, changed, closed) = (Mutex::new(()), Notify::new(), Notify::new());
        Connections(Arc::new(Shared { common, slot, generation: generation(), most, accepting, changed, closed }))
    }

    /// Returns how many connections this worker has open.
    pub fn open(&self) -> usize {
        self.balance().open(self.0.slot)
    }

    /// Returns how many connections are open for each worker index. A worker that drains counts together with its successor.
    /// The counts are read one after the other, while they change.
    pub fn open_each(&self) -> Vec<usize> {
        let mut by_index = Vec::new();
        for (slot, open) in self.balance().open_each().into_iter().enumerate() {
            let Some(index) = self.0.common.slots.index(slot) else { continue };
            if by_index.len() <= index {
                by_index.resize(index + 1, 0);
            }
            by_index[index] += open;
        }
        by_index
    }

    /// Waits until this worker has no connection open.
    pub async fn all_closed(&self) {
        loop {
            let mut closed = pin!(self.0.closed.notified());
            closed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// Whether this worker has as many connections open as it may.
    pub(super) fn is_full(&self) -> bool {
        self.0.most.is_some_and(|most| self.is_own_process() && self.open() >= most)
    }

    /// Counts a connection that no [`Acceptor`](super::Acceptor) has accepted, until it is dropped.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(worker: forkio::prefork::Worker, listener: tokio::net::TcpListener) -> std::io::Result<()> {
    /// let connections = worker.connections();
    /// let (stream, _) = listener.accept().await?;
    /// let stream = connections.count(stream);
    /// assert_eq!(connections.open(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn count<S>(&self, stream: S) -> Counted<S> {
        let is_counted = self.is_own_process();
        if is_counted {
            self.balance().opened(self.0.slot, self.0.common.is_balanced);
            self.call();
        }
        Counted { _mark: Mark { connections: self.clone(), is_counted }, stream }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    fn balance(&self) -> &Balance {
        &self.0.common.balance
    }

    fn is_own_process(&self) -> bool {
        self.0.generation == generation()
    }

    /// Whether other processes may accept from the queues of the server: its other workers, or another program.
    pub(super) fn shares_queues(&self) -> bool {
        let slots = &self.0.common.slots;
        slots.has_others(self.0.slot) || !slots.owns_listeners()
    }

    /// Whether this worker may accept one more connection. If not, another worker calls this one once there is room.
    pub(super) fn admits(&self) -> bool {
        if !self.is_own_process() {
            return true;
        }
        let (balance, slot) = (self.balance(), self.0.slot);
        if !balance.has_room(slot) {
            balance.set_state(slot, State::Waiting);
            // Another worker may have made room without seeing that this one waits.
            if !balance.has_room(slot) {
                return false;
            }
        }
        if balance.state(slot) != State::Accepting {
            balance.set_state(slot, State::Accepting);
            // Tasks that wait on another listener may continue too.
            self.0.changed.notify_waiters();
        }
        true
    }

    /// Returns a number that changes when any worker accepts.
    pub(super) fn accepted_by_all(&self) -> u64 {
        self.balance().accepted()
    }

    /// Excludes the other workers that may accept but do not, so that this worker does not wait for them. They take part again
    /// when they next accept.
    pub(super) fn exclude_unresponsive(&self) {
        if self.is_own_process() {
            self.balance().exclude_unresponsive(self.0.slot);
            self.call();
        }
    }

    /// Tells the other workers that this worker accepts no more connections.
    pub(super) fn stop_accepting(&self) {
        if self.is_own_process() {
            self.balance().set_state(self.0.slot, State::Absent);
            self.call();
        }
    }

    /// Wakes all workers, so that they look for connections that wait.
    pub(super) fn wake_workers(&self) {
        wake(&self.0.common.workers);
    }

    fn call(&self) {
        if self.0.common.is_balanced && self.balance().call() {
            self.wake_workers();
        }
    }

    fn closed(&self) {
        if !self.is_own_process() {
            return;
        }
        let (balance, slot) = (self.balance(), self.0.slot);
        balance.closed(slot);
        let waits = matches!(balance.state(slot), State::Waiting | State::Called) && balance.has_room(slot);
        if waits || self.0.most.is_some() {
            self.0.changed.notify_waiters();
        }
        self.0.closed.notify_waiters();
    }

    /// Looks for connections when another process wakes this one, for as long as the worker runs.
    pub(super) async fn follow_wakes(self) {
        let warn = |error: io::Error| tracing::warn!(%error, "the other workers cannot wake this one");
        let woken = match self.0.common.workers.waiter() {
            Ok(woken) => woken,
            Err(error) => return warn(error),
        };
        loop {
            match woken.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => return warn(error),
            }
            if let Err(error) = rearm_exclusive() {
                tracing::warn!(%error, "cannot look for connections that another worker has left");
            }
            self.0.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("open", &self.open()).finish_non_exhaustive()
    }
}

/// A connection that counts among those of its worker until it is dropped.
///
/// It reads and writes like the stream that it holds, so it can take the stream's place, such as in
/// `hyper_util::rt::TokioIo`.
pub struct Counted<S> {
    // This field is declared first, so that the connection no longer counts when the peer sees its end.
    _mark: Mark,
    stream: S,
}

struct Mark {
    connections: Connections,
    is_counted: bool,
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.is_counted {
            self.connections.closed();
        }
    }
}

impl<S> Counted<S> {
    /// Returns the stream, which no longer counts.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S> Deref for Counted<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S> DerefMut for Counted<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsFd> AsFd for Counted<S> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: fmt::Debug> fmt::Debug for Counted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}
