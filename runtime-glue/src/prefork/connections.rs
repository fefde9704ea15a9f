//! Counting the connections that are open.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use forkio_reactor::fork::{generation, rearm_exclusive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::board::{Board, State};
use crate::sys;

/// What wakes all workers.
#[derive(Debug)]
pub(super) struct Bell(sys::Bell);

impl Bell {
    pub(super) fn ring(&self) {
        if let Err(error) = self.0.ring() {
            tracing::debug!(%error, "cannot wake the workers");
        }
    }
}

/// What parent and workers have in common: made before the first fork.
#[derive(Debug)]
pub(super) struct Common {
    /// Whether any listener is: otherwise nobody waits to be called.
    pub(super) is_balanced: bool,
    pub(super) board: Board,
    pub(super) bell: Bell,
}

impl Common {
    pub(super) fn new(workers: usize, is_balanced: bool) -> io::Result<Common> {
        Ok(Common { is_balanced, board: Board::new(workers)?, bell: Bell(sys::Bell::new()?) })
    }

    /// In the parent: worker `index` has ended. What it was told of, or left to others, these look for now.
    pub(super) fn vacate(&self, index: usize) {
        self.board.vacate(index);
        self.board.call();
        self.bell.ring();
    }
}

/// How many connections this worker has open, and the others: a count in memory that all processes of the server share.
///
/// An [`Acceptor`](super::Acceptor) counts by itself. Clone it as often as needed.
///
/// # Fork
///
/// The count is that of the worker. In a child that the worker forks, [`count`](Connections::count) counts nothing, and
/// what was counted before is not taken off when it is dropped there.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

pub(super) struct Shared {
    common: Arc<Common>,
    index: usize,
    generation: u32,
    /// Taken to see whether there is room and to make use of it: a worker may accept on several threads.
    pub(super) accepting: Mutex<()>,
    /// There may be room where there was none.
    pub(super) changed: Notify,
}

impl Connections {
    pub(super) fn new(common: Arc<Common>, index: usize) -> Connections {
        let (accepting, changed) = (Mutex::new(()), Notify::new());
        Connections(Arc::new(Shared { common, index, generation: generation(), accepting, changed }))
    }

    /// How many connections this worker has open.
    pub fn open(&self) -> usize {
        self.board().open(self.0.index)
    }

    /// How many connections each worker has open, by index. They are read one after the other, while they change.
    pub fn open_each(&self) -> Vec<usize> {
        self.board().open_each()
    }

    /// Counts a connection that no [`Acceptor`](super::Acceptor) has accepted, until it is dropped.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(worker: forkio::Worker, listener: tokio::net::TcpListener) -> std::io::Result<()> {
    /// let connections = worker.connections();
    /// let (stream, _) = listener.accept().await?;
    /// let stream = connections.count(stream);
    /// assert_eq!(connections.open(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn count<S>(&self, stream: S) -> Counted<S> {
        let is_counted = self.is_ours();
        if is_counted {
            self.board().opened(self.0.index);
            self.call();
        }
        Counted { _mark: Mark { connections: self.clone(), is_counted }, stream }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    fn board(&self) -> &Board {
        &self.0.common.board
    }

    fn is_ours(&self) -> bool {
        self.0.generation == generation()
    }

    /// Whether this worker may accept one more; if not, it is one of those that are called.
    pub(super) fn admits(&self) -> bool {
        if !self.is_ours() {
            return true;
        }
        let (board, index) = (self.board(), self.0.index);
        if !board.has_room(index) {
            board.set_state(index, State::Waiting);
            // Somebody may have made room without seeing that this one waits.
            if !board.has_room(index) {
                return false;
            }
        }
        if board.state(index) != State::Accepting {
            board.set_state(index, State::Accepting);
            // What waits on another listener may go on too.
            self.0.changed.notify_waiters();
        }
        true
    }

    /// Changes whenever anybody accepts.
    pub(super) fn accepted_by_all(&self) -> u64 {
        self.board().accepted()
    }

    /// A connection waits, and nobody takes it: goes on without those who should.
    pub(super) fn excuse_silent(&self) {
        if self.is_ours() {
            self.board().excuse_silent(self.0.index);
            self.call();
        }
    }

    /// This worker accepts no more.
    pub(super) fn leave(&self) {
        if self.is_ours() {
            self.board().set_state(self.0.index, State::Absent);
            self.call();
        }
    }

    /// Has all workers look for connections that wait.
    pub(super) fn ring(&self) {
        self.0.common.bell.ring();
    }

    fn call(&self) {
        if self.0.common.is_balanced && self.board().call() {
            self.0.common.bell.ring();
        }
    }

    fn closed(&self) {
        if !self.is_ours() {
            return;
        }
        let (board, index) = (self.board(), self.0.index);
        board.closed(index);
        if matches!(board.state(index), State::Waiting | State::Called) && board.has_room(index) {
            self.0.changed.notify_waiters();
        }
    }

    /// Listens for the bell, for as long as the worker runs.
    pub(super) async fn attend(self) {
        let deaf = |error: io::Error| tracing::warn!(%error, "cannot hear of the other workers");
        let ear = match self.0.common.bell.0.listen() {
            Ok(ear) => ear,
            Err(error) => return deaf(error),
        };
        loop {
            match ear.readable().await {
                Ok(mut rung) => rung.clear_ready(),
                Err(error) => return deaf(error),
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
        f.debug_struct("Connections").field("worker", &self.0.index).field("open", &self.open()).finish_non_exhaustive()
    }
}

/// A connection that counts among those of its worker until it is dropped.
///
/// It reads and writes as what it holds does, so it goes wherever a stream goes, as into `hyper_util::rt::TokioIo`.
pub struct Counted<S> {
    // Declared first: when the peer sees the end, the connection does not count any more.
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
    /// The connection, which does not count any more.
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
