//! The adapter behind every type that owns a descriptor, and the implementations that these types have in common.

use std::fmt;
use std::ops::Deref;
use std::os::fd::AsRawFd;

use crate::fork::SourceRegistration;
pub(crate) use crate::source_kind::SourceKind;

/// A descriptor owner that can be registered.
///
/// epoll and kqueue keep the readiness, so there is no user-space state to update around an operation: the types that
/// contain an `IoSource` call its `inner` directly.
pub(crate) struct IoSource<T> {
    // This field is the first, because fields drop in this order: the registration ends before the descriptor is closed.
    pub(crate) registration: SourceRegistration,
    inner: T,
}

impl<T: AsRawFd> IoSource<T> {
    pub(crate) fn new(io: T, kind: SourceKind) -> IoSource<T> {
        IoSource { registration: SourceRegistration::new(io.as_raw_fd(), kind, false), inner: io }
    }

    /// Makes a source that the module `fork` has a record of, until the source is dropped or gives its descriptor away.
    pub(crate) fn recorded(io: T, kind: SourceKind) -> IoSource<T> {
        IoSource { registration: SourceRegistration::new(io.as_raw_fd(), kind, true), inner: io }
    }

    /// Returns the descriptor's owner. A kernel registration stays as it is.
    pub(crate) fn into_inner(self) -> T {
        self.registration.release();
        self.inner
    }
}

impl<T> Deref for IoSource<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: fmt::Debug> fmt::Debug for IoSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Implements [`Source`](crate::event::Source), `AsFd` and `AsRawFd` for a type whose field `inner` is an [`IoSource`].
macro_rules! source {
    ($(#[$as_fd:meta])* $name:ident) => {
        const _: () = {
            use crate::{Interest, Registry, Token};
            use std::io::Result;

            impl crate::event::Source for $name {
                fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> Result<()> {
                    self.inner.registration.register(&registry.selector, token, interests)
                }

                fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> Result<()> {
                    self.inner.registration.reregister(&registry.selector, token, interests)
                }

                fn deregister(&mut self, registry: &Registry) -> Result<()> {
                    self.inner.registration.deregister(&registry.selector)
                }
            }
        };

        $(#[$as_fd])*
        impl std::os::fd::AsFd for $name {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                // SAFETY: the source owns the descriptor, so it is open for as long as `self` lives.
                unsafe { std::os::fd::BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(self)) }
            }
        }

        $(#[$as_fd])*
        impl std::os::fd::AsRawFd for $name {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsRawFd::as_raw_fd(&*self.inner)
            }
        }
    };
}

/// Calls [`source`], and implements the other conversions from and to descriptors, for a type of one field: `inner`, an
/// [`IoSource`] around `$std`. `From<OwnedFd>` makes a source of the given kind.
macro_rules! descriptor_owner {
    ($name:ident, $std:ty, $kind:ident) => {
        crate::io_source::source!($name);

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
                $name { inner: IoSource::new(<$std>::from(fd), SourceKind::$kind) }
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

/// Implements `Read` for each type, such as `TcpStream` and `&TcpStream`, by reading from `inner`.
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

/// Implements `Write` for each type, such as `TcpStream` and `&TcpStream`, by writing to `inner`.
macro_rules! writable {
    ($($name:ty),+) => {$(
        impl std::io::Write for $name {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                self.inner.registration.note_write();
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

/// Implements the method `try_io`. `$more` continues its documentation.
macro_rules! try_io {
    ($name:ident $(: $(#[$more:meta])+)?) => {
        impl $name {
            /// Runs an I/O operation that this type has no method for, such as receiving descriptors.
            ///
            /// The kernel keeps the readiness, so this only calls `f`. Portable programs need this method: on other systems mio
            /// re-arms the source when `f` fails with [`WouldBlock`](std::io::ErrorKind::WouldBlock).
            ///
            /// # Errors
            ///
            /// Those of `f`.
            ///
            $($(#[$more])+)?
            pub fn try_io<F: FnOnce() -> std::io::Result<T>, T>(&self, f: F) -> std::io::Result<T> {
                f()
            }
        }
    };
}

pub(crate) use {descriptor_owner, readable, source, try_io, writable};
