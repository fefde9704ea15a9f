//! Unix pipes; see [`new`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::io_source::{IoSource, SourceKind, descriptor_owner, readable, try_io, writable};
use crate::sys::descriptor;

/// Makes a [pipe], both ends non-blocking and close-on-exec.
///
/// When the other end is closed, an event reports it: [`is_read_closed`] at the receiver, [`is_write_closed`] at the sender.
/// Reads then return the remaining data, and after that 0 bytes; writes fail with
/// [`BrokenPipe`](io::ErrorKind::BrokenPipe).
///
/// # Errors
///
/// Those of `pipe(2)`: the process or the system has no descriptor left.
///
/// # Fork
///
/// The pipe may be the channel between parent and child: both ends stay registered in the child. The other end counts as
/// closed when neither process has it open.
///
/// # Examples
///
/// ```
/// use forkio_reactor::unix::pipe;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::io::Write;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// let (mut sender, mut receiver) = pipe::new()?;
/// poll.registry().register(&mut receiver, Token(0), Interest::READABLE)?;
///
/// sender.write_all(b"hello")?;
/// drop(sender);
/// poll.poll(&mut events, None)?;
/// assert!(events.iter().next().is_some_and(|event| event.is_read_closed()));
/// assert_eq!(std::io::read_to_string(receiver)?, "hello");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [pipe]: https://pubs.opengroup.org/onlinepubs/9799919799/functions/pipe.html
/// [`is_read_closed`]: crate::event::Event::is_read_closed
/// [`is_write_closed`]: crate::event::Event::is_write_closed
pub fn new() -> io::Result<(Sender, Receiver)> {
    let (reader, writer) = descriptor::pipe()?;
    Ok((
        Sender { inner: IoSource::new(writer.into(), SourceKind::Pair) },
        Receiver { inner: IoSource::new(reader.into(), SourceKind::Pair) },
    ))
}

/// Implements the part that both ends have in common, and the conversions from a child process's standard streams.
macro_rules! end {
    ($name:ident, $($child:ident),+) => {
        descriptor_owner!($name, File, Pipe);

        impl $name {
            /// Switches non-blocking mode on or off, also for duplicates of the descriptor, such as those of a forked child.
            ///
            /// # Errors
            ///
            /// Those of `ioctl(2)`; none is expected.
            pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
                Ok(rustix::io::ioctl_fionbio(self.inner.as_fd(), nonblocking)?)
            }
        }

        $(
            /// The pipe stays in blocking mode.
            impl From<$child> for $name {
                fn from(child: $child) -> $name {
                    OwnedFd::from(child).into()
                }
            }
        )+
    };
}

/// The writing end of a pipe.
///
/// Make one with [`new`], or from a descriptor or a [`ChildStdin`]. These conversions do not change the mode, which for a
/// [`ChildStdin`] is blocking: see [`set_nonblocking`](Sender::set_nonblocking).
#[derive(Debug)]
pub struct Sender {
    inner: IoSource<File>,
}

try_io!(Sender);
end!(Sender, ChildStdin);
writable!(Sender, &Sender);

/// The reading end of a pipe.
///
/// Make one with [`new`], or from a descriptor, a [`ChildStdout`] or a [`ChildStderr`]. These conversions do not change the
/// mode, which for a child's output is blocking: see [`set_nonblocking`](Receiver::set_nonblocking).
#[derive(Debug)]
pub struct Receiver {
    inner: IoSource<File>,
}

try_io!(Receiver);
end!(Receiver, ChildStdout, ChildStderr);
readable!(Receiver, &Receiver);
