use std::{fmt, slice};

use crate::event::Event;
use crate::sys;

/// Room for the events that [`Poll::poll`](crate::Poll::poll) returns, made once and used for every poll.
///
/// The capacity is fixed. It limits the events of one poll; the rest comes with the next poll.
///
/// # Examples
///
#[cfg_attr(feature = "os-poll", doc = "```")]
#[cfg_attr(not(feature = "os-poll"), doc = "```ignore")]
/// use forkio_reactor::{Events, Poll};
/// use std::time::Duration;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(1024);
/// poll.poll(&mut events, Some(Duration::ZERO))?;
/// for event in &events {
///     println!("ready: {:?}", event.token());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Events {
    pub(crate) inner: sys::Events,
}

impl Events {
    /// Makes room for `capacity` events.
    ///
    /// On epoll a poll with room for no event fails with [`InvalidInput`](std::io::ErrorKind::InvalidInput).
    ///
    /// # Panics
    ///
    /// If `capacity` events take more than `isize::MAX` bytes.
    pub fn with_capacity(capacity: usize) -> Events {
        Events { inner: sys::Events::with_capacity(capacity) }
    }

    /// Returns how many events there is room for.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(forkio_reactor::Events::with_capacity(1024).capacity(), 1024);
    /// ```
    pub fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// Whether the last poll returned no event.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Iterates over the events of the last poll.
    pub fn iter(&self) -> Iter<'_> {
        Iter { inner: self.inner.iter() }
    }

    /// Forgets the events. You need not call this method, because every poll does the same first.
    pub fn clear(&mut self) {
        self.inner.clear();
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = &'a Event;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// Iterates over [`Events`]; made by [`Events::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    inner: slice::Iter<'a, Event>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Event;

    fn next(&mut self) -> Option<&'a Event> {
        self.inner.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }

    fn count(self) -> usize {
        self.inner.count()
    }
}
