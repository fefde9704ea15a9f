//! The selectors of this process.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::selector::Shared;

/// The selectors that exist, in the order in which they were made.
///
/// Changed under the lock, by one store: whoever is interrupted in the middle of it, or does not exist in the child of a
/// fork, leaves a list that can be walked.
#[derive(Debug)]
pub(super) struct Selectors {
    first: Link,
}

/// A selector's successor in the list.
#[derive(Debug)]
pub(crate) struct Link(AtomicPtr<Shared>);

impl Link {
    pub(crate) const fn new() -> Link {
        Link(AtomicPtr::new(ptr::null_mut()))
    }

    fn get(&self) -> Option<Live> {
        let next = self.0.load(Ordering::Acquire);
        (!next.is_null()).then_some(Live(next))
    }
}

/// A selector that exists: it leaves the list, under the lock, before it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live(*const Shared);

// SAFETY: `Shared` is `Sync`, and the pointer is valid wherever the list is locked.
unsafe impl Send for Live {}

impl Live {
    pub(super) fn of(selector: *const Shared) -> Live {
        Live(selector)
    }

    /// Only to be called while the lock is held, or in a child that has one thread.
    pub(super) fn get(&self) -> &Shared {
        // SAFETY: nobody else can free the selector meanwhile.
        unsafe { &*self.0 }
    }
}

impl Selectors {
    pub(super) const fn new() -> Selectors {
        Selectors { first: Link::new() }
    }

    /// Only to be used while the lock is held, or in a child that has one thread.
    pub(super) fn iter(&self) -> impl Iterator<Item = Live> + use<> {
        let mut next = self.first.get();
        std::iter::from_fn(move || {
            let live = next?;
            next = live.get().link.get();
            Some(live)
        })
    }

    #[cfg(feature = "atfork")]
    pub(super) fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }

    /// Under the lock.
    pub(super) fn push(&self, live: Live) {
        let last = self.iter().last();
        let link = last.as_ref().map_or(&self.first, |last| &last.get().link);
        link.0.store(live.0.cast_mut(), Ordering::Release);
    }

    /// Under the lock, or in a child that has one thread.
    pub(super) fn remove(&self, gone: Live) {
        let mut before = None::<Live>;
        for live in self.iter() {
            if live == gone {
                let link = before.as_ref().map_or(&self.first, |before| &before.get().link);
                link.0.store(gone.get().link.0.load(Ordering::Relaxed), Ordering::Release);
                return;
            }
            before = Some(live);
        }
    }
}
