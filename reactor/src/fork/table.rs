//! A selector's registrations, by descriptor number.

use std::fmt;
use std::os::fd::RawFd;
use std::panic::RefUnwindSafe;

use super::policy::{ForkPolicy, SourceKind};
use super::sync::{AtomicU64, FIRST_ENTRIES, Ordering, UnsafeCell, zeroed};
use crate::source_kind::SourceTag;
use crate::sys::process::SingleThreaded;
use crate::{Interest, Token};

/// An entry per descriptor number. Descriptors are small dense integers, so this is an array.
///
/// Whoever uses it is inside the selector's [gate](super::gate), or holds the lock of the world; whoever lets it grow has
/// shut the one and holds the other. So nobody looks while the array is replaced, and looking up takes no lock.
pub(crate) struct Table {
    entries: UnsafeCell<Box<[Entry]>>,
    /// The array's length while the [plain way](Table::plain) is open, otherwise 0.
    plain: UnsafeCell<usize>,
    /// Where it is said whether this is the only thread.
    single_threaded: SingleThreaded,
}

// SAFETY: entries are atomics. The array is replaced only while nobody else looks (see `grow`), and the plain way is for
// the only thread there is.
unsafe impl Sync for Table {}

// Nothing is left half done when a panic unwinds through a user: there is nothing that panics.
impl RefUnwindSafe for Table {}

impl Table {
    pub(crate) fn new() -> Table {
        Table {
            entries: UnsafeCell::new(Box::default()),
            plain: UnsafeCell::new(0),
            single_threaded: SingleThreaded::find(),
        }
    }

    /// The entry of `fd`; `None` if there is no room for it, or it is negative.
    pub(crate) fn get(&self, fd: RawFd) -> Option<&Entry> {
        self.entries().get(usize::try_from(fd).ok()?)
    }

    /// The entry of `fd` for the only thread that the process has, which need not go through the gate to get at it: one
    /// comparison says that there is room, that nobody has shut the gate, and that there is nothing to know first.
    #[inline(always)]
    pub(crate) fn plain(&self, fd: RawFd) -> Option<&Entry> {
        let index = fd.cast_unsigned() as usize;
        if !self.single_threaded.holds() {
            return None;
        }
        // SAFETY: this is the only thread.
        if index >= self.plain.with(|length| unsafe { *length }) {
            return None;
        }
        // SAFETY: there is room for no more than the positive numbers, and for this one.
        unsafe {
            std::hint::assert_unchecked(fd >= 0);
            Some(self.entries().get_unchecked(index))
        }
    }

    /// Opens the plain way, or closes it.
    ///
    /// # Safety
    ///
    /// Nobody else may use the table meanwhile, unless the process has another thread: then nobody looks.
    pub(crate) unsafe fn set_plain(&self, open: bool) {
        let length = if open { self.entries().len() } else { 0 };
        // SAFETY: the caller's promise.
        self.plain.with_mut(|plain| unsafe { *plain = length });
    }

    /// Every entry, with its descriptor.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RawFd, &Entry)> {
        (0..).zip(self.entries())
    }

    /// Makes room for `fd`. A negative number has none. The plain way is as long as it was.
    ///
    /// # Safety
    ///
    /// Nobody else may use the table meanwhile, and no reference to an entry may be left from before.
    pub(crate) unsafe fn grow(&self, fd: RawFd) {
        let Ok(index) = usize::try_from(fd) else { return };
        let old = self.entries();
        if index < old.len() {
            return;
        }
        let length = (index + 1).next_power_of_two().max(FIRST_ENTRIES);
        // SAFETY: an entry is two atomic integers, for which zero is a value: an absent registration.
        let larger = unsafe { zeroed(length, Entry::vacant) };
        for (new, old) in larger.iter().zip(old) {
            if let Some((token, about)) = old.get() {
                new.set(token, about);
            }
        }
        // SAFETY: the caller sees to it that nobody looks.
        let smaller = self.entries.with_mut(|entries| unsafe { std::mem::replace(&mut *entries, larger) });
        // Not before: a child that a signal handler forks here finds one or the other.
        drop(smaller);
    }

    #[inline(always)]
    fn entries(&self) -> &[Entry] {
        // SAFETY: it is replaced only in `grow`, when nobody looks.
        self.entries.with(|entries| unsafe { &**entries })
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
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

impl Entry {
    fn vacant() -> Entry {
        Entry { token: AtomicU64::new(0), about: AtomicU64::new(0) }
    }

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

    /// Token and interest of a registration change.
    #[inline(always)]
    pub(crate) fn change(&self, token: Token, interest: Interest) {
        self.set(token, About(self.about.load(Ordering::Relaxed)).with_interest(interest));
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

    /// Registered by number.
    pub(crate) fn is_bare(&self) -> bool {
        self.about.load(Ordering::Relaxed) & About::BARE != 0
    }

    /// No registration, and nothing to know of one that was here.
    #[inline(always)]
    pub(crate) fn is_vacant(&self) -> bool {
        self.about.load(Ordering::Relaxed) == 0
    }

    /// A registration of which there is nothing to know that the kernel does not.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        (1..About::PLAIN).contains(&self.about.load(Ordering::Relaxed))
    }
}

/// What an [`About`] says of the registration's own policy, ready to be put in, because that is done for each registration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyTag(u16);

impl PolicyTag {
    /// None of its own.
    pub(crate) const DEFAULT: PolicyTag = PolicyTag(0);

    pub(crate) const fn of(policy: ForkPolicy) -> PolicyTag {
        PolicyTag((policy as u16) << About::POLICY)
    }
}

/// What an [`Entry`] says beside the token, in one word:
///
/// | bits | |
/// |---|---|
/// | 0 to 5 | the interest; 0: no registration |
/// | 6 to 9 | the kind; 0: a bare descriptor whose kind no fork has looked at yet |
/// | 10 to 12 | the policy; 0: the kind's default |
/// | 13 | bare: registered by number, so nothing tells us when it is closed |
/// | 14 | muted |
/// | 15 | exclusive: an event wakes one of the processes that wait for it |
/// | 32 to 63 | the fork generation from which on processes do not have the registration; 0: none |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About(u64);

impl About {
    const INTEREST: u64 = 0x3f;
    const KIND: u32 = SourceTag::KIND;
    const POLICY: u32 = 10;
    const BARE: u64 = SourceTag::BARE.bits() as u64;
    const MUTED: u64 = 1 << 14;
    const EXCLUSIVE: u64 = 1 << 15;
    /// A registration whose word is below this one is [plain](Entry::is_plain).
    const PLAIN: u64 = About::MUTED;
    const DROPPED_IN: u32 = 32;

    /// A registration that was just made.
    #[inline(always)]
    pub(crate) fn new(interest: Interest, source: SourceTag, policy: PolicyTag) -> About {
        About(u64::from(interest.bits() as u16 | source.bits() | policy.0))
    }

    pub(crate) fn interest(self) -> Interest {
        // Never absent: `Entry::about` gives no word without one.
        Interest::from_bits((self.0 & About::INTEREST) as u8).unwrap_or(Interest::READABLE)
    }

    /// The interest as the kernel is to have it.
    pub(crate) fn kernel_interest(self) -> Interest {
        if self.is_exclusive() { self.interest().exclusive() } else { self.interest() }
    }

    #[inline(always)]
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
