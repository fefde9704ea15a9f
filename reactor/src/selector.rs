//! One kernel queue, the wakers on it and, with `cponfork`, its registration table.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::source_kind::SourceTag;
use crate::sync::{AtomicU32, Ordering};
pub(crate) use crate::wake_slots::{WakeSlot, WakeSlots};
use crate::{Interest, Token, sys};

#[cfg(feature = "cponfork")]
use crate::fork::{
    ForkPolicy,
    registered::Registered,
    selectors::Link,
    table::{About, Entry, PolicyTag},
};

#[cfg(feature = "cponfork")]
type Handle = crate::fork::Adopted;
#[cfg(not(feature = "cponfork"))]
type Handle = Arc<Shared>;

/// A handle to a selector. All handles of one selector share a descriptor, so a fork has one number to look after.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    shared: Handle,
    /// What registrations made through this handle are tagged with.
    #[cfg(feature = "cponfork")]
    policy: PolicyTag,
}

/// What the handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) queue: sys::Queue,
    pub(crate) id: u32,
    pub(crate) wakers: WakeSlots,
    #[cfg(feature = "cponfork")]
    pub(crate) registered: Registered,
    #[cfg(feature = "cponfork")]
    pub(crate) link: Link,
}

#[cfg(feature = "cponfork")]
impl Shared {
    /// From now on every poll fails with `errno`, and no wake reaches what may still be the parent's queue.
    /// Async-signal-safe.
    pub(crate) fn poison(&self, errno: i32) {
        self.registered.poison(errno);
        self.wakers.raise_all();
    }
}

impl Selector {
    pub(crate) fn new() -> io::Result<Selector> {
        /// Counts from 1; 0 stands for "not registered".
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        let shared = Shared {
            queue: sys::Queue::new()?,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            wakers: WakeSlots::default(),
            #[cfg(feature = "cponfork")]
            registered: Registered::default(),
            #[cfg(feature = "cponfork")]
            link: Link::new(),
        };
        #[cfg(feature = "cponfork")]
        let shared = Handle::new(shared)?;
        #[cfg(not(feature = "cponfork"))]
        let shared = Handle::new(shared);
        Ok(Selector {
            shared,
            #[cfg(feature = "cponfork")]
            policy: PolicyTag::DEFAULT,
        })
    }

    #[cfg(feature = "cponfork")]
    pub(crate) fn with_policy(&self, policy: ForkPolicy) -> Selector {
        Selector { shared: self.shared.clone(), policy: PolicyTag::of(policy) }
    }

    #[inline(always)]
    pub(crate) fn id(&self) -> u32 {
        self.shared.id
    }

    pub(crate) fn select(&self, events: &mut sys::Events, timeout: Option<Duration>) -> io::Result<()> {
        #[cfg(feature = "cponfork")]
        let timeout = self.shared.registered.before_poll(timeout)?;
        self.shared.queue.wait(events, timeout)?;
        if !events.is_empty() {
            self.shared.wakers.acknowledge(|token| events.iter().any(|event| sys::event::token(event) == token));
        }
        Ok(())
    }

    /// Where to register `fd`, unless that takes particular care.
    #[inline(always)]
    pub(crate) fn vacancy(&self, fd: RawFd) -> Option<Plain<'_>> {
        Some(Plain {
            selector: self,
            fd,
            #[cfg(feature = "cponfork")]
            entry: self.shared.registered.vacancy(fd)?,
        })
    }

    /// The registration of `fd`, unless it takes particular care.
    #[inline(always)]
    pub(crate) fn plain(&self, fd: RawFd) -> Option<Plain<'_>> {
        Some(Plain {
            selector: self,
            fd,
            #[cfg(feature = "cponfork")]
            entry: self.shared.registered.plain(fd)?,
        })
    }

    #[inline]
    pub(crate) fn register(&self, fd: RawFd, token: Token, interest: Interest, source: SourceTag) -> io::Result<()> {
        match self.vacancy(fd) {
            Some(vacancy) => vacancy.register(token, interest, source),
            None => self.register_with_care(fd, token, interest, source),
        }
    }

    #[inline]
    pub(crate) fn reregister(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        match self.plain(fd) {
            Some(plain) => plain.reregister(token, interest),
            None => self.reregister_with_care(fd, token, interest),
        }
    }

    #[inline]
    pub(crate) fn deregister(&self, fd: RawFd) -> io::Result<()> {
        match self.plain(fd) {
            Some(plain) => plain.deregister(),
            None => self.deregister_with_care(fd),
        }
    }

    #[cold]
    fn register_with_care(&self, fd: RawFd, token: Token, interest: Interest, source: SourceTag) -> io::Result<()> {
        #[cfg(feature = "cponfork")]
        {
            let about = About::new(interest, source, self.policy);
            self.shared.registered.register(&self.shared.queue, fd, token, about)
        }
        #[cfg(not(feature = "cponfork"))]
        {
            let _ = source;
            self.shared.queue.add(fd, token, interest)
        }
    }

    #[cold]
    fn reregister_with_care(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        #[cfg(feature = "cponfork")]
        {
            self.shared.registered.reregister(&self.shared.queue, fd, token, interest)
        }
        #[cfg(not(feature = "cponfork"))]
        {
            self.shared.queue.modify(fd, token, interest)
        }
    }

    #[cold]
    fn deregister_with_care(&self, fd: RawFd) -> io::Result<()> {
        #[cfg(feature = "cponfork")]
        {
            self.shared.registered.deregister(&self.shared.queue, fd)
        }
        #[cfg(not(feature = "cponfork"))]
        {
            self.shared.queue.delete(fd)
        }
    }

    /// A slot in which the poller can see a waker.
    pub(crate) fn occupy_wake_slot(&self, token: Token) -> Arc<WakeSlot> {
        self.shared.wakers.occupy(token)
    }

    /// Whether this process does without the selector, so that nobody can be polling.
    #[cfg(feature = "cponfork")]
    #[allow(dead_code, reason = "where a waker is an event of its queue")]
    pub(crate) fn is_retired(&self) -> bool {
        self.shared.registered.is_retired() && self.shared.registered.check_poison().is_err()
    }

    #[allow(dead_code, reason = "where a waker is an event of its queue")]
    pub(crate) fn queue(&self) -> &sys::Queue {
        &self.shared.queue
    }

    /// Adds or removes a waker that is an event of the queue's own; not while a fork looks.
    #[allow(dead_code, reason = "where a waker is an event of its queue")]
    pub(crate) fn change_wake_event(&self, change: impl FnOnce(&sys::Queue) -> io::Result<()>) -> io::Result<()> {
        #[cfg(feature = "cponfork")]
        let _inside = self.shared.registered.enter()?;
        change(&self.shared.queue)
    }
}

/// A registration, made or to be made, that takes no particular care: the way of most, so as short as can be. The table is
/// changed before the kernel is asked, so that nothing is left to do after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain<'a> {
    selector: &'a Selector,
    fd: RawFd,
    #[cfg(feature = "cponfork")]
    entry: &'a Entry,
}

impl Plain<'_> {
    #[inline(always)]
    pub(crate) fn register(self, token: Token, interest: Interest, source: SourceTag) -> io::Result<()> {
        #[cfg(feature = "cponfork")]
        self.entry.set(token, About::new(interest, source, self.selector.policy));
        #[cfg(not(feature = "cponfork"))]
        let _ = source;
        self.selector.shared.queue.add(self.fd, token, interest).map_err(|error| self.forget(error))
    }

    #[inline(always)]
    pub(crate) fn reregister(self, token: Token, interest: Interest) -> io::Result<()> {
        #[cfg(feature = "cponfork")]
        self.entry.change(token, interest);
        // It fails only if the kernel does not have the registration.
        self.selector.shared.queue.modify(self.fd, token, interest).map_err(|error| self.forget(error))
    }

    #[inline(always)]
    pub(crate) fn deregister(self) -> io::Result<()> {
        // Whatever the kernel says, it does not have the number afterwards.
        #[cfg(feature = "cponfork")]
        self.entry.clear();
        match self.selector.shared.queue.delete(self.fd) {
            // Its owner has it open, so the kernel has taken the registration back.
            Err(error) if !sys::Queue::IS_EXACT && error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    #[cold]
    fn forget(self, error: io::Error) -> io::Error {
        #[cfg(feature = "cponfork")]
        self.entry.clear();
        error
    }
}

impl AsFd for Selector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.queue.as_fd()
    }
}

/// Notes that `a` and `b` are the two ends of one pair: renewing one means renewing both.
#[cfg(feature = "net")]
pub(crate) fn remember_pair(a: &impl AsFd, b: &impl AsFd) {
    #[cfg(feature = "cponfork")]
    {
        use std::os::fd::AsRawFd;
        crate::fork::remember_pair(a.as_fd().as_raw_fd(), b.as_fd().as_raw_fd());
    }
    #[cfg(not(feature = "cponfork"))]
    let _ = (a, b);
}
