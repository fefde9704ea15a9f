use std::io;

use crate::{Interest, Registry, Token};

/// A value that can be registered with a [`Registry`].
///
/// Programs call the methods of [`Registry`], which call the methods of this trait. For a type that contains a source,
/// implement the trait by passing the calls on to that source. Register a bare descriptor as a `unix::SourceFd`.
///
/// # Dropping a source
///
/// Deregister a source before dropping it. epoll ends a registration only when the *last* duplicate of its descriptor is
/// closed, and a forked child may have a duplicate.
///
/// # Examples
///
#[cfg_attr(all(feature = "os-poll", feature = "net"), doc = "```")]
#[cfg_attr(not(all(feature = "os-poll", feature = "net")), doc = "```ignore")]
/// use forkio_reactor::event::Source;
/// use forkio_reactor::net::UdpSocket;
/// use forkio_reactor::{Interest, Poll, Registry, Token};
/// use std::io;
///
/// struct Resolver {
///     socket: UdpSocket,
/// }
///
/// impl Source for Resolver {
///     fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
///         self.socket.register(registry, token, interests)
///     }
///
///     fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
///         self.socket.reregister(registry, token, interests)
///     }
///
///     fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
///         self.socket.deregister(registry)
///     }
/// }
///
/// let poll = Poll::new()?;
/// let mut resolver = Resolver { socket: UdpSocket::bind("127.0.0.1:0".parse().unwrap())? };
/// poll.registry().register(&mut resolver, Token(0), Interest::READABLE)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Source {
    /// Registers the source; called by [`Registry::register`].
    ///
    /// # Errors
    ///
    /// Those of [`Registry::register`].
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()>;

    /// Changes the source's registration; called by [`Registry::reregister`].
    ///
    /// # Errors
    ///
    /// Those of [`Registry::reregister`].
    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()>;

    /// Ends the source's registration; called by [`Registry::deregister`].
    ///
    /// # Errors
    ///
    /// Those of [`Registry::deregister`].
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;
}

impl<T: Source + ?Sized> Source for Box<T> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        (**self).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        (**self).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        (**self).deregister(registry)
    }
}
