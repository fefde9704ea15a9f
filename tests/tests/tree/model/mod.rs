//! Predicts the events and results of a tree of processes from the documented semantics alone, without system calls and
//! without the reactor.
//!
//! The model knows the open files, and the file that each descriptor of each process refers to. It knows the table of each
//! selector, and the registrations in its kernel queue. An event *must* come with the next poll if something has happened to a
//! source since its last event, and the source is ready. An event *may* come if anything has changed at a ready source: epoll
//! then reports the source again. No other event may come. The readiness of an event must be exactly that of the file.

pub(crate) mod check;
pub(crate) mod file;
mod files;
pub(crate) mod fork;
mod registrations;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use self::file::{File, FileKind};
use crate::message::{Fd, Kind, Policy, Wanted};
use crate::process;

/// The number of a process. The first one has 0.
pub(crate) type Pid = usize;
/// An index into a process's selectors.
pub(crate) type SelectorId = usize;
/// An index into a process's sources.
pub(crate) type SlotId = usize;
/// The number of an open file description.
pub(crate) type FileId = usize;

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// All files that have been open.
    pub(crate) files: Vec<File>,
    pub(crate) processes: BTreeMap<Pid, Process>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    /// The number of forks between process 0 and this one.
    pub(crate) generation: u32,
    fds: BTreeMap<Fd, FileId>,
    pub(crate) selectors: BTreeMap<SelectorId, Selector>,
    /// The sources.
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    /// The stream pairs that this process or one of its ancestors has created: each end with the other one.
    pairs: BTreeMap<Fd, Fd>,
    defaults: BTreeMap<Kind, Policy>,
}

/// A source of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) fd: Fd,
    /// The value that holds the descriptor.
    pub(crate) holder: Holder,
    /// For a `Timer`: the expirations that its owner knows of and has not taken.
    pub(crate) pending: u64,
}

/// The type of the value that holds a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// One of the reactor's types.
    Typed {
        kind: Kind,
        /// The selector that the source believes it is registered with.
        with: Option<SelectorId>,
    },
    /// A bare descriptor.
    Bare,
    /// A waker of the selector.
    Waker(SelectorId),
}

#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) fd: Fd,
    table: BTreeMap<Fd, Entry>,
    queue: BTreeMap<(FileId, Fd), Watch>,
}

/// A registration, as the table has it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The file that the descriptor referred to at the registration.
    file: FileId,
    token: usize,
    wanted: Wanted,
    /// `None` for a bare descriptor, whose kind each fork determines.
    kind: Option<Kind>,
    bare: bool,
    policy: Option<Policy>,
    muted: bool,
    /// Whether a fork has dropped the registration.
    dropped: bool,
}

/// A registration, as the kernel queue has it.
#[derive(Clone, Copy, Debug)]
struct Watch {
    token: usize,
    wanted: Wanted,
    must: bool,
    may: bool,
}

/// A change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// There is more to read.
    Arrival,
    /// The end, which gives an event for any interest.
    Ending,
    /// Nothing that gives an event by itself, but the kernel may report the file again.
    Other,
}

/// The result that an operation must have.
pub(crate) type Expected<T = ()> = Result<T, ErrorKind>;

impl Process {
    /// All descriptors that operations have opened.
    pub(crate) fn descriptors(&self) -> BTreeSet<Fd> {
        self.fds.keys().copied().chain(self.selectors.values().map(|selector| selector.fd)).collect()
    }

    /// The selector that a source is registered with, if it still exists.
    fn registered_with(&self, slot: Option<SlotId>) -> Option<SelectorId> {
        match slot.map(|slot| self.slots[&slot].holder) {
            Some(Holder::Typed { with, .. }) => with.filter(|with| self.selectors.contains_key(with)),
            _ => None,
        }
    }

    /// Checks that a source is registered with `selector`. A bare descriptor does not know where it is registered, and
    /// passes.
    fn check_registered(&self, slot: Option<SlotId>, selector: SelectorId) -> Expected {
        let is_typed = slot.is_some_and(|slot| matches!(self.slots[&slot].holder, Holder::Typed { .. }));
        match self.registered_with(slot) {
            Some(with) if with == selector => Ok(()),
            Some(_) => Err(ErrorKind::AlreadyExists),
            None if is_typed => Err(ErrorKind::NotFound),
            None => Ok(()),
        }
    }

    /// Whether each registration belongs to the file that is open at its descriptor.
    pub(crate) fn has_no_stale_registration(&self) -> bool {
        let tables = self.selectors.values().map(|selector| &selector.table);
        tables.flatten().all(|(fd, entry)| entry.dropped || self.is_live(*fd, entry))
    }

    /// Whether a source is registered with a selector that still exists and is not `selector`.
    fn is_registered_elsewhere(&self, slot: Option<SlotId>, selector: SelectorId) -> bool {
        match slot.map(|slot| self.slots[&slot].holder) {
            Some(Holder::Typed { with: Some(with), .. }) => with != selector && self.selectors.contains_key(&with),
            _ => false,
        }
    }

    fn set_with(&mut self, slot: Option<SlotId>, selector: Option<SelectorId>) {
        if let Some(Holder::Typed { with, .. }) =
            slot.and_then(|slot| self.slots.get_mut(&slot)).map(|slot| &mut slot.holder)
        {
            *with = selector;
        }
    }

    fn policy_of(&self, entry: &Entry, files: &[File]) -> Policy {
        let kind = entry.kind.unwrap_or_else(|| files[entry.file].source_kind());
        if kind == Kind::Waker { Policy::Renew } else { entry.policy.unwrap_or_else(|| self.default_policy(kind)) }
    }

    pub(crate) fn default_policy(&self, kind: Kind) -> Policy {
        self.defaults.get(&kind).copied().unwrap_or(process::default_policy(kind))
    }

    /// Whether the registration is in effect, and the descriptor still refers to the registered file.
    fn is_live(&self, fd: Fd, entry: &Entry) -> bool {
        !entry.dropped && self.fds.get(&fd) == Some(&entry.file)
    }

    /// Whether a bare descriptor was closed while it was registered. The model does not predict such a registration.
    pub(crate) fn is_stale(&self, fd: Fd) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        entries.into_iter().any(|entry| !entry.dropped && !self.is_live(fd, entry))
    }

    pub(crate) fn is_registered(&self, selector: SelectorId, fd: Fd) -> bool {
        self.selectors[&selector].table.get(&fd).is_some_and(|entry| self.is_live(fd, entry))
    }

    pub(crate) fn is_muted(&self, fd: Fd) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        entries.into_iter().any(|entry| entry.muted && !entry.dropped)
    }

    /// Whether the descriptor is registered as a bare one, and muted. The kernel does not have such a registration, so the
    /// reactor does not learn when the descriptor is closed.
    pub(crate) fn is_muted_bare(&self, fd: Fd) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        entries.into_iter().any(|entry| entry.bare && entry.muted && !entry.dropped)
    }

    /// Whether an operation must deregister the descriptor before closing it: the model cannot predict the effect of
    /// the close in two cases. A muted descriptor of an anonymous file is one case. The kernel does not have the
    /// registration, and the file looks like all others of its kind. A file with a second descriptor is the other case.
    /// If that descriptor is later duplicated onto this one, the kernel has the registration again.
    pub(crate) fn must_deregister(&self, fd: Fd, files: &[File]) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        let is_anonymous =
            |file: FileId| matches!(files[file].kind, FileKind::Eventfd | FileKind::Timerfd | FileKind::Waker);
        entries
            .filter(|entry| entry.bare && !entry.dropped)
            .any(|entry| self.has_duplicate(fd) || (entry.muted && is_anonymous(entry.file)))
    }

    /// Whether the file has another descriptor in this process.
    pub(crate) fn has_duplicate(&self, fd: Fd) -> bool {
        self.fds.iter().any(|(other, file)| *other != fd && *file == self.fds[&fd])
    }

    /// The descriptors of the stream pair that has this file as one end: this end, and the other one.
    fn pair_of(&self, file: FileId, files: &[File]) -> Option<(Fd, Fd)> {
        self.pairs.iter().map(|(a, b)| (*a, *b)).find(|(a, b)| {
            self.fds.get(a) == Some(&file)
                && matches!(files[file].kind, FileKind::StreamEnd { other } if self.fds.get(b) == Some(&other))
        })
    }
}

impl Slot {
    pub(crate) fn is_timer(&self) -> bool {
        matches!(self.holder, Holder::Typed { kind: Kind::Timer, .. })
    }
}

impl Process {
    fn timer_at(&self, fd: Fd) -> Option<&Slot> {
        self.slots.values().find(|slot| slot.fd == fd && slot.is_timer())
    }

    fn forget_pair(&mut self, fd: Fd) {
        if let Some(peer) = self.pairs.remove(&fd) {
            self.pairs.remove(&peer);
        }
    }
}

impl Model {
    /// A tree of one process without files and selectors.
    pub(crate) fn new() -> Model {
        Model { files: Vec::new(), processes: BTreeMap::from([(0, Process::default())]) }
    }

    pub(crate) fn process(&self, pid: Pid) -> &Process {
        &self.processes[&pid]
    }

    fn process_mut(&mut self, pid: Pid) -> &mut Process {
        self.processes.get_mut(&pid).expect("a living process")
    }

    pub(crate) fn file(&self, pid: Pid, slot: SlotId) -> &File {
        let process = self.process(pid);
        &self.files[process.fds[&process.slots[&slot].fd]]
    }

    fn file_id(&self, pid: Pid, slot: SlotId) -> FileId {
        let process = self.process(pid);
        process.fds[&process.slots[&slot].fd]
    }

    /// Whether an operation may write to the file. The other end of a pair or pipe must have fewer than `most` unread bytes or
    /// datagrams.
    pub(crate) fn has_room(&self, file: &File, most: usize) -> bool {
        match file.kind {
            FileKind::TcpStream { .. } | FileKind::UnixStream { .. } | FileKind::Eventfd | FileKind::Dead => true,
            // A datagram to a closed socket fails in more than one way.
            FileKind::DatagramEnd { .. } if file.closed_by_peer => false,
            FileKind::StreamEnd { other } | FileKind::DatagramEnd { other } | FileKind::PipeWriter { other } => {
                self.files[other].incoming.len() < most
            }
            _ => false,
        }
    }

    fn slot_mut(&mut self, pid: Pid, slot: SlotId) -> &mut Slot {
        self.process_mut(pid).slots.get_mut(&slot).expect("a source")
    }

    fn new_file(&mut self, kind: FileKind) -> FileId {
        self.files.push(File::new(kind));
        self.files.len() - 1
    }

    /// Tells all queues that watch a file what has happened to it.
    fn notify(&mut self, file: FileId, change: Change) {
        for process in self.processes.values_mut() {
            for selector in process.selectors.values_mut() {
                for (_, watch) in selector.queue.iter_mut().filter(|((watched, _), _)| *watched == file) {
                    watch.may = true;
                    watch.must |= match change {
                        Change::Arrival => watch.wanted.is_readable(),
                        Change::Ending => true,
                        Change::Other => false,
                    };
                }
            }
        }
    }
}
