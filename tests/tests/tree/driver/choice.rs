//! Chooses the selector or source of an operation.

use super::SOURCES;
use super::case::Case;
use crate::message::{Fd, Target, Wanted};
use crate::model::file::{File, FileKind};
use crate::model::{Holder, Pid, SelectorId, Slot, SlotId};

impl Case<'_> {
    /// Whether the process may have one more source.
    pub(super) fn has_room(&self, pid: Pid) -> bool {
        self.model.process(pid).slots.len() < SOURCES
    }

    pub(super) fn choose_selector(&self, pid: Pid, index: u8) -> Option<SelectorId> {
        pick(self.model.process(pid).selectors.keys().copied().collect(), index)
    }

    /// Chooses a source for which `condition` holds, other than a waker.
    pub(super) fn choose_source(&self, pid: Pid, index: u8, condition: impl Fn(Slot, &File) -> bool) -> Option<SlotId> {
        let slots = self.model.process(pid).slots.iter();
        let fitting = slots.filter(|(id, slot)| {
            !matches!(slot.holder, Holder::Waker(_)) && condition(**slot, self.model.file(pid, **id))
        });
        pick(fitting.map(|(id, _)| *id).collect(), index)
    }

    /// Chooses a selector and a source. `registered` says whether the source must be registered with the selector, or `None` if
    /// that does not matter.
    pub(super) fn choose_both(
        &self,
        pid: Pid,
        selector: u8,
        source: u8,
        registered: Option<bool>,
    ) -> Option<(SelectorId, SlotId)> {
        let selector = self.choose_selector(pid, selector)?;
        let process = self.model.process(pid);
        let slot = self.choose_source(pid, source, |slot, _| {
            // The model does not predict whether registering a muted bare descriptor succeeds.
            !process.is_muted_bare(slot.fd)
                && registered.is_none_or(|registered| process.is_registered(selector, slot.fd) == registered)
        });
        Some((selector, slot?))
    }

    /// Whether a descriptor is registered, and has not been reused since.
    pub(super) fn is_registered(&self, pid: Pid, fd: Fd) -> bool {
        let process = self.model.process(pid);
        process.selectors.keys().any(|selector| process.is_registered(*selector, fd)) && !process.is_stale(fd)
    }

    /// Chooses the descriptor of a registered source, or of any source if `any` is true. Leaves out descriptors that were
    /// closed and reused while registered: a change could apply to the old or to the new file.
    pub(super) fn choose_registered(&self, pid: Pid, index: u8, any: bool) -> Option<Fd> {
        let is_fit = |fd| self.is_registered(pid, fd) || (any && !self.model.process(pid).is_stale(fd));
        let slot = self.choose_source(pid, index, |slot, _| is_fit(slot.fd))?;
        Some(self.model.process(pid).slots[&slot].fd)
    }

    /// Names a source in a message, by its slot or by its descriptor.
    pub(super) fn target(&self, pid: Pid, slot: SlotId, by_fd: bool) -> (Target, Option<SlotId>, Fd) {
        let fd = self.model.process(pid).slots[&slot].fd;
        if by_fd { (Target::Fd(fd), None, fd) } else { (Target::Source(slot), Some(slot), fd) }
    }

    /// Returns `wanted`, or `Readable` for an end of a datagram pair: the model does not know when that end is
    /// writable.
    pub(super) fn possible_interest(&self, pid: Pid, slot: SlotId, wanted: Wanted) -> Wanted {
        match self.model.file(pid, slot).kind {
            FileKind::DatagramEnd { .. } => Wanted::Readable,
            _ => wanted,
        }
    }
}

/// Returns an element of a list, or `None` if the list is empty.
pub(super) fn pick<T: Copy>(from: Vec<T>, index: u8) -> Option<T> {
    if from.is_empty() { None } else { Some(from[usize::from(index) % from.len()]) }
}
