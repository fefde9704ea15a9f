//! Tables indexed by descriptor number.

use std::fmt;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::policy::{ForkPolicy, SourceKind};
use crate::{Interest, Token};

/// Entries per chunk: 4 KiB of [`Entry`], so that a process of a few hundred descriptors touches one page.
const CHUNK: usize = 256;

type Chunk<T> = [T; CHUNK];

/// A value per descriptor, made of atomics, zero until first written.
///
/// Descriptors are small dense integers: two levels of arrays, of which the second is allocated in chunks on first use
/// and never moves. Reading takes no lock and allocates nothing.
pub(crate) struct FdTable<T> {
    root: AtomicPtr<Root<T>>,
    growing: Mutex<()>,
}

struct Root<T> {
    chunks: Box<[AtomicPtr<Chunk<T>>]>,
    /// The smaller root before this one, or null: somebody may still be reading it.
    before: *mut Root<T>,
}

/// Types whose all-zero bytes are a valid value.
///
/// # Safety
///
/// It must be so.
pub(crate) unsafe trait Zeroed: Sync {}

impl<T: Zeroed> FdTable<T> {
    pub(crate) const fn new() -> FdTable<T> {
        FdTable { root: AtomicPtr::new(ptr::null_mut()), growing: Mutex::new(()) }
    }

    /// The value of `fd`, or `None` if nothing near it was ever written.
    pub(crate) fn get(&self, fd: RawFd) -> Option<&T> {
        let fd = usize::try_from(fd).ok()?;
        let chunk = self.root()?.chunks.get(fd / CHUNK)?.load(Ordering::Acquire);
        // SAFETY: a chunk, once published, lives as long as the table.
        unsafe { chunk.as_ref() }.map(|chunk| &chunk[fd % CHUNK])
    }

    /// The value of `fd`, making room for it if need be. `None` for a negative number.
    pub(crate) fn get_or_make(&self, fd: RawFd) -> Option<&T> {
        match self.get(fd) {
            Some(value) => Some(value),
            None => self.make(usize::try_from(fd).ok()?),
        }
    }

    #[cold]
    fn make(&self, fd: usize) -> Option<&T> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let index = fd / CHUNK;
        let chunks = match self.root() {
            Some(root) if index < root.chunks.len() => &root.chunks,
            _ => {
                let before = self.root.load(Ordering::Relaxed);
                let old: &[AtomicPtr<Chunk<T>>] = self.root().map_or(&[], |root| &root.chunks);
                let length = (index + 1).next_power_of_two().max(4);
                let pointers = old.iter().map(|chunk| chunk.load(Ordering::Relaxed));
                let chunks = pointers.chain(std::iter::repeat(ptr::null_mut())).take(length).map(AtomicPtr::new);
                let root = Root { chunks: chunks.collect(), before };
                self.root.store(Box::into_raw(Box::new(root)), Ordering::Release);
                &self.root()?.chunks
            }
        };
        let mut chunk = chunks[index].load(Ordering::Relaxed);
        if chunk.is_null() {
            // SAFETY: `T: Zeroed`.
            chunk = Box::into_raw(unsafe { Box::<Chunk<T>>::new_zeroed().assume_init() });
            chunks[index].store(chunk, Ordering::Release);
        }
        // SAFETY: as in `get`.
        unsafe { chunk.as_ref() }.map(|chunk| &chunk[fd % CHUNK])
    }

    /// Every value whose chunk is there, with its descriptor.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RawFd, &T)> {
        let chunks = self.root().map_or(&[][..], |root| &root.chunks).iter().enumerate();
        chunks.flat_map(|(index, chunk)| {
            // SAFETY: as in `get`.
            let chunk = unsafe { chunk.load(Ordering::Acquire).as_ref() };
            let first = index * CHUNK;
            chunk.into_iter().flatten().enumerate().map(move |(offset, value)| ((first + offset) as RawFd, value))
        })
    }

    fn root(&self) -> Option<&Root<T>> {
        // SAFETY: null or from `Box::into_raw`; a root that is replaced is freed with the table, not before.
        unsafe { self.root.load(Ordering::Acquire).as_ref() }
    }
}

impl<T> Drop for FdTable<T> {
    fn drop(&mut self) {
        let mut root = *self.root.get_mut();
        let mut is_newest = true;
        while !root.is_null() {
            // SAFETY: from `Box::into_raw`, and nobody has a reference any more.
            let owned = unsafe { Box::from_raw(root) };
            root = owned.before;
            // The newest root names every chunk, those before it some of them again.
            let chunks = owned.chunks.iter().filter(|_| is_newest).map(|chunk| chunk.load(Ordering::Relaxed));
            for chunk in chunks.filter(|chunk| !chunk.is_null()) {
                // SAFETY: from `Box::into_raw`, once.
                drop(unsafe { Box::from_raw(chunk) });
            }
            is_newest = false;
        }
    }
}

impl<T> fmt::Debug for FdTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FdTable").finish_non_exhaustive()
    }
}

/// A registration in a selector's table: 16 bytes, readable at any moment.
///
/// Written inside the selector's gate, and for one descriptor by one thread at a time: the kernel hands a number out
/// again only after it was closed.
#[derive(Debug)]
pub(crate) struct Entry {
    token: AtomicU64,
    about: AtomicU64,
}

// SAFETY: two atomic integers of zero: an absent registration.
unsafe impl Zeroed for Entry {}

impl Entry {
    #[inline]
    pub(crate) fn get(&self) -> Option<(Token, About)> {
        let about = self.about()?;
        Some((Token(self.token.load(Ordering::Relaxed) as usize), about))
    }

    /// What there is beside the token.
    #[inline]
    pub(crate) fn about(&self) -> Option<About> {
        Some(About(self.about.load(Ordering::Acquire))).filter(|about| about.0 & About::INTEREST != 0)
    }

    #[inline]
    pub(crate) fn set(&self, token: Token, about: About) {
        self.token.store(token.0 as u64, Ordering::Relaxed);
        self.about.store(about.0, Ordering::Release);
    }

    /// Muted, by a source that tells us when it is closed: registered, although the kernel does not know.
    #[inline]
    pub(crate) fn is_withheld(&self) -> bool {
        self.about.load(Ordering::Relaxed) & (About::MUTED | About::BARE) == About::MUTED
    }

    #[inline]
    pub(crate) fn clear(&self) {
        self.about.store(0, Ordering::Release);
    }
}

/// What an [`Entry`] says beside the token, in one word:
///
/// | bits | |
/// |---|---|
/// | 0 to 5 | the interest; 0: no registration |
/// | 6 to 9 | the kind; 0: a bare descriptor whose kind no fork has looked at yet |
/// | 10 to 12 | the policy; 0: the kind's default |
/// | 13 | muted |
/// | 14 | bare: registered by number, so nothing tells us when it is closed |
/// | 15 | exclusive: an event wakes one of the processes that wait for it |
/// | 32 to 63 | the fork generation from which on processes do not have the registration; 0: none |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About(u64);

impl About {
    const INTEREST: u64 = 0x3f;
    const KIND: u32 = 6;
    const POLICY: u32 = 10;
    const MUTED: u64 = 1 << 13;
    const BARE: u64 = 1 << 14;
    const EXCLUSIVE: u64 = 1 << 15;
    const DROPPED_IN: u32 = 32;

    /// A registration that was just made. Without a kind it is a bare descriptor.
    #[inline]
    pub(crate) fn new(interest: Interest, kind: Option<SourceKind>, policy: Option<ForkPolicy>) -> About {
        let kind = kind.map_or(About::BARE, |kind| (kind as u64) << About::KIND);
        let policy = policy.map_or(0, |policy| (policy as u64) << About::POLICY);
        About(u64::from(interest.bits()) | kind | policy)
    }

    pub(crate) fn interest(self) -> Interest {
        // Never absent: `Entry::about` gives no word without one.
        Interest::from_bits((self.0 & About::INTEREST) as u8).unwrap_or(Interest::READABLE)
    }

    /// The interest as the kernel is to have it.
    pub(crate) fn kernel_interest(self) -> Interest {
        if self.is_exclusive() { self.interest().exclusive() } else { self.interest() }
    }

    #[inline]
    pub(crate) fn with_interest(self, interest: Interest) -> About {
        About(self.0 & !About::INTEREST | u64::from(interest.bits()))
    }

    pub(crate) fn kind(self) -> Option<SourceKind> {
        SourceKind::from_bits((self.0 >> About::KIND & 0xf) as u8)
    }

    pub(crate) fn with_kind(self, kind: SourceKind) -> About {
        About(self.0 & !(0xf << About::KIND) | (kind as u64) << About::KIND)
    }

    pub(crate) fn is_bare(self) -> bool {
        self.0 & About::BARE != 0
    }

    /// Registered by number from now on: nothing tells us when it is closed.
    pub(crate) fn as_bare(self) -> About {
        About(self.0 | About::BARE)
    }

    /// The registration's own policy, or its kind's default.
    pub(crate) fn policy(self) -> ForkPolicy {
        let default = || super::policy::default_policy(self.kind().unwrap_or(SourceKind::Other));
        ForkPolicy::from_bits((self.0 >> About::POLICY & 0x7) as u8).unwrap_or_else(default)
    }

    /// Whether it has a policy of its own.
    pub(crate) fn is_tagged(self) -> bool {
        ForkPolicy::from_bits((self.0 >> About::POLICY & 0x7) as u8).is_some()
    }

    /// With a policy of its own, which says anew whether children have it.
    pub(crate) fn with_policy(self, policy: ForkPolicy) -> About {
        About(self.0 & !(0x7 << About::POLICY) | (policy as u64) << About::POLICY).with_dropped_in(None)
    }

    #[inline]
    pub(crate) fn is_muted(self) -> bool {
        self.0 & About::MUTED != 0
    }

    #[inline]
    pub(crate) fn is_exclusive(self) -> bool {
        self.0 & About::EXCLUSIVE != 0
    }

    pub(crate) fn with_exclusive(self, exclusive: bool) -> About {
        About(if exclusive { self.0 | About::EXCLUSIVE } else { self.0 & !About::EXCLUSIVE })
    }

    pub(crate) fn with_muted(self, muted: bool) -> About {
        About(if muted { self.0 | About::MUTED } else { self.0 & !About::MUTED })
    }

    /// Processes of this and later generations do not have the registration; `None`: all have it.
    pub(crate) fn with_dropped_in(self, generation: Option<u32>) -> About {
        About(
            self.0 & !(u64::from(u32::MAX) << About::DROPPED_IN)
                | u64::from(generation.unwrap_or(0)) << About::DROPPED_IN,
        )
    }

    /// Whether the fork that made the process of this generation left the registration out.
    #[inline]
    pub(crate) fn is_dropped(self, generation: u32) -> bool {
        let dropped_in = self.0 >> About::DROPPED_IN;
        dropped_in != 0 && dropped_in <= u64::from(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_back_what_it_was_given() {
        let table = FdTable::<Entry>::new();
        assert!(table.get(3).is_none() && table.get(-1).is_none() && table.get_or_make(-1).is_none());
        let interest = Interest::READABLE | Interest::WRITABLE;
        for (fd, kind) in [(3, 1), (255, 2), (256, 7), (1_000_000, 12), (5_000, 3)] {
            let kind = SourceKind::from_bits(kind).unwrap();
            let about = About::new(interest, Some(kind), Some(ForkPolicy::Sever));
            table.get_or_make(fd).unwrap().set(Token(usize::MAX - kind as usize), about);
            let (token, read) = table.get(fd).unwrap().get().unwrap();
            assert_eq!((token, read), (Token(usize::MAX - kind as usize), about));
            assert_eq!((read.interest(), read.kind(), read.policy()), (interest, Some(kind), ForkPolicy::Sever));
        }
        let present = |(fd, entry): (RawFd, &Entry)| entry.get().map(|_| fd);
        assert_eq!(table.iter().filter_map(present).collect::<Vec<_>>(), [3, 255, 256, 5_000, 1_000_000]);
        table.get(255).unwrap().clear();
        assert!(table.get(255).unwrap().get().is_none());
    }

    #[test]
    fn what_is_said_about_a_registration_stays_apart() {
        let about = About::new(Interest::WRITABLE, None, None);
        assert!(about.is_bare() && !about.is_muted() && !about.is_dropped(0) && about.kind().is_none());
        assert_eq!(about.policy(), ForkPolicy::Inherit);
        let changed = about
            .with_interest(Interest::READABLE)
            .with_kind(SourceKind::Other)
            .with_policy(ForkPolicy::NoFork)
            .with_muted(true)
            .with_exclusive(true)
            .with_dropped_in(Some(2));
        assert_eq!((changed.interest(), changed.kind()), (Interest::READABLE, Some(SourceKind::Other)));
        assert_eq!(changed.policy(), ForkPolicy::NoFork);
        assert!(changed.is_bare() && changed.is_muted() && changed.is_exclusive());
        assert_eq!(changed.kernel_interest(), Interest::READABLE.exclusive());
        assert!(!changed.is_dropped(1) && changed.is_dropped(2) && changed.is_dropped(3));
        let back =
            changed.with_muted(false).with_exclusive(false).with_dropped_in(None).with_interest(Interest::WRITABLE);
        assert_eq!(back, about.with_kind(SourceKind::Other).with_policy(ForkPolicy::NoFork));
    }

    #[test]
    fn threads_that_grow_a_table_find_each_others_entries() {
        let table = FdTable::<Entry>::new();
        let about = About::new(Interest::READABLE, None, None);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for fd in (thread..40_000).step_by(4) {
                        table.get_or_make(fd).unwrap().set(Token(fd as usize), about);
                    }
                });
            }
        });
        assert!((0..40_000).all(|fd| table.get(fd).unwrap().get() == Some((Token(fd as usize), about))));
    }
}
