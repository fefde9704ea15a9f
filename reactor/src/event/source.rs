use std::io;

use crate::{Interest, Registry, Token};

/// A value that can be registered with a [`Registry`].
///
/// Programs call the methods of [`Registry`], which call these. Implement the trait for a type that contains a source,
/// by passing the calls on to it; a bare descriptor becomes a source as a `unix::SourceFd`.
///
/// # Dropping a source
///
/// Deregister a source before dropping it: the kernel ends a registration with the *last* duplicate of a descriptor, and a
/// forked child may hold one.
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
/// # fn main() -> io::Result<()> {
/// let poll = Poll::new()?;
/// let mut resolver = Resolver { socket: UdpSocket::bind("127.0.0.1:0".parse().unwrap())? };
/// poll.registry().register(&mut resolver, Token(0), Interest::READABLE)?;
/// # Ok(())
/// # }
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

/// Implements [`Source`] and the conversions from and to descriptors for a type of one field: `inner`, an
/// [`IoSource`](crate::io_source::IoSource) around `$std`. `From<OwnedFd>` makes it a source of the given kind.
#[cfg(any(feature = "net", feature = "os-ext"))]
macro_rules! descriptor_owner {
    ($name:ident, $std:ty, $kind:ident) => {
        impl crate::event::Source for $name {
            fn register(
                &mut self,
                registry: &crate::Registry,
                token: crate::Token,
                interests: crate::Interest,
            ) -> std::io::Result<()> {
                crate::event::Source::register(&mut self.inner, registry, token, interests)
            }

            fn reregister(
                &mut self,
                registry: &crate::Registry,
                token: crate::Token,
                interests: crate::Interest,
            ) -> std::io::Result<()> {
                crate::event::Source::reregister(&mut self.inner, registry, token, interests)
            }

            fn deregister(&mut self, registry: &crate::Registry) -> std::io::Result<()> {
                crate::event::Source::deregister(&mut self.inner, registry)
            }
        }

        impl std::os::fd::AsFd for $name {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                std::os::fd::AsFd::as_fd(&*self.inner)
            }
        }

        impl std::os::fd::AsRawFd for $name {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsRawFd::as_raw_fd(&*self.inner)
            }
        }

        /// The descriptor keeps its registration.
        impl std::os::fd::IntoRawFd for $name {
            fn into_raw_fd(self) -> std::os::fd::RawFd {
                std::os::fd::IntoRawFd::into_raw_fd(self.inner.into_inner())
            }
        }

        /// The caller must put the descriptor into non-blocking mode.
        impl std::os::fd::FromRawFd for $name {
            unsafe fn from_raw_fd(fd: std::os::fd::RawFd) -> $name {
                // SAFETY: the caller hands over an open descriptor that nothing else owns.
                let fd: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
                $name::from(fd)
            }
        }

        /// The caller must put the descriptor into non-blocking mode.
        impl From<std::os::fd::OwnedFd> for $name {
            fn from(fd: std::os::fd::OwnedFd) -> $name {
                $name { inner: crate::io_source::IoSource::new(<$std>::from(fd), crate::io_source::SourceKind::$kind) }
            }
        }

        /// The descriptor keeps its registration and its non-blocking mode.
        impl From<$name> for std::os::fd::OwnedFd {
            fn from(owner: $name) -> std::os::fd::OwnedFd {
                owner.inner.into_inner().into()
            }
        }
    };
}

/// Implements `Read` for `$name` and `&$name` by reading from `inner`.
#[cfg(any(feature = "net", feature = "os-ext"))]
macro_rules! readable {
    ($($name:ty),+) => {$(
        impl std::io::Read for $name {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                std::io::Read::read(&mut &*self.inner, buf)
            }

            fn read_vectored(&mut self, bufs: &mut [std::io::IoSliceMut<'_>]) -> std::io::Result<usize> {
                std::io::Read::read_vectored(&mut &*self.inner, bufs)
            }
        }
    )+};
}

/// Implements `Write` for `$name` and `&$name` by writing to `inner`.
#[cfg(any(feature = "net", feature = "os-ext"))]
macro_rules! writable {
    ($($name:ty),+) => {$(
        impl std::io::Write for $name {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                std::io::Write::write(&mut &*self.inner, buf)
            }

            fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                std::io::Write::write_vectored(&mut &*self.inner, bufs)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                std::io::Write::flush(&mut &*self.inner)
            }
        }
    )+};
}

#[cfg(any(feature = "net", feature = "os-ext"))]
pub(crate) use {descriptor_owner, readable, writable};
