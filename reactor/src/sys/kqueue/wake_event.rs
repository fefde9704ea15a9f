//! `EVFILT_USER` as the kernel object of a waker: an event of the queue itself, without a descriptor.

use std::io;
#[cfg(feature = "cponfork")]
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use super::kernel::{self, EV_ADD, EV_CLEAR, EV_DELETE, EVFILT_USER, NOTE_TRIGGER};
use super::{Event, Queue};
use crate::selector::{Selector, WakeSlot};
use crate::{Registry, Token};

/// Triggers the event that the queue knows by the slot's number. It keeps the selector: the queue has to be there.
#[derive(Debug)]
pub(crate) struct WakeSignal {
    selector: Selector,
    ident: u32,
    token: Token,
}

impl WakeSignal {
    #[cfg(feature = "cponfork")]
    pub(crate) const IS_EVENT: bool = true;

    pub(crate) fn new(registry: &Registry, slot: &WakeSlot, token: Token) -> io::Result<WakeSignal> {
        let (selector, ident) = (registry.selector().clone(), slot.number());
        selector.change_wake_event(|queue| {
            queue.change_event(ident, EV_ADD | EV_CLEAR, 0, token)?;
            slot.set_event();
            Ok(())
        })?;
        Ok(WakeSignal { selector, ident, token })
    }

    pub(crate) fn send(&self) -> io::Result<()> {
        // Any change sets the token.
        match self.selector.queue().change_event(self.ident, 0, NOTE_TRIGGER, self.token) {
            #[cfg(feature = "cponfork")]
            Err(_) if self.selector.is_retired() => Ok(()),
            result => result,
        }
    }

    /// A renewed queue has its events again: there is nothing to replace.
    #[cfg(feature = "cponfork")]
    pub(crate) fn renew(_: RawFd, _: RawFd) -> io::Result<[(OwnedFd, RawFd); 0]> {
        Ok([])
    }

    /// Sent as the queue is completed.
    #[cfg(feature = "cponfork")]
    pub(crate) fn send_at(_: RawFd) -> Result<(), i32> {
        Ok(())
    }

    /// Before the slot is free for another one.
    pub(crate) fn retire(&self, slot: &WakeSlot) {
        // It is gone already in a child that had no copy made.
        let _ = self.selector.change_wake_event(|queue| {
            slot.clear_key();
            queue.change_event(self.ident, EV_DELETE, 0, Token(0))
        });
    }
}

impl Queue {
    fn change_event(&self, ident: u32, flags: kernel::Flags, fflags: u32, token: Token) -> io::Result<()> {
        let mut change = Event::new(ident as usize, EVFILT_USER, flags, token);
        change.0.fflags = fflags;
        // SAFETY: one change, and room for no event: an error is returned as the call's own.
        unsafe { kernel::kevent(self.fd, &change.0, 1, std::ptr::null_mut(), 0, Some(Duration::ZERO)) }?;
        Ok(())
    }
}
