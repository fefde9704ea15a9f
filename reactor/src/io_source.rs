//! The adapter behind every type that owns a descriptor.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};

use crate::{Interest, Registry, Token, event, sys};

use crate::selector::Selector;
#[cfg(feature = "net")]
pub(crate) use crate::selector::remember_pair;
pub(crate) use crate::source_kind::SourceKind;
use crate::source_kind::SourceTag;

/// A descriptor owner that can be registered.
///
/// epoll and kqueue keep the readiness, so there is no user-space state to update around an operation: the types built
/// on this call `inner` directly.
pub(crate) struct IoSource<T> {
    // Declared first: fields drop in this order, and the table must forget the descriptor before it is closed.
    registration: Registration,
    inner: T,
}

impl<T: AsRawFd> IoSource<T> {
    pub(crate) fn new(io: T, kind: SourceKind) -> IoSource<T> {
        IoSource { registration: Registration::new(io.as_raw_fd(), kind), inner: io }
    }

    /// The descriptor's owner; a kernel registration stays as it is.
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
        self.registration.register(registry, self.inner.as_raw_fd(), token, interests)
    }

    #[inline(always)]
    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.registration.reregister(registry, self.inner.as_raw_fd(), token, interests)
    }

    #[inline(always)]
    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.registration.deregister(registry, self.inner.as_raw_fd())
    }
}

impl<T: fmt::Debug> fmt::Debug for IoSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Where a source is registered.
///
/// The kernel finds out about most misuse by itself (`EEXIST`, `ENOENT`); what it cannot see is a source that goes to a
/// second selector while it is still in the first. Dropped while registered, it tells the registration tables that the
/// number it stood under is about to mean something else.
#[derive(Debug)]
pub(crate) struct Registration {
    /// The selector's number, or 0.
    selector: u32,
    #[cfg(feature = "cponfork")]
    fd: RawFd,
    #[cfg(feature = "cponfork")]
    tag: SourceTag,
}

impl Registration {
    pub(crate) fn new(fd: RawFd, kind: SourceKind) -> Registration {
        #[cfg(not(feature = "cponfork"))]
        let _ = (fd, kind);
        Registration {
            selector: 0,
            #[cfg(feature = "cponfork")]
            fd,
            #[cfg(feature = "cponfork")]
            tag: SourceTag::of(kind),
        }
    }

    #[inline(always)]
    pub(crate) fn register(
        &mut self,
        registry: &Registry,
        fd: RawFd,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let selector = registry.selector();
        if self.selector == 0
            && let Some(vacancy) = selector.vacancy(fd)
        {
            self.selector = selector.id();
            return vacancy.register(token, interest, self.tag()).inspect_err(|_| self.selector = 0);
        }
        self.register_with_care(selector, fd, token, interest)
    }

    #[cold]
    fn register_with_care(
        &mut self,
        selector: &Selector,
        fd: RawFd,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        if self.is_elsewhere(selector) {
            return Err(registered_elsewhere());
        }
        // With a table it is the table that says so.
        if cfg!(not(feature = "cponfork")) && !sys::Queue::IS_EXACT && self.selector != 0 {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        selector.register(fd, token, interest, self.tag())?;
        self.selector = selector.id();
        Ok(())
    }

    #[inline(always)]
    fn reregister(&mut self, registry: &Registry, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let selector = registry.selector();
        if self.selector == selector.id()
            && let Some(plain) = selector.plain(fd)
        {
            return plain.reregister(token, interest);
        }
        self.reregister_with_care(selector, fd, token, interest)
    }

    #[cold]
    fn reregister_with_care(
        &mut self,
        selector: &Selector,
        fd: RawFd,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        if self.is_elsewhere(selector) {
            return Err(registered_elsewhere());
        }
        if cfg!(not(feature = "cponfork")) && !sys::Queue::IS_EXACT && self.selector == 0 {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        selector.reregister(fd, token, interest)
    }

    #[inline(always)]
    fn deregister(&mut self, registry: &Registry, fd: RawFd) -> io::Result<()> {
        let selector = registry.selector();
        if self.selector == selector.id()
            && let Some(plain) = selector.plain(fd)
        {
            self.selector = 0;
            return plain.deregister();
        }
        self.deregister_with_care(selector, fd)
    }

    #[cold]
    fn deregister_with_care(&mut self, selector: &Selector, fd: RawFd) -> io::Result<()> {
        if self.is_elsewhere(selector) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the source is not registered with this `Registry` but with another one",
            ));
        }
        let result = selector.deregister(fd);
        // A registration that stays, because a fork was under way, is still to be ended when the source is dropped.
        if result.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true) {
            self.selector = 0;
        }
        result
    }

    #[cfg(feature = "cponfork")]
    #[inline(always)]
    fn tag(&self) -> SourceTag {
        self.tag
    }

    /// Without forks nobody asks.
    #[cfg(not(feature = "cponfork"))]
    fn tag(&self) -> SourceTag {
        SourceTag::BARE
    }

    /// Registered with another selector that is still there. Without the list that forks need nobody knows whether it is,
    /// and as in mio only debug builds look.
    fn is_elsewhere(&self, selector: &Selector) -> bool {
        if self.selector == 0 || self.selector == selector.id() {
            return false;
        }
        #[cfg(feature = "cponfork")]
        let is_alive = crate::fork::is_alive(self.selector);
        #[cfg(not(feature = "cponfork"))]
        let is_alive = cfg!(debug_assertions);
        is_alive
    }

    /// The owner gives the descriptor away, open and registered as it is.
    fn release(self) {
        #[cfg(feature = "cponfork")]
        {
            if self.selector != 0 {
                crate::fork::given_away(self.selector, self.fd);
            }
            if self.tag == SourceTag::of(SourceKind::Pair) {
                crate::fork::forget_pair(self.fd);
            }
            std::mem::forget(self);
        }
    }
}

#[cfg(feature = "cponfork")]
impl Drop for Registration {
    fn drop(&mut self) {
        if self.selector != 0 {
            crate::fork::closing(self.selector, self.fd);
        }
        if self.tag == SourceTag::of(SourceKind::Pair) {
            crate::fork::forget_pair(self.fd);
        }
    }
}

fn registered_elsewhere() -> io::Error {
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        "the source is registered with a different `Registry`: deregister it there first",
    )
}
