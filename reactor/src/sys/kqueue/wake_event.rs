//! `EVFILT_USER` as the kernel object of a waker: an event of the queue itself, without a descriptor.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use super::kernel::{self, EV_ADD, EV_CLEAR, EV_DELETE, EV_RECEIPT, EVFILT_USER, NOTE_TRIGGER};
use super::{ADD, Event, Queue};
use crate::Token;
use crate::wakeable_queue::WakerDescriptors;

pub(super) const FILTER: kernel::Filter = EVFILT_USER;

/// The identifier of the queue's only event of this filter.
const IDENT: usize = 0;

/// Triggers the queue's event.
#[derive(Debug)]
pub(crate) struct WakeSignal;

impl WakeSignal {
    pub(crate) fn new(queue: &Queue, token: Token) -> io::Result<WakeSignal> {
        queue.change_event(EV_ADD | EV_CLEAR, 0, token)?;
        Ok(WakeSignal)
    }

    pub(crate) fn descriptors(&self) -> WakerDescriptors {
        WakerDescriptors::NONE
    }

    pub(crate) fn signal(&self, queue: &Queue, token: Token) -> io::Result<()> {
        // Every change sets the token, even one that only triggers the event.
        queue.change_event(0, NOTE_TRIGGER, token)
    }

    pub(crate) fn remove(&self, queue: &Queue) {
        // The event does not exist if the child could not get the queue.
        let _ = queue.change_event(EV_DELETE, 0, Token(0));
    }

    pub(crate) fn signal_at(_: WakerDescriptors, queue: &Queue, token: Token) -> Result<(), i32> {
        queue.change_event(0, NOTE_TRIGGER, token).map_err(super::copy::errno)
    }

    /// Returns no objects: a child's queue gets its event by a change.
    pub(crate) fn renew(_: WakerDescriptors) -> io::Result<[(OwnedFd, RawFd); 0]> {
        Ok([])
    }

    /// Returns the changes that give a child's queue the event, which no kernel copies. The first change adds the event. The
    /// second one triggers it, because a change that adds an event cannot trigger it.
    pub(super) fn renewing_changes(token: Token) -> [Event; 2] {
        [ADD, EV_RECEIPT].map(|flags| Event::new(IDENT, EVFILT_USER, flags, token))
    }

    /// Sets whether a wake is pending, in the change that triggers the event. Async-signal-safe.
    pub(super) fn set_pending(changes: &mut [Event], is_pending: bool) {
        let triggers =
            changes.iter_mut().filter(|change| change.0.filter == EVFILT_USER && change.0.flags == EV_RECEIPT);
        triggers.for_each(|change| change.0.fflags = if is_pending { NOTE_TRIGGER } else { 0 });
    }
}

impl Queue {
    fn change_event(&self, flags: kernel::Flags, fflags: u32, token: Token) -> io::Result<()> {
        let mut change = Event::new(IDENT, EVFILT_USER, flags, token);
        change.0.fflags = fflags;
        super::change(self.usable_fd(), &change)
    }
}
