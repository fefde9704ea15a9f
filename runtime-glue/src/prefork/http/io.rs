//! The transport of a connection, between hyper and the socket.

use std::any::Any;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::super::Counted;
use super::activity::Activity;
use crate::sys;

/// The longest response, in bytes, that is copied and written at once.
const SHORT: usize = 2048;

/// How long a connection lingers at most, and how long without a byte from the client. The values are those of nginx
/// (`lingering_time` and `lingering_timeout`).
const LINGERING_TIME: Duration = Duration::from_secs(30);
const LINGERING_TIMEOUT: Duration = Duration::from_secs(5);

/// The transport of a connection. Reports reads, and writes that block, to the [`Activity`].
#[derive(Debug)]
pub(super) struct TrackedIo<I> {
    io: I,
    activity: Arc<Activity>,
    /// `Some` once the server has ended its side, if the client may still send something.
    lingering: Option<Lingering>,
}

/// Reads and discards what the client still sends. If the socket were closed at once, the kernel would answer these bytes with a
/// reset, and drop the end of the last response. An HTTP/2 client acknowledges what it reads, and an HTTP/1 client may still send
/// a body that the handler does not read, or a head that is too long.
#[derive(Debug)]
struct Lingering {
    end: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Lingering {
    fn new() -> Lingering {
        let now = Instant::now();
        Lingering { end: now + LINGERING_TIME, sleep: Box::pin(sleep_until(now + LINGERING_TIMEOUT)) }
    }

    /// Returns `Ready` when the client has ended or reset the connection, sent its whole body, or taken too long.
    fn poll(&mut self, io: &mut (impl AsyncRead + Unpin), activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut bytes = [MaybeUninit::uninit(); SHORT];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let was_body = activity.may_read_body();
                    activity.read(buffer.filled());
                    if was_body && !activity.may_read_more() {
                        return Poll::Ready(());
                    }
                    self.sleep.as_mut().reset(self.end.min(Instant::now() + LINGERING_TIMEOUT));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        // The worker may have been told to end meanwhile.
        let until = activity.serving().worker.status().before_deadline(self.sleep.deadline());
        if until < self.sleep.deadline() {
            self.sleep.as_mut().reset(until);
        }
        self.sleep.as_mut().poll(cx)
    }
}

impl<I> TrackedIo<I> {
    pub(super) fn new(io: I, activity: Arc<Activity>) -> TrackedIo<I> {
        TrackedIo { io, activity, lingering: None }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for TrackedIo<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            self.activity.read(read);
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes the whole last response of a TCP connection, so that the kernel sends it together with the end of the stream: hyper
/// shuts the stream down next. Returns `None` if nothing was written: the caller must then write as usual.
fn write_last_response<I: 'static>(io: &I, bytes: &[u8]) -> Option<io::Result<usize>> {
    let stream = (io as &dyn Any).downcast_ref::<Counted<TcpStream>>()?;
    sys::send_before_end(stream, bytes)
}

impl<I: AsyncRead + AsyncWrite + Unpin + 'static> AsyncWrite for TrackedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.activity.is_all_of_last_response(bytes) {
            if let Some(result) = write_last_response(&self.io, bytes) {
                return Poll::Ready(result);
            }
        }
        let TrackedIo { io, activity, .. } = &mut *self;
        activity.note_write(Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TrackedIo { io, activity, .. } = &mut *self;
        activity.note_write(Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TrackedIo { io, activity, lingering } = &mut *self;
        if lingering.is_none() {
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
            if !activity.may_read_more() {
                return Poll::Ready(Ok(()));
            }
        }
        lingering.get_or_insert_with(Lingering::new).poll(io, activity, cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper writes the head of a response and its body as two slices. A short copy and `send(2)` together cost less than
        // `writev(2)`.
        if slices.iter().map(|slice| slice.len()).sum::<usize>() <= SHORT {
            let mut bytes = [MaybeUninit::uninit(); SHORT];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            slices.iter().for_each(|slice| buffer.put_slice(slice));
            return self.poll_write(cx, buffer.filled());
        }
        let TrackedIo { io, activity, .. } = &mut *self;
        activity.note_write(Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
