//! Accepting as the server's distribution has it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep, sleep_until};

use super::Distribution;
use super::connections::{Connections, Counted};
use crate::sys;

/// How long a worker that has enough connections lets one wait for the others before it goes on without those that do not
/// take it: far longer than a worker that is only busy leaves its listener alone.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a worker goes on being the first to be told of connections: the change takes two system calls, which is nothing
/// for a server that has time, and not to be had with each connection by one that has none.
const TURN: Duration = Duration::from_millis(1);

/// How many connections are taken out of the queue of a listener that is closed, at most: clients that come faster than
/// they are accepted are not to keep the worker there.
const LAST: usize = 4096;

/// A listener that accepts when the server's [`Distribution`](super::Distribution) has it so, and counts what it accepts.
/// [`Worker::acceptor`](super::Worker::acceptor) makes one.
///
/// # Examples
///
/// ```no_run
/// # async fn work(mut worker: forkio::Worker) -> std::io::Result<()> {
/// use forkio::Listener;
///
/// let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return Ok(()) };
/// let mut acceptor = worker.acceptor(listener);
/// loop {
///     let (stream, peer) = acceptor.accept().await?;
///     tokio::spawn(async move {
///         println!("{peer}: one of {:?}", stream.local_addr()); // Serve it: it counts until it is dropped.
///     });
/// }
/// # }
/// ```
pub struct Acceptor<L: Accept> {
    // Declared first: it is closed before others are told to look.
    listener: L,
    turn: Turn,
}

/// Whether it is this worker's turn to accept.
struct Turn {
    connections: Connections,
    rule: Rule,
    armed: Armed,
    /// Since when a connection has been waiting while this worker had enough, and how many all workers had accepted then.
    waiting: Option<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The queue is this worker's alone, or all are told of each connection.
    None,
    /// One of the workers is told of a connection. When this one was last put at the end of the kernel's list of them.
    Exclusive { since: Instant },
    /// All that have room are told.
    Balanced,
}

/// Whether this worker is told of connections.
struct Armed(bool);

impl Armed {
    fn mute(&mut self, listener: &impl AsFd) {
        // On an error it goes on being woken, which is no more than a waste.
        self.0 = self.0 && crate::mute(listener).is_err();
    }

    fn unmute(&mut self, listener: &impl AsFd) -> io::Result<()> {
        if !self.0 {
            crate::unmute(listener)?;
            self.0 = true;
        }
        Ok(())
    }
}

impl<L: Accept> Acceptor<L> {
    /// Without a distribution, the queue is this worker's alone.
    pub(super) fn new(listener: L, connections: Connections, distribution: Option<Distribution>) -> Acceptor<L> {
        let rule = match distribution {
            Some(Distribution::Balanced) => Rule::Balanced,
            Some(Distribution::Shared) => match crate::set_exclusive(&listener, true) {
                Ok(()) => Rule::Exclusive { since: Instant::now() },
                Err(error) => {
                    tracing::debug!(%error, "all workers are told of each connection");
                    Rule::None
                }
            },
            _ => Rule::None,
        };
        Acceptor { listener, turn: Turn { connections, rule, armed: Armed(true), waiting: None } }
    }

    /// Accepts a connection. With [`Balanced`](super::Distribution::Balanced), when it is this worker's turn.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost if the future is dropped before it has resolved.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`: errors of a single connection, or that no descriptors or memory are left.
    pub async fn accept(&mut self) -> io::Result<(Counted<L::Stream>, L::Address)> {
        // Most connections come when there is room.
        if let Some(accepted) = self.accept_if_room().await {
            return accepted;
        }
        let connections = self.turn.connections.clone();
        loop {
            // Before the look at the room there is, so that no change is missed.
            let mut changed = pin!(connections.shared().changed.notified());
            changed.as_mut().enable();
            if let Some(accepted) = self.accept_if_room().await {
                return accepted;
            }
            if self.turn.is_one_overlooked(&self.listener) {
                connections.excuse_silent();
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = self.turn.wait(&self.listener) => {}
            }
        }
    }

    /// `None`: this worker has enough connections.
    async fn accept_if_room(&mut self) -> Option<io::Result<(Counted<L::Stream>, L::Address)>> {
        poll_fn(|cx| self.turn.poll_accept(&self.listener, cx)).await
    }

    /// Leaves the connections that come to the other workers until the next [`accept`](Acceptor::accept): for a worker that
    /// has no descriptors left, or as many connections as it can serve.
    ///
    /// A worker that only stops calling `accept` may go on being told of connections in place of the others. With
    /// [`ReusePort`](super::Distribution::ReusePort) there is nobody to leave them to: they wait.
    pub fn pause(&mut self) {
        match self.turn.rule {
            Rule::None => {}
            Rule::Exclusive { .. } => {
                self.turn.armed.mute(&self.listener);
                // This worker may have been told of it, and nobody else.
                if sys::is_readable(&self.listener).unwrap_or(true) {
                    self.turn.connections.ring();
                }
            }
            Rule::Balanced => {
                self.turn.armed.mute(&self.listener);
                self.turn.connections.leave();
            }
        }
    }

    /// Closes the listener, and returns the connections that were waiting in its queue: their clients have been told that
    /// they are connected, and may have sent a request. What a worker does when it is to
    /// [stop](super::Worker::shutdown).
    pub fn close(self) -> Vec<(Counted<L::Stream>, L::Address)> {
        let connections = &self.turn.connections;
        let mut waiting = Vec::new();
        let taken = self.listener.close(LAST, |stream, peer| waiting.push((connections.count(stream), peer)));
        if let Err(error) = taken
            && error.kind() != io::ErrorKind::WouldBlock
        {
            tracing::warn!(%error, "cannot accept all connections that were waiting");
        }
        waiting
    }

    /// The listener, of which each connection tells this worker.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`.
    pub fn into_inner(mut self) -> io::Result<L> {
        self.turn.armed.unmute(&self.listener)?;
        if let Rule::Exclusive { .. } = self.turn.rule {
            crate::set_exclusive(&self.listener, false)?;
        }
        Ok(self.listener)
    }
}

impl Turn {
    /// `None`: this worker has enough connections.
    #[expect(clippy::type_complexity, reason = "what accept returns, and the three ways it may go")]
    fn poll_accept<L: Accept>(
        &mut self,
        listener: &L,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<(Counted<L::Stream>, L::Address)>>> {
        let Turn { connections, rule, armed, waiting } = self;
        let _accepting = connections.shared().accepting.lock().unwrap_or_else(PoisonError::into_inner);
        if *rule == Rule::Balanced && !connections.admits() {
            // Armed it would be woken by each connection that it does not take.
            armed.mute(listener);
            return Poll::Ready(None);
        }
        *waiting = None;
        if let Err(error) = armed.unmute(listener) {
            return Poll::Ready(Some(Err(error)));
        }
        let accepted = ready!(listener.poll_accept(cx));
        // The kernel tells the first worker on its list that sleeps, which in a quiet server would be the same one each time.
        if let Rule::Exclusive { since } = rule
            && since.elapsed() >= TURN
        {
            *since = Instant::now();
            armed.mute(listener);
            if let Err(error) = armed.unmute(listener) {
                // Tried again when it next accepts.
                tracing::warn!(%error, "cannot listen");
            }
        }
        Poll::Ready(Some(accepted.map(|(stream, peer)| (connections.count(stream), peer))))
    }

    /// Whether a connection has been waiting for as long as this worker is patient, and nobody has accepted any meanwhile.
    fn is_one_overlooked(&mut self, listener: &impl AsFd) -> bool {
        let accepted = self.connections.accepted_by_all();
        self.waiting = match self.waiting {
            _ if !sys::is_readable(listener).unwrap_or(true) => None,
            Some((since, before)) if before == accepted => Some((since, before)),
            _ => Some((Instant::now(), accepted)),
        };
        // If it still is afterwards, then for another while.
        self.waiting.take_if(|(since, _)| since.elapsed() >= PATIENCE).is_some()
    }

    /// Waits for as long as there is nothing to look at.
    async fn wait(&self, listener: &impl AsFd) {
        if let Some((since, _)) = self.waiting {
            return sleep_until(since + PATIENCE).await;
        }
        // Most waits are shorter, and need not be looked at.
        sleep(PATIENCE).await;
        if let Err(error) = connection(listener).await {
            tracing::debug!(%error, "cannot watch the queue of a muted listener: looking at it now and then");
            sleep(PATIENCE).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        match self.rule {
            Rule::None => {}
            // It may have been told of a connection, and nobody else.
            Rule::Exclusive { .. } => self.connections.ring(),
            Rule::Balanced => self.connections.leave(),
        }
    }
}

/// Waits until a connection waits in the queue of a listener that is muted.
async fn connection(listener: &impl AsFd) -> io::Result<()> {
    if !sys::is_readable(listener)? {
        // Another number for the same queue: what is muted is the listener's own registration.
        let watched = sys::watch(listener.as_fd().try_clone_to_owned()?).map_err(|(_, error)| error)?;
        watched.readable().await?.retain_ready();
    }
    Ok(())
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

/// tokio's listeners.
pub trait Accept: AsFd + sealed::Accept {
    /// What is accepted.
    type Stream;
    /// The peer's address.
    type Address;

    #[doc(hidden)]
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>>;

    #[doc(hidden)]
    fn close(self, most: usize, each: impl FnMut(Self::Stream, Self::Address)) -> io::Result<()>;
}

mod sealed {
    pub trait Accept {}
}

macro_rules! accept {
    ($listener:ty, $stream:ty, $address:ty) => {
        impl sealed::Accept for $listener {}

        impl Accept for $listener {
            type Stream = $stream;
            type Address = $address;

            fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<($stream, $address)>> {
                self.poll_accept(cx)
            }

            fn close(self, most: usize, mut each: impl FnMut($stream, $address)) -> io::Result<()> {
                // The standard library's listener asks the kernel each time, tokio's would go by the events it has received.
                let listener = self.into_std()?;
                for _ in 0..most {
                    let (stream, peer) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    each(<$stream>::from_std(stream)?, peer.into());
                }
                Ok(())
            }
        }
    };
}

accept!(TcpListener, TcpStream, SocketAddr);
accept!(UnixListener, UnixStream, tokio::net::unix::SocketAddr);
