//! The place where the poller, forks and [`expose`](crate::wakeable_queue::WakeableQueue::expose) find a selector's waker.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use crate::Token;

#[derive(Debug)]
pub(crate) struct WakerSlot {
    in_use: AtomicBool,
    token: AtomicUsize,
    registered: AtomicI32,
    sender: AtomicI32,
}

/// The descriptors of a waker: the one that its queue watches, and the one that wakes are sent on. Both are
/// [`NONE`](WakerDescriptors::NONE) where a waker is an event of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WakerDescriptors {
    pub(crate) registered: RawFd,
    pub(crate) sender: RawFd,
}

impl WakerDescriptors {
    pub(crate) const NONE: WakerDescriptors = WakerDescriptors { registered: -1, sender: -1 };
}

impl WakerSlot {
    pub(crate) const fn new() -> WakerSlot {
        WakerSlot {
            in_use: AtomicBool::new(false),
            token: AtomicUsize::new(0),
            registered: AtomicI32::new(-1),
            sender: AtomicI32::new(-1),
        }
    }

    /// Claims the slot. `false`: the selector has a waker.
    pub(crate) fn occupy(&self, token: Token) -> bool {
        let is_free = self.in_use.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if is_free {
            self.token.store(token.0, Ordering::Relaxed);
        }
        is_free
    }

    pub(crate) fn set_descriptors(&self, descriptors: WakerDescriptors) {
        self.registered.store(descriptors.registered, Ordering::Relaxed);
        self.sender.store(descriptors.sender, Ordering::Relaxed);
    }

    pub(crate) fn vacate(&self) {
        self.set_descriptors(WakerDescriptors::NONE);
        self.in_use.store(false, Ordering::Release);
    }

    #[inline(always)]
    pub(crate) fn token(&self) -> Token {
        Token(self.token.load(Ordering::Relaxed))
    }

    pub(crate) fn get(&self) -> Option<(Token, WakerDescriptors)> {
        self.in_use.load(Ordering::Acquire).then(|| {
            let registered = self.registered.load(Ordering::Relaxed);
            let sender = self.sender.load(Ordering::Relaxed);
            (self.token(), WakerDescriptors { registered, sender })
        })
    }
}
