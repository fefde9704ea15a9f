//! The model of a fork: the state of the child.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{File, FileKind};
use super::{Entry, FileId, Model, Pid, Process, Selector, Watch};
use crate::message::{Fd, Kind, Policy};

/// The result that a fork must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fork {
    Made,
    /// The fork is refused, because one of these descriptors cannot be renewed.
    Refused(BTreeSet<Fd>),
}

impl Model {
    /// Forks the process `pid`. The child gets the number `child`.
    pub(crate) fn fork(&mut self, pid: Pid, child: Pid) -> Fork {
        let process = &self.processes[&pid];
        let live = |selector: &Selector| -> Vec<(Fd, Entry)> {
            let entries = selector.table.iter().filter(|(fd, entry)| process.is_live(**fd, entry));
            entries.map(|(fd, entry)| (*fd, *entry)).collect()
        };
        let entries: Vec<(Fd, Entry, Policy)> = process
            .selectors
            .values()
            .flat_map(live)
            .map(|(fd, entry)| (fd, entry, process.policy_of(&entry, &self.files)))
            .filter(|(_, entry, _)| entry.kind != Some(Kind::Waker))
            .collect();
        let renewed = || entries.iter().filter(|(.., policy)| *policy == Policy::Renew);
        let refused: BTreeSet<Fd> = renewed()
            .filter(|(_, entry, _)| match self.kind_of(entry) {
                Kind::Timer => self.files[entry.file].kind != FileKind::Timerfd,
                _ => process.pair_of(entry.file, &self.files).is_none(),
            })
            .map(|(fd, ..)| *fd)
            .collect();
        if !refused.is_empty() {
            return Fork::Refused(refused);
        }

        // The files of the child's descriptors.
        let mut fds = process.fds.clone();
        let wakers: Vec<Fd> = process
            .selectors
            .values()
            .flat_map(live)
            .filter(|(_, entry)| entry.kind == Some(Kind::Waker))
            .map(|(fd, _)| fd)
            .collect();
        let mut files = self.files.clone();
        let mut fresh: BTreeMap<FileId, FileId> = BTreeMap::new();
        let mut ends: Vec<(Fd, FileId)> = Vec::new();
        if entries.iter().any(|(.., policy)| *policy == Policy::Sever) {
            files.push(File::new(FileKind::Dead));
            let severed = entries.iter().filter(|(.., policy)| *policy == Policy::Sever);
            fds.extend(severed.map(|(fd, ..)| (*fd, files.len() - 1)));
        }
        for fd in self.renewed_timers(process, &entries) {
            let mut copy = File::new(FileKind::Timerfd);
            copy.count = process.timer_at(fd).map_or(self.files[process.fds[&fd]].count, |slot| slot.pending);
            files.push(copy);
            fds.insert(fd, files.len() - 1);
        }
        for (fd, entry, _) in renewed().filter(|(_, entry, _)| self.kind_of(entry) != Kind::Timer) {
            if !fresh.contains_key(&entry.file)
                && let Some((end, peer)) = process.pair_of(entry.file, &self.files)
            {
                let first = files.len();
                for (offset, descriptor) in [(0, end), (1, peer)] {
                    let before = process.fds[&descriptor];
                    let mut copy = File::new(FileKind::StreamEnd { other: first + 1 - offset });
                    copy.incoming = self.files[before].incoming.clone();
                    files.push(copy);
                    fresh.insert(before, first + offset);
                    ends.push((descriptor, first + offset));
                }
            }
            // A duplicate that must be renewed also gets the fresh end.
            ends.push((*fd, fresh[&entry.file]));
        }
        fds.extend(ends);
        for fd in wakers {
            let mut copy = File::new(FileKind::Waker);
            copy.count = self.files[process.fds[&fd]].count;
            files.push(copy);
            fds.insert(fd, files.len() - 1);
        }

        let mut new = process.clone();
        new.generation += 1;
        new.fds = fds;
        for selector in new.selectors.values_mut() {
            selector.queue.clear();
            selector.table.retain(|fd, entry| entry.dropped || process.is_live(*fd, entry));
            for (fd, entry) in selector.table.iter_mut().filter(|(_, entry)| !entry.dropped) {
                entry.dropped = process.policy_of(entry, &self.files) == Policy::NoFork;
                entry.file = new.fds[fd];
                entry.muted = false;
                if !entry.dropped {
                    let must = files[entry.file].level_for(entry.wanted) != 0;
                    let watch = Watch { token: entry.token, wanted: entry.wanted, must, may: false };
                    selector.queue.insert((entry.file, *fd), watch);
                }
            }
        }
        self.files = files;
        let process = self.processes.get_mut(&pid).expect("a living process");
        let fds = process.fds.clone();
        for selector in process.selectors.values_mut() {
            selector.table.retain(|fd, entry| entry.dropped || fds.get(fd) == Some(&entry.file));
        }
        self.processes.insert(child, new);
        Fork::Made
    }

    pub(super) fn kind_of(&self, entry: &Entry) -> Kind {
        entry.kind.unwrap_or_else(|| self.files[entry.file].source_kind())
    }

    /// Returns the timers that a fork renews: those with a registration whose policy is *renew*, and each `Timer` without a
    /// registration whose policy is *inherit* or *sever*.
    pub(super) fn renewed_timers(&self, process: &Process, entries: &[(Fd, Entry, Policy)]) -> BTreeSet<Fd> {
        let tagged = entries.iter().filter(|(.., policy)| *policy == Policy::Renew);
        let tagged = tagged.filter(|(_, entry, _)| self.kind_of(entry) == Kind::Timer).map(|(fd, ..)| *fd);
        let is_other = |fd: Fd| {
            entries.iter().any(|(at, _, policy)| *at == fd && matches!(policy, Policy::Inherit | Policy::Sever))
        };
        let own = process.slots.values().filter(|slot| slot.is_timer()).map(|slot| slot.fd);
        let own = own.filter(|fd| !is_other(*fd) && self.files[process.fds[fd]].kind == FileKind::Timerfd);
        tagged.chain(own).collect()
    }
}
