//! Operations on selectors and registrations.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use super::file::File;
use super::{Entry, Expected, FileId, Holder, Model, Pid, Selector, SelectorId, SlotId, Watch};
use crate::message::{Fd, Kind, Policy, Wanted};

impl Model {
    pub(crate) fn new_selector(&mut self, pid: Pid, selector: SelectorId, fd: Fd) {
        let fresh = Selector { fd, table: BTreeMap::new(), queue: BTreeMap::new() };
        self.process_mut(pid).selectors.insert(selector, fresh);
    }

    pub(crate) fn drop_selector(&mut self, pid: Pid, selector: SelectorId) {
        self.process_mut(pid).selectors.remove(&selector);
    }

    /// Registers a source of a process, or a bare descriptor if `source` is `None`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn register(
        &mut self,
        pid: Pid,
        selector: SelectorId,
        fd: Fd,
        source: Option<SlotId>,
        token: usize,
        wanted: Wanted,
        policy: Option<Policy>,
    ) -> Expected {
        let process = self.process(pid);
        let is_here = process.registered_with(source) == Some(selector);
        let is_dropped = || process.selectors[&selector].table.get(&fd).is_some_and(|entry| entry.dropped);
        if process.is_registered_elsewhere(source, selector) || (is_here && !is_dropped()) {
            return Err(ErrorKind::AlreadyExists);
        }
        let kind = match source.map(|slot| process.slots[&slot].holder) {
            Some(Holder::Typed { kind, .. }) => Some(kind),
            _ => None,
        };
        self.add(pid, selector, fd, token, wanted, kind, policy)?;
        self.process_mut(pid).set_with(source, Some(selector));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn add(
        &mut self,
        pid: Pid,
        selector: SelectorId,
        fd: Fd,
        token: usize,
        wanted: Wanted,
        kind: Option<Kind>,
        policy: Option<Policy>,
    ) -> Expected {
        let process = self.processes.get_mut(&pid).expect("a living process");
        let file = process.fds[&fd];
        let known = process.selectors[&selector].table.get(&fd);
        // A muted registration counts, although the kernel does not have it.
        let muted = known.is_some_and(|entry| process.is_live(fd, entry) && entry.muted);
        let selector = process.selectors.get_mut(&selector).expect("a selector");
        if muted || selector.queue.contains_key(&(file, fd)) {
            return Err(ErrorKind::AlreadyExists);
        }
        let must = self.files[file].level_for(wanted) != 0;
        selector.queue.insert((file, fd), Watch { token, wanted, must, may: false });
        let bare = kind.is_none();
        let entry = Entry { file, token, wanted, kind, bare, policy, muted: false, dropped: false };
        selector.table.insert(fd, entry);
        Ok(())
    }

    /// Changes a registration of a process.
    pub(crate) fn reregister(
        &mut self,
        pid: Pid,
        selector: SelectorId,
        fd: Fd,
        source: Option<SlotId>,
        token: usize,
        wanted: Wanted,
    ) -> Expected {
        let process = self.processes.get_mut(&pid).expect("a living process");
        process.check_registered(source, selector)?;
        let file = process.fds[&fd];
        let selector = process.selectors.get_mut(&selector).expect("a selector");
        let entry = selector.table.get_mut(&fd);
        if !entry.as_ref().is_some_and(|entry| entry.muted) {
            let watch = selector.queue.get_mut(&(file, fd)).ok_or(ErrorKind::NotFound)?;
            watch.token = token;
            watch.wanted = wanted;
            watch.must |= self.files[file].level_for(wanted) != 0;
        }
        if let Some(entry) = entry {
            entry.token = token;
            entry.wanted = wanted;
        }
        Ok(())
    }

    /// Deregisters a source of a process, or a bare descriptor.
    pub(crate) fn deregister(&mut self, pid: Pid, selector: SelectorId, fd: Fd, source: Option<SlotId>) -> Expected {
        self.process(pid).check_registered(source, selector).map_err(|_| ErrorKind::NotFound)?;
        let result = self.remove(pid, selector, fd);
        self.process_mut(pid).set_with(source, None);
        result
    }

    pub(super) fn remove(&mut self, pid: Pid, selector: SelectorId, fd: Fd) -> Expected {
        let process = self.process_mut(pid);
        let file = process.fds[&fd];
        let selector = process.selectors.get_mut(&selector).expect("a selector");
        let entry = selector.table.remove(&fd);
        let watch = selector.queue.remove(&(file, fd));
        // The owner of a registration that is muted, or that a fork has dropped, can still deregister it.
        if watch.is_some() || entry.is_some_and(|entry| entry.dropped || entry.muted) {
            Ok(())
        } else {
            Err(ErrorKind::NotFound)
        }
    }

    /// Sets the policy of a descriptor of a process, wherever it is registered.
    pub(crate) fn set_policy(&mut self, pid: Pid, fd: Fd, policy: Policy) -> Expected {
        self.change(pid, fd, |_, _, entry, _| entry.policy = Some(policy))
    }

    pub(crate) fn set_default(&mut self, pid: Pid, kind: Kind, policy: Policy) {
        self.process_mut(pid).defaults.insert(kind, policy);
    }

    pub(crate) fn mute(&mut self, pid: Pid, fd: Fd) -> Expected {
        self.change(pid, fd, |_, queue, entry, fd| {
            queue.remove(&(entry.file, fd));
            entry.muted = true;
        })
    }

    pub(crate) fn unmute(&mut self, pid: Pid, fd: Fd) -> Expected {
        self.change(pid, fd, |files, queue, entry, fd| {
            if entry.muted {
                let (token, wanted) = (entry.token, entry.wanted);
                let must = files[entry.file].level_for(wanted) != 0;
                queue.insert((entry.file, fd), Watch { token, wanted, must, may: false });
            }
            entry.muted = false;
        })
    }

    pub(super) fn change(
        &mut self,
        pid: Pid,
        fd: Fd,
        change: impl Fn(&[File], &mut BTreeMap<(FileId, Fd), Watch>, &mut Entry, Fd),
    ) -> Expected {
        let mut found = false;
        let process = self.processes.get_mut(&pid).expect("a living process");
        for selector in process.selectors.values_mut() {
            if let Some(entry) = selector.table.get_mut(&fd).filter(|entry| !entry.dropped) {
                found = true;
                change(&self.files, &mut selector.queue, entry, fd);
            }
        }
        if found { Ok(()) } else { Err(ErrorKind::NotFound) }
    }
}
