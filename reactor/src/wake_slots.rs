//! Where poller, wakers and forks meet.

use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock};

use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use super::wake_flag::WakeFlag;
use crate::Token;

/// What poller and waker share.
#[derive(Debug)]
pub(crate) struct WakeSlot {
    pub(crate) flag: WakeFlag,
    token: AtomicUsize,
    /// What the kernel knows the waker by, as only a fork asks: the number registered in the lower half and the one that
    /// is sent on in the upper, or an event's in both; all bits set: none.
    key: AtomicU64,
    /// Counted within the selector.
    number: u32,
    in_use: AtomicBool,
    next: OnceLock<Arc<WakeSlot>>,
}

impl WakeSlot {
    const NO_KEY: u64 = u64::MAX;

    /// The waker is gone. Its slot stays for the next one: the poller may be looking at it.
    pub(crate) fn vacate(&self) {
        self.flag.lower();
        // So that a fork does not take the slot for its next user's before that has filled it in.
        self.clear_key();
        self.in_use.store(false, Ordering::Release);
    }

    /// The waker's descriptors: the one that is registered, and the one that wakes are sent on.
    #[allow(dead_code, reason = "where a waker has descriptors")]
    pub(crate) fn set_descriptors(&self, registered: RawFd, sending: RawFd) {
        let key = u64::from(registered.cast_unsigned()) | u64::from(sending.cast_unsigned()) << 32;
        self.key.store(key, Ordering::Relaxed);
    }

    /// The waker is an event of the queue's own, known by the slot's number.
    #[allow(dead_code, reason = "where a waker is an event of its queue")]
    pub(crate) fn set_event(&self) {
        self.key.store(u64::from(self.number) | u64::from(self.number) << 32, Ordering::Relaxed);
    }

    pub(crate) fn clear_key(&self) {
        self.key.store(WakeSlot::NO_KEY, Ordering::Relaxed);
    }

    #[allow(dead_code, reason = "where a waker is an event of its queue")]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

/// The wakers of a selector: one as a rule. A list that only grows, so that the poller reads it without a lock.
#[derive(Debug, Default)]
pub(crate) struct WakeSlots(OnceLock<Arc<WakeSlot>>);

impl WakeSlots {
    /// Lowers the flag of each waker whose event is among `events`. A token that an unrelated source shares costs a
    /// waker no more than the saving of one system call: its own event is still in the queue.
    pub(crate) fn acknowledge(&self, is_among_events: impl Fn(Token) -> bool) {
        let mut next = self.0.get();
        while let Some(slot) = next {
            if slot.flag.is_raised() {
                let token = Token(slot.token.load(Ordering::Relaxed));
                if is_among_events(token) {
                    slot.flag.lower();
                }
            }
            next = slot.next.get();
        }
    }

    pub(crate) fn occupy(&self, token: Token) -> Arc<WakeSlot> {
        let mut link = &self.0;
        for number in 0.. {
            let slot = link.get_or_init(|| {
                Arc::new(WakeSlot {
                    flag: WakeFlag::new(),
                    token: AtomicUsize::new(0),
                    key: AtomicU64::new(WakeSlot::NO_KEY),
                    number,
                    in_use: AtomicBool::new(false),
                    next: OnceLock::new(),
                })
            });
            if slot.in_use.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                slot.token.store(token.0, Ordering::Relaxed);
                return Arc::clone(slot);
            }
            link = &slot.next;
        }
        unreachable!("as many wakers as descriptors")
    }

    /// The slot of the waker that is registered as `number`, a descriptor's or an event's, with the number that wakes are
    /// sent on. Both are of one look, because another thread may be dropping the waker.
    #[cfg(feature = "cponfork")]
    pub(crate) fn find(&self, number: u32) -> Option<(&WakeSlot, RawFd)> {
        let mut known = self.known();
        let (slot, key) = known.find(|(_, key)| *key as u32 == number)?;
        Some((slot, ((key >> 32) as u32).cast_signed()))
    }

    /// Has every waker believe that its wake is under way, so that none makes a system call any more. Async-signal-safe.
    #[cfg(feature = "cponfork")]
    pub(crate) fn raise_all(&self) {
        self.known().for_each(|(slot, _)| {
            slot.flag.raise();
        });
    }

    /// The wakers that the kernel knows, with their tokens.
    #[cfg(feature = "cponfork")]
    #[allow(dead_code, reason = "where a waker is an event of its queue")]
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, Token)> {
        self.known().map(|(slot, _)| (slot.number, Token(slot.token.load(Ordering::Relaxed))))
    }

    /// The wakers that the kernel knows, with their keys.
    #[cfg(feature = "cponfork")]
    fn known(&self) -> impl Iterator<Item = (&WakeSlot, u64)> {
        let first = self.0.get().map(Arc::as_ref);
        let slots = std::iter::successors(first, |slot| slot.next.get().map(Arc::as_ref));
        let in_use = slots.filter(|slot| slot.in_use.load(Ordering::Acquire));
        in_use.map(|slot| (slot, slot.key.load(Ordering::Relaxed))).filter(|(_, key)| *key != WakeSlot::NO_KEY)
    }
}
