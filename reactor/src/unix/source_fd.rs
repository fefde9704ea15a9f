use std::io;
use std::os::fd::RawFd;

use crate::event::Source;
use crate::{Interest, Registry, Token};

/// Makes a [`Source`] of a descriptor that other code owns.
///
/// Make one for each call of a [`Registry`] method. A `SourceFd` does not own the descriptor, and closes nothing. The owner
/// must put the descriptor into non-blocking mode, and deregister it before closing it.
///
/// # Fork
///
/// Each fork looks up the kind of the object behind the descriptor. The kind decides the default policy.
///
/// # Examples
///
/// ```
/// use forkio_reactor::unix::SourceFd;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::io::Write;
/// use std::os::fd::AsRawFd;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// let (reader, mut writer) = std::os::unix::net::UnixStream::pair()?;
/// poll.registry().register(&mut SourceFd(&reader.as_raw_fd()), Token(3), Interest::READABLE)?;
///
/// writer.write_all(b"x")?;
/// poll.poll(&mut events, None)?;
/// assert_eq!(events.iter().next().map(|event| event.token()), Some(Token(3)));
/// poll.registry().deregister(&mut SourceFd(&reader.as_raw_fd()))?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct SourceFd<'a>(pub &'a RawFd);

impl Source for SourceFd<'_> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        registry.selector.register(*self.0, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        registry.selector.reregister(*self.0, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.selector.deregister(*self.0)
    }
}
