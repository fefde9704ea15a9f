//! The adapter behind every type that owns a descriptor.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;

use crate::fork::SourceRegistration;
pub(crate) use crate::source_kind::SourceKind;
use crate::{Interest, Registry, Token, event, fork};

/// A descriptor owner that can be registered.
///
/// epoll and kqueue keep the readiness, so there is no user-space state to update around an operation: the types built
/// on this call `inner` directly.
pub(crate) struct IoSource<T> {
    // Declared first: fields drop in this order, and the registration ends before the descriptor is closed.
    registration: SourceRegistration,
    inner: T,
}

impl<T: AsRawFd> IoSource<T> {
    pub(crate) fn new(io: T, kind: SourceKind) -> IoSource<T> {
        IoSource { registration: SourceRegistration::new(io.as_raw_fd(), kind), inner: io }
    }

    /// Makes sources of the two ends of a stream socket pair. A fork that renews one end renews both.
    pub(crate) fn pair(a: T, b: T) -> (IoSource<T>, IoSource<T>) {
        fork::add_pair(a.as_raw_fd(), b.as_raw_fd());
        let end = |io| {
            let mut end = IoSource::new(io, SourceKind::Pair);
            end.registration.set_recorded();
            end
        };
        (end(a), end(b))
    }

    /// Returns the descriptor's owner. A kernel registration stays as it is.
    pub(crate) fn into_inner(self) -> T {
        let IoSource { registration, inner } = self;
        registration.release();
        inner
    }
}

impl<T> Deref for IoSource<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for IoSource<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: AsRawFd> event::Source for IoSource<T> {
    #[inline(always)]
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.registration.register(registry.selector(), token, interests)
    }

    #[inline(always)]
    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.registration.reregister(registry.selector(), token, interests)
    }

    #[inline(always)]
    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.registration.deregister(registry.selector())
    }
}

impl<T: fmt::Debug> fmt::Debug for IoSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
