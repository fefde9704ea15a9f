use super::gate;
use super::policy::{ForkPolicy, SourceKind, default_policy};
use crate::sync::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, pause};
use crate::{Interest, Token};

/// A registration, or room for one: 16 bytes, readable at any moment.
///
/// One thread at a time changes an entry. While the gate is open, this is the thread that owns the descriptor: the kernel gives
/// no thread a descriptor that is open already. While the gate is closed, it is the thread that has closed the gate.
#[derive(Debug)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct Entry {
    token: AtomicU64,
    /// The lower half of an [`EntryInfo`].
    flags: AtomicU16,
    /// Whether a thread is changing the entry, or checks whether it may. The mark is not a bit of `flags`: a thread that finds
    /// the gate closed takes its mark back, and must not overwrite flags that the fork may have changed meanwhile.
    is_marked: AtomicBool,
    /// The upper half of an [`EntryInfo`].
    absent_from: AtomicU32,
}

const _: () = assert!(cfg!(test) || size_of::<Entry>() == 16);

/// How many rounds to wait for another thread to end its change of a registration: about five seconds or more.
pub(super) const PATIENCE: u32 = 50_000;

impl Entry {
    #[inline]
    pub(crate) fn get(&self) -> Option<(Token, EntryInfo)> {
        let info = self.info();
        (!info.is_vacant()).then(|| (Token(self.token.load(Ordering::Relaxed) as usize), info))
    }

    #[inline(always)]
    pub(crate) fn info(&self) -> EntryInfo {
        let flags = u64::from(self.flags.load(Ordering::Acquire));
        EntryInfo(flags | u64::from(self.absent_from.load(Ordering::Relaxed)) << EntryInfo::ABSENT_FROM)
    }

    /// Marks the entry as being changed, and returns its previous state. If the gate is not open, removes the mark and
    /// returns `None`.
    #[inline(always)]
    pub(super) fn begin(&self) -> Option<EntryInfo> {
        self.is_marked.store(true, Ordering::Relaxed);
        if gate::is_open_after_mark() {
            return Some(self.info());
        }
        self.is_marked.store(false, Ordering::Release);
        None
    }

    #[inline(always)]
    pub(super) fn finish(&self, info: EntryInfo) {
        self.set_info(info);
        self.is_marked.store(false, Ordering::Release);
    }

    #[inline(always)]
    pub(crate) fn set_token(&self, token: Token) {
        self.token.store(token.0 as u64, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn set_info(&self, info: EntryInfo) {
        self.absent_from.store((info.0 >> EntryInfo::ABSENT_FROM) as u32, Ordering::Relaxed);
        self.flags.store(info.0 as u16, Ordering::Release);
    }

    pub(crate) fn vacate(&self) {
        self.set_info(EntryInfo::VACANT);
    }

    /// Waits up to `rounds` rounds until no thread is changing the entry. Returns `false` if a thread still is. While the gate
    /// is closed, no new change begins.
    pub(crate) fn settles_within(&self, rounds: u32) -> bool {
        (0..rounds).any(|round| {
            let is_marked = self.is_marked.load(Ordering::Acquire);
            if is_marked {
                pause(round);
            }
            !is_marked
        })
    }

    /// In the child of an unplanned fork, ends a change whose thread stayed in the parent. The child lacks a registration that
    /// was being added, and keeps one that was being changed or removed.
    pub(super) fn settle_after_fork(&self) {
        // Write only if there is a mark: the kernel must copy each page that a child writes to.
        if self.is_marked.load(Ordering::Relaxed) {
            self.is_marked.store(false, Ordering::Relaxed);
        }
    }
}

/// All of an [`Entry`] but its token, in one word:
///
/// | bits | |
/// |---|---|
/// | 0 to 5 | the interest; 0: no registration |
/// | 6 to 9 | the kind; 0: unknown, so each fork determines it |
/// | 10 to 12 | the policy; 0: the kind's default |
/// | 13 | bare: registered by descriptor, which may be closed without notice |
/// | 14 | muted |
/// | 15 | exclusive: an event need not wake all processes that wait for it |
/// | 32 to 63 | the first fork generation without the registration; 0: all generations have it |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryInfo(u64);

impl EntryInfo {
    pub(crate) const VACANT: EntryInfo = EntryInfo(0);

    const INTEREST: u64 = 0x3f;
    const KIND: u32 = 6;
    const POLICY: u32 = 10;
    const BARE: u64 = 1 << 13;
    const MUTED: u64 = 1 << 14;
    const EXCLUSIVE: u64 = 1 << 15;
    const ABSENT_FROM: u32 = 32;

    /// Makes a registration. `kind` is `None` for a bare descriptor, whose kind each fork determines. `policy` is the
    /// registration's own.
    #[inline(always)]
    pub(crate) fn new(interest: Interest, kind: Option<SourceKind>, policy: Option<ForkPolicy>) -> EntryInfo {
        let kind = kind.map_or(EntryInfo::BARE, |kind| (kind as u64) << EntryInfo::KIND);
        let policy = policy.map_or(0, |policy| (policy as u64) << EntryInfo::POLICY);
        EntryInfo(u64::from(interest.0.get()) | kind | policy)
    }

    #[inline(always)]
    pub(crate) fn is_vacant(self) -> bool {
        self.0 & EntryInfo::INTEREST == 0
    }

    /// Whether the kernel has the registration exactly as in the table: it is not muted, exclusive or absent.
    #[inline(always)]
    pub(crate) fn is_plain(self) -> bool {
        (1..EntryInfo::MUTED).contains(&self.0)
    }

    pub(crate) fn interest(self) -> Interest {
        // No caller asks for the interest of a vacant entry.
        Interest::from_bits((self.0 & EntryInfo::INTEREST) as u8).unwrap_or(Interest::READABLE)
    }

    /// Returns the interest as the kernel has it.
    pub(crate) fn kernel_interest(self) -> Interest {
        if self.is_exclusive() { self.interest().exclusive() } else { self.interest() }
    }

    #[inline(always)]
    pub(crate) fn with_interest(self, interest: Interest) -> EntryInfo {
        EntryInfo(self.0 & !EntryInfo::INTEREST | u64::from(interest.0.get()))
    }

    /// Returns the kind of the source; `None` if each fork must determine it.
    pub(crate) fn kind(self) -> Option<SourceKind> {
        SourceKind::from_bits((self.0 >> EntryInfo::KIND & 0xf) as u8)
    }

    pub(crate) fn with_kind(self, kind: SourceKind) -> EntryInfo {
        EntryInfo(self.0 & !(0xf << EntryInfo::KIND) | (kind as u64) << EntryInfo::KIND)
    }

    #[inline(always)]
    pub(crate) fn is_bare(self) -> bool {
        self.0 & EntryInfo::BARE != 0
    }

    /// Returns the registration as it is after the owner has given its descriptor away. It keeps the kind.
    pub(crate) fn as_bare(self) -> EntryInfo {
        EntryInfo(self.0 | EntryInfo::BARE)
    }

    pub(crate) fn own_policy(self) -> Option<ForkPolicy> {
        ForkPolicy::from_bits((self.0 >> EntryInfo::POLICY & 0x7) as u8)
    }

    /// Returns the registration's own policy, or the default of its kind.
    pub(crate) fn policy(self, kind: SourceKind) -> ForkPolicy {
        self.own_policy().unwrap_or_else(|| default_policy(kind))
    }

    /// Returns the registration with a policy of its own. The next fork decides again whether the child has the
    /// registration.
    pub(crate) fn with_policy(self, policy: ForkPolicy) -> EntryInfo {
        EntryInfo(self.0 & !(0x7 << EntryInfo::POLICY) | (policy as u64) << EntryInfo::POLICY).absent_from(None)
    }

    #[inline(always)]
    pub(crate) fn is_muted(self) -> bool {
        self.0 & EntryInfo::MUTED != 0
    }

    pub(crate) fn with_muted(self, muted: bool) -> EntryInfo {
        EntryInfo(if muted { self.0 | EntryInfo::MUTED } else { self.0 & !EntryInfo::MUTED })
    }

    #[inline(always)]
    pub(crate) fn is_exclusive(self) -> bool {
        self.0 & EntryInfo::EXCLUSIVE != 0
    }

    pub(crate) fn with_exclusive(self, exclusive: bool) -> EntryInfo {
        EntryInfo(if exclusive { self.0 | EntryInfo::EXCLUSIVE } else { self.0 & !EntryInfo::EXCLUSIVE })
    }

    /// Returns the registration, marked as absent from `generation` and all later ones. `None` removes the mark.
    pub(crate) fn absent_from(self, generation: Option<u32>) -> EntryInfo {
        let generation = u64::from(generation.unwrap_or(0));
        EntryInfo(self.0 & !(u64::from(u32::MAX) << EntryInfo::ABSENT_FROM) | generation << EntryInfo::ABSENT_FROM)
    }

    /// Whether one of the forks up to this generation has left the registration out.
    pub(crate) fn is_absent(self, generation: u32) -> bool {
        let absent_from = (self.0 >> EntryInfo::ABSENT_FROM) as u32;
        absent_from != 0 && absent_from <= generation
    }
}
