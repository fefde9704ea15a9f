//! The trait [`Accept`] of tokio's listeners, and [`Queue`]: a listener that has left the runtime, so that a worker can empty
//! its queue.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::prefork::{Connections, Counted};
use crate::sys;

/// Makes the kernel add no connections to the queue, on systems that can. The caller can then empty and close the queue
/// without a loss. This affects all processes that have the listener open. All of them must belong to the server.
pub(in crate::prefork) fn refuse_new_connections(listener: &impl AsFd) {
    if let Err(error) = sys::refuse_new_connections(listener) {
        tracing::debug!(%error, "connections that come while the queue is emptied may be reset");
    }
}

/// A connection and its peer's address.
pub(in crate::prefork) type Accepted<L> = (Counted<<L as Accept>::Stream>, <L as Accept>::Address);

/// A queue that this worker empties: the listener without a runtime.
pub(in crate::prefork) struct Queue<L: Accept> {
    pub(super) listener: L::Std,
    pub(super) connections: Connections,
    /// Whether the worker has told the kernel to refuse new connections.
    pub(super) refuses: bool,
    /// Whether no other process serves this queue, now or later.
    pub(super) is_last: bool,
}

impl<L: Accept> Drop for Queue<L> {
    fn drop(&mut self) {
        if self.is_last {
            // A template may have the listener open until the next reload. Without this call, the kernel would still choose the
            // queue for connections. If the call fails, this process can do no more than close the listener.
            let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        }
    }
}

impl<L: Accept> Queue<L> {
    /// Refuses new connections to a queue that only this worker serves. Returns `false` if they are refused already, or if
    /// another process serves the queue.
    pub(in crate::prefork) fn refuse_now(&mut self) -> bool {
        let may_refuse = self.is_last && !self.refuses;
        if may_refuse {
            refuse_new_connections(&self.listener);
            self.refuses = true;
        }
        may_refuse
    }

    /// Accepts the next connection. Returns `None` if the queue is empty.
    pub(in crate::prefork) fn accept(&self) -> io::Result<Option<Accepted<L>>> {
        loop {
            match L::accept_std(&self.listener) {
                Ok((stream, peer)) => return Ok(Some((self.connections.count(stream), peer))),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    // The listener has been shut down. Another worker of this queue, such as one of the old generation, has
                    // emptied the queue already.
                    io::ErrorKind::InvalidInput => return Ok(None),
                    // A client has closed its connection, or a signal has come. Another connection may wait.
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

/// A listener of tokio: TCP or Unix.
pub trait Accept: AsFd + sealed::Accept {
    /// The type of an accepted connection.
    type Stream;
    /// The peer's address.
    type Address;

    #[doc(hidden)]
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Stream, Self::Address)>>;

    #[doc(hidden)]
    type Std: AsFd + Send;

    #[doc(hidden)]
    fn into_std(self) -> io::Result<Self::Std>;

    #[doc(hidden)]
    fn accept_std(listener: &Self::Std) -> io::Result<(Self::Stream, Self::Address)>;
}

mod sealed {
    pub trait Accept {}
}

macro_rules! accept {
    ($listener:ty, $std:ty, $stream:ty, $address:ty) => {
        impl sealed::Accept for $listener {}

        impl Accept for $listener {
            type Stream = $stream;
            type Address = $address;

            fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<($stream, $address)>> {
                self.poll_accept(cx)
            }

            type Std = $std;

            fn into_std(self) -> io::Result<$std> {
                self.into_std()
            }

            // The standard library's listener asks the kernel each time. tokio's relies on the events it has received.
            fn accept_std(listener: &$std) -> io::Result<($stream, $address)> {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((<$stream>::from_std(stream)?, peer.into()))
            }
        }
    };
}

accept!(TcpListener, std::net::TcpListener, TcpStream, SocketAddr);
accept!(UnixListener, std::os::unix::net::UnixListener, UnixStream, tokio::net::unix::SocketAddr);
