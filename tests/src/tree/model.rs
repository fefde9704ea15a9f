//! What a tree of processes must see, by the documented semantics alone: no system call, no reactor.
//!
//! The model knows open files, which of the processes' descriptor numbers stand for which file, and for each selector
//! what its table says and what its kernel queue watches. Of events it knows two grades: what *must* come with the next
//! poll (something has happened to a source since its last event, and it is ready), and what *may* come (epoll reports a
//! ready source again for any stir). Nothing else may, and an event's readiness must be that of the file, exactly.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;

use super::message::{Event, Fd, Kind, Policy, Readiness, Wanted};

/// A process of the tree; 0 is the first one.
pub type Pid = usize;
/// A place in a process's list of selectors.
pub type SelectorId = usize;
/// A place in a process's list of sources.
pub type SlotId = usize;
/// An open file description.
pub type FileId = usize;

/// The whole tree.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// All that there have been.
    pub files: Vec<File>,
    /// The living ones.
    pub processes: BTreeMap<Pid, Process>,
}

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Forks between it and process 0.
    pub generation: u32,
    fds: BTreeMap<Fd, FileId>,
    /// Its selectors.
    pub selectors: BTreeMap<SelectorId, Selector>,
    /// Its sources.
    pub slots: BTreeMap<SlotId, Slot>,
    /// Stream pairs made by this process or a parent, each end with the other.
    pairs: BTreeMap<Fd, Fd>,
    defaults: BTreeMap<Kind, Policy>,
}

/// A source of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its descriptor.
    pub fd: Fd,
    /// What sort of value holds it.
    pub form: Form,
    /// Of a timer of the reactor's own: expirations that its owner knows of and has not taken.
    pub pending: u64,
}

/// What sort of value holds a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One of the reactor's types, and with which selector it believes it is registered.
    Typed {
        /// What it is to the reactor.
        kind: Kind,
        /// The selector it is registered with.
        with: Option<SelectorId>,
    },
    /// A number.
    Bare,
    /// A waker of this selector.
    Waker(SelectorId),
}

/// A selector of a process.
#[derive(Clone, Debug)]
pub struct Selector {
    /// Its descriptor.
    pub fd: Fd,
    table: BTreeMap<Fd, Entry>,
    queue: BTreeMap<(FileId, Fd), Watch>,
}

/// What the table says.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// What the number stood for then.
    file: FileId,
    token: usize,
    wanted: Wanted,
    /// `None`: nobody has looked.
    kind: Option<Kind>,
    bare: bool,
    policy: Option<Policy>,
    muted: bool,
    /// The fork has left it out.
    dropped: bool,
}

/// What the kernel watches.
#[derive(Clone, Copy, Debug)]
struct Watch {
    token: usize,
    wanted: Wanted,
    must: bool,
    may: bool,
}

/// An open file description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it is.
    pub sort: Sort,
    /// What can be read: bytes, datagrams of one byte, connections.
    pub incoming: VecDeque<u8>,
    /// The other end sends no more.
    shut: bool,
    /// The other end is closed.
    gone: bool,
    /// It was closed with something unread.
    reset: bool,
    /// Counts, and expirations.
    count: u64,
}

/// What an open file description is. `outside` is what the driver has of it: the peer, or the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Sort {
    TcpListener { outside: usize },
    UnixListener { outside: usize },
    TcpStream { outside: usize },
    UnixStream { outside: usize },
    Udp { outside: usize },
    StreamEnd { other: FileId },
    DatagramEnd { other: FileId },
    PipeReader { other: FileId },
    PipeWriter { other: FileId },
    Eventfd,
    Timerfd,
    Waker,
    Dead,
}

/// What happens to a file that somebody may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stir {
    /// Something to read has come.
    Arrival,
    /// An end, which wakes whoever waits for anything.
    Ending,
    /// Nothing that a program could wait for, but the kernel may look again.
    Other,
}

const IN: u8 = 1;
const OUT: u8 = 2;
const END: u8 = 4;
const HUP: u8 = 8;
const ERR: u8 = 16;

/// What an operation must give.
pub type Expected<T = ()> = Result<T, ErrorKind>;

impl File {
    fn new(sort: Sort) -> File {
        File { sort, incoming: VecDeque::new(), shut: false, gone: false, reset: false, count: 0 }
    }

    /// Whether what is sent to it takes its time.
    pub fn is_network(&self) -> bool {
        matches!(self.sort, Sort::TcpListener { .. } | Sort::TcpStream { .. } | Sort::Udp { .. })
    }

    /// Whether what happens to it may be seen a little later.
    pub fn is_late(&self) -> bool {
        self.is_network() || self.sort == Sort::Timerfd
    }

    /// Whether it is an end of a stream pair.
    pub fn is_stream_end(&self) -> bool {
        matches!(self.sort, Sort::StreamEnd { .. })
    }

    /// What the driver has of it.
    pub fn outside(&self) -> Option<usize> {
        match self.sort {
            Sort::TcpListener { outside }
            | Sort::UnixListener { outside }
            | Sort::TcpStream { outside }
            | Sort::UnixStream { outside }
            | Sort::Udp { outside } => Some(outside),
            _ => None,
        }
    }

    /// What a bare number of it is found to be.
    fn kind(&self) -> Kind {
        match self.sort {
            Sort::TcpListener { .. } | Sort::UnixListener { .. } => Kind::Listener,
            Sort::TcpStream { .. } | Sort::UnixStream { .. } | Sort::StreamEnd { .. } | Sort::Dead => Kind::Stream,
            Sort::Udp { .. } | Sort::DatagramEnd { .. } => Kind::Datagram,
            Sort::PipeReader { .. } | Sort::PipeWriter { .. } => Kind::Pipe,
            Sort::Eventfd | Sort::Waker => Kind::Other,
            Sort::Timerfd => Kind::Timer,
        }
    }

    /// poll(2).
    fn level(&self) -> u8 {
        let readable = if self.incoming.is_empty() { 0 } else { IN };
        match self.sort {
            Sort::TcpListener { .. } | Sort::UnixListener { .. } | Sort::DatagramEnd { .. } => readable,
            Sort::TcpStream { .. } | Sort::UnixStream { .. } | Sort::StreamEnd { .. } => {
                let end = if self.shut || self.gone { IN | END } else { 0 };
                let closed = if self.gone { HUP } else { 0 };
                let error = if self.reset { ERR } else { 0 };
                readable | OUT | end | closed | error
            }
            Sort::Udp { .. } => readable | OUT,
            Sort::PipeReader { .. } => readable | if self.gone { HUP } else { 0 },
            Sort::PipeWriter { .. } => OUT | if self.gone { ERR } else { 0 },
            Sort::Eventfd => OUT | if self.count > 0 { IN } else { 0 },
            Sort::Timerfd | Sort::Waker => {
                if self.count > 0 {
                    IN
                } else {
                    0
                }
            }
            Sort::Dead => IN | OUT | END | HUP,
        }
    }

    fn level_for(&self, wanted: Wanted) -> u8 {
        let wanted = match wanted {
            Wanted::Readable => IN | END,
            Wanted::Writable => OUT,
            Wanted::Both => IN | END | OUT,
        };
        self.level() & (wanted | HUP | ERR)
    }
}

/// What an event says, from poll(2)'s bits.
fn readiness(level: u8) -> Readiness {
    let has = |bits| level & bits == bits;
    Readiness {
        readable: has(IN),
        writable: has(OUT),
        read_closed: has(HUP) || has(IN | END),
        write_closed: has(HUP) || has(OUT | ERR) || level == ERR,
        error: has(ERR),
    }
}

impl Wanted {
    /// Whether to wait for something to read.
    pub fn is_readable(self) -> bool {
        self != Wanted::Writable
    }

    /// Whether to wait for room to write.
    pub fn is_writable(self) -> bool {
        self != Wanted::Readable
    }
}

impl Process {
    /// Every open descriptor that the tree knows of.
    pub fn descriptors(&self) -> BTreeSet<Fd> {
        self.fds.keys().copied().chain(self.selectors.values().map(|selector| selector.fd)).collect()
    }

    /// The selector that a source is registered with, if it is still there and another one than `selector`.
    fn elsewhere(&self, slot: Option<SlotId>, selector: SelectorId) -> bool {
        match slot.map(|slot| self.slots[&slot].form) {
            Some(Form::Typed { with: Some(with), .. }) => with != selector && self.selectors.contains_key(&with),
            _ => false,
        }
    }

    fn set_with(&mut self, slot: Option<SlotId>, selector: Option<SelectorId>) {
        if let Some(Form::Typed { with, .. }) =
            slot.and_then(|slot| self.slots.get_mut(&slot)).map(|slot| &mut slot.form)
        {
            *with = selector;
        }
    }

    fn policy_of(&self, entry: &Entry, files: &[File]) -> Policy {
        let kind = entry.kind.unwrap_or_else(|| files[entry.file].kind());
        if kind == Kind::Waker { Policy::Renew } else { entry.policy.unwrap_or_else(|| self.default_policy(kind)) }
    }

    /// A kind's default policy.
    pub fn default_policy(&self, kind: Kind) -> Policy {
        self.defaults.get(&kind).copied().unwrap_or(super::process::default_policy(kind))
    }

    /// Whether the number is registered in this process, and for what it stands for now.
    fn is_live(&self, fd: Fd, entry: &Entry) -> bool {
        !entry.dropped && self.fds.get(&fd) == Some(&entry.file)
    }

    /// Whether a number was closed, by number, while registered: what becomes of the registration is the owner's fault.
    pub fn is_stale(&self, fd: Fd) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        entries.into_iter().any(|entry| !entry.dropped && !self.is_live(fd, entry))
    }

    /// Whether the number is registered with a selector.
    pub fn is_registered(&self, selector: SelectorId, fd: Fd) -> bool {
        self.selectors[&selector].table.get(&fd).is_some_and(|entry| self.is_live(fd, entry))
    }

    /// Whether the number is muted.
    pub fn is_muted(&self, fd: Fd) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        entries.into_iter().any(|entry| entry.muted && !entry.dropped)
    }

    /// Whether it is registered by number and muted: the kernel then has nothing to tell it by once it is closed.
    pub fn is_muted_number(&self, fd: Fd) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        entries.into_iter().any(|entry| entry.bare && entry.muted && !entry.dropped)
    }

    /// Whether it is registered by number in a way that leaves it open what becomes of it if it is closed without being
    /// deregistered: the kernel does not have it, because it is muted, and it is like any other of its kind; or the kernel takes
    /// up the registration again where a duplicate is put in its place.
    pub fn must_deregister(&self, fd: Fd, files: &[File]) -> bool {
        let entries = self.selectors.values().filter_map(|selector| selector.table.get(&fd));
        let has_duplicate = self.fds.iter().any(|(other, file)| *other != fd && *file == self.fds[&fd]);
        let is_anonymous = |file: FileId| matches!(files[file].sort, Sort::Eventfd | Sort::Timerfd | Sort::Waker);
        entries
            .filter(|entry| entry.bare && !entry.dropped)
            .any(|entry| has_duplicate || (entry.muted && is_anonymous(entry.file)))
    }

    /// The numbers of the stream pair that this file is an end of, that end first.
    fn pair_of(&self, file: FileId, files: &[File]) -> Option<(Fd, Fd)> {
        self.pairs.iter().map(|(a, b)| (*a, *b)).find(|(a, b)| {
            self.fds.get(a) == Some(&file)
                && matches!(files[file].sort, Sort::StreamEnd { other } if self.fds.get(b) == Some(&other))
        })
    }
}

/// How a fork must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fork {
    /// There is a child.
    Made,
    /// Something that cannot be renewed is to be: one of these numbers.
    Refused(BTreeSet<Fd>),
}

/// What a poll has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// All is as it must be.
    Well,
    /// These are under way through the network: poll again.
    Late(Vec<usize>),
}

/// What the driver has of connections that no process has open any more.
pub type Ended = Vec<usize>;

impl Model {
    /// One process, which has nothing.
    pub fn new() -> Model {
        Model { files: Vec::new(), processes: BTreeMap::from([(0, Process::default())]) }
    }

    /// The process.
    pub fn process(&self, pid: Pid) -> &Process {
        &self.processes[&pid]
    }

    fn process_mut(&mut self, pid: Pid) -> &mut Process {
        self.processes.get_mut(&pid).expect("a living process")
    }

    /// What a slot's descriptor stands for.
    pub fn file(&self, pid: Pid, slot: SlotId) -> &File {
        let process = self.process(pid);
        &self.files[process.fds[&process.slots[&slot].fd]]
    }

    fn file_id(&self, pid: Pid, slot: SlotId) -> FileId {
        let process = self.process(pid);
        process.fds[&process.slots[&slot].fd]
    }

    /// Whether the file can be written to, and what that fills has less than `most` in it.
    pub fn has_room(&self, file: &File, most: usize) -> bool {
        match file.sort {
            Sort::TcpStream { .. } | Sort::UnixStream { .. } | Sort::Eventfd | Sort::Dead => true,
            // A datagram for nobody fails in more than one way.
            Sort::DatagramEnd { .. } if file.gone => false,
            Sort::StreamEnd { other } | Sort::DatagramEnd { other } | Sort::PipeWriter { other } => {
                self.files[other].incoming.len() < most
            }
            _ => false,
        }
    }

    fn slot_mut(&mut self, pid: Pid, slot: SlotId) -> &mut Slot {
        self.process_mut(pid).slots.get_mut(&slot).expect("a source")
    }

    /// A process has made a selector.
    pub fn new_selector(&mut self, pid: Pid, selector: SelectorId, fd: Fd) {
        let fresh = Selector { fd, table: BTreeMap::new(), queue: BTreeMap::new() };
        self.process_mut(pid).selectors.insert(selector, fresh);
    }

    /// A process has dropped a selector.
    pub fn drop_selector(&mut self, pid: Pid, selector: SelectorId) {
        self.process_mut(pid).selectors.remove(&selector);
    }

    /// A process has opened a file of its own.
    pub fn open(&mut self, pid: Pid, slot: SlotId, fd: Fd, form: Form, sort: Sort) {
        let file = self.new_file(sort);
        let process = self.process_mut(pid);
        process.fds.insert(fd, file);
        process.slots.insert(slot, Slot { fd, form, pending: 0 });
    }

    /// A process has made two files that know each other.
    pub fn open_two(&mut self, pid: Pid, slot: SlotId, fds: [Fd; 2], kind: Kind, sort: impl Fn(usize, FileId) -> Sort) {
        let first = self.files.len();
        self.open(pid, slot, fds[0], Form::Typed { kind, with: None }, sort(0, first + 1));
        self.open(pid, slot + 1, fds[1], Form::Typed { kind, with: None }, sort(1, first));
        if matches!(self.files[first].sort, Sort::StreamEnd { .. } | Sort::DatagramEnd { .. }) {
            let process = self.process_mut(pid);
            process.pairs.extend([(fds[0], fds[1]), (fds[1], fds[0])]);
        }
    }

    fn new_file(&mut self, sort: Sort) -> FileId {
        self.files.push(File::new(sort));
        self.files.len() - 1
    }

    /// A process has made a waker.
    pub fn new_waker(&mut self, pid: Pid, slot: SlotId, selector: SelectorId, fd: Fd, token: usize) {
        self.open(pid, slot, fd, Form::Waker(selector), Sort::Waker);
        let done = self.add(pid, selector, fd, token, Wanted::Readable, Some(Kind::Waker), None);
        debug_assert_eq!(done, Ok(()));
    }

    /// A process has duplicated a descriptor.
    pub fn duplicate(&mut self, pid: Pid, slot: SlotId, into: SlotId, fd: Fd) {
        let file = self.file_id(pid, slot);
        let process = self.process_mut(pid);
        process.fds.insert(fd, file);
        process.slots.insert(into, Slot { fd, form: Form::Bare, pending: 0 });
    }

    /// A source becomes a number.
    pub fn give_away(&mut self, pid: Pid, slot: SlotId) {
        let process = self.process_mut(pid);
        let Slot { fd, form, .. } = process.slots[&slot];
        let Form::Typed { kind, with } = form else { return };
        if let Some(entry) =
            with.and_then(|with| process.selectors.get_mut(&with)).and_then(|selector| selector.table.get_mut(&fd))
        {
            entry.bare = true;
        }
        if kind == Kind::Pair {
            process.forget_pair(fd);
        }
        process.slots.insert(slot, Slot { fd, form: Form::Bare, pending: 0 });
    }

    /// A source is dropped.
    pub fn close(&mut self, pid: Pid, slot: SlotId) -> Ended {
        let Slot { fd, form, .. } = self.process(pid).slots[&slot];
        let with = match form {
            Form::Typed { with, .. } => with,
            Form::Waker(selector) => Some(selector),
            Form::Bare => None,
        };
        if let Some(with) = with.filter(|with| self.process(pid).selectors.contains_key(with)) {
            let _gone = self.remove(pid, with, fd);
        }
        let process = self.process_mut(pid);
        if matches!(form, Form::Typed { kind: Kind::Pair, .. }) {
            process.forget_pair(fd);
        }
        process.slots.remove(&slot);
        let file = process.fds.remove(&fd).expect("an open descriptor");
        self.release(vec![file])
    }

    /// A process ends.
    pub fn exit(&mut self, pid: Pid) -> Ended {
        let process = self.processes.remove(&pid).expect("a living process");
        self.release(process.fds.into_values().collect())
    }

    /// What becomes of files that a process has closed.
    fn release(&mut self, closed: Vec<FileId>) -> Ended {
        let mut ended = Vec::new();
        for file in closed.into_iter().collect::<BTreeSet<_>>() {
            if self.processes.values().any(|process| process.fds.values().any(|open| *open == file)) {
                continue;
            }
            for process in self.processes.values_mut() {
                for selector in process.selectors.values_mut() {
                    selector.queue.retain(|(watched, _), _| *watched != file);
                }
            }
            let unread = !self.files[file].incoming.is_empty();
            match self.files[file].sort {
                Sort::TcpStream { outside } | Sort::UnixStream { outside } => ended.push(outside),
                Sort::StreamEnd { other } => {
                    self.files[other].gone = true;
                    self.files[other].reset |= unread;
                    self.stir(other, Stir::Ending);
                }
                Sort::PipeReader { other } | Sort::PipeWriter { other } => {
                    self.files[other].gone = true;
                    self.stir(other, Stir::Ending);
                }
                Sort::DatagramEnd { other } => {
                    self.files[other].gone = true;
                    self.stir(other, Stir::Other);
                }
                _ => {}
            }
        }
        ended
    }

    /// Something has happened to a file: who watches it is told.
    fn stir(&mut self, file: FileId, stir: Stir) {
        for process in self.processes.values_mut() {
            for selector in process.selectors.values_mut() {
                for (_, watch) in selector.queue.iter_mut().filter(|((watched, _), _)| *watched == file) {
                    watch.may = true;
                    watch.must |= match stir {
                        Stir::Arrival => watch.wanted.is_readable(),
                        Stir::Ending => true,
                        Stir::Other => false,
                    };
                }
            }
        }
    }

    /// `source`: the slot, if it is registered as itself and not by number.
    #[allow(clippy::too_many_arguments)]
    pub fn register(
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
        if process.elsewhere(source, selector) {
            return Err(ErrorKind::AlreadyExists);
        }
        let kind = match source.map(|slot| process.slots[&slot].form) {
            Some(Form::Typed { kind, .. }) => Some(kind),
            _ => None,
        };
        self.add(pid, selector, fd, token, wanted, kind, policy)?;
        self.process_mut(pid).set_with(source, Some(selector));
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
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
        // A muted registration is one, although the kernel does not have it.
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

    /// See [`register`](Model::register).
    pub fn reregister(
        &mut self,
        pid: Pid,
        selector: SelectorId,
        fd: Fd,
        source: Option<SlotId>,
        token: usize,
        wanted: Wanted,
    ) -> Expected {
        let process = self.processes.get_mut(&pid).expect("a living process");
        if process.elsewhere(source, selector) {
            return Err(ErrorKind::AlreadyExists);
        }
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

    /// See [`register`](Model::register).
    pub fn deregister(&mut self, pid: Pid, selector: SelectorId, fd: Fd, source: Option<SlotId>) -> Expected {
        if self.process(pid).elsewhere(source, selector) {
            return Err(ErrorKind::NotFound);
        }
        let result = self.remove(pid, selector, fd);
        self.process_mut(pid).set_with(source, None);
        result
    }

    fn remove(&mut self, pid: Pid, selector: SelectorId, fd: Fd) -> Expected {
        let process = self.process_mut(pid);
        let file = process.fds[&fd];
        let selector = process.selectors.get_mut(&selector).expect("a selector");
        let entry = selector.table.remove(&fd);
        let watch = selector.queue.remove(&(file, fd));
        // What a fork left out, or is muted, was there to its owner.
        if watch.is_some() || entry.is_some_and(|entry| entry.dropped || entry.muted) {
            Ok(())
        } else {
            Err(ErrorKind::NotFound)
        }
    }

    /// Tags a number wherever it is registered.
    pub fn set_policy(&mut self, pid: Pid, fd: Fd, policy: Policy) -> Expected {
        self.change(pid, fd, |_, _, entry, _| entry.policy = Some(policy))
    }

    /// Sets a kind's default.
    pub fn set_default(&mut self, pid: Pid, kind: Kind, policy: Policy) {
        self.process_mut(pid).defaults.insert(kind, policy);
    }

    /// Holds events of a number back.
    pub fn mute(&mut self, pid: Pid, fd: Fd) -> Expected {
        self.change(pid, fd, |_, queue, entry, fd| {
            queue.remove(&(entry.file, fd));
            entry.muted = true;
        })
    }

    /// Gives them again.
    pub fn unmute(&mut self, pid: Pid, fd: Fd) -> Expected {
        self.change(pid, fd, |files, queue, entry, fd| {
            if entry.muted {
                let (token, wanted) = (entry.token, entry.wanted);
                let must = files[entry.file].level_for(wanted) != 0;
                queue.insert((entry.file, fd), Watch { token, wanted, must, may: false });
            }
            entry.muted = false;
        })
    }

    fn change(
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

    /// A waker is used.
    pub fn wake(&mut self, pid: Pid, slot: SlotId) {
        let file = self.file_id(pid, slot);
        self.files[file].count = 1;
        self.stir(file, Stir::Arrival);
    }

    /// A timer is set, so that it is due, or not for long.
    pub fn arm(&mut self, pid: Pid, slot: SlotId, due: bool) {
        let file = self.file_id(pid, slot);
        self.files[file].count = due.into();
        self.slot_mut(pid, slot).pending = due.into();
        self.stir(file, if due { Stir::Arrival } else { Stir::Other });
    }

    /// A connection is taken.
    pub fn accept(&mut self, pid: Pid, slot: SlotId) -> Expected {
        let file = self.file_id(pid, slot);
        if self.files[file].sort == Sort::Dead {
            return Err(ErrorKind::InvalidInput);
        }
        self.files[file].incoming.pop_front().map(|_| ()).ok_or(ErrorKind::WouldBlock)
    }

    /// At most `most` bytes are read. Counters give eight bytes, which say how much.
    pub fn read(&mut self, pid: Pid, slot: SlotId, most: usize) -> Expected<Vec<u8>> {
        let id = self.file_id(pid, slot);
        let is_timer = self.process(pid).slots[&slot].is_timer();
        let file = &mut self.files[id];
        if is_timer {
            let count = file.count;
            let slot = self.processes.get_mut(&pid).and_then(|process| process.slots.get_mut(&slot)).expect("a source");
            slot.pending = slot.pending.saturating_sub(count);
        }
        let most = if matches!(file.sort, Sort::Udp { .. } | Sort::DatagramEnd { .. }) { 1 } else { most };
        let taken: Vec<u8> = file.incoming.drain(..most.min(file.incoming.len())).collect();
        let result = match file.sort {
            Sort::Eventfd | Sort::Timerfd => match std::mem::take(&mut file.count) {
                0 => Err(ErrorKind::WouldBlock),
                count => Ok(count.to_ne_bytes().to_vec()),
            },
            // A timer has no such thing as an end.
            Sort::Dead if is_timer => Err(ErrorKind::UnexpectedEof),
            Sort::Dead => Ok(Vec::new()),
            _ if !taken.is_empty() => Ok(taken),
            _ if std::mem::take(&mut file.reset) => Err(ErrorKind::ConnectionReset),
            Sort::TcpStream { .. } | Sort::UnixStream { .. } | Sort::StreamEnd { .. } | Sort::PipeReader { .. }
                if file.shut || file.gone =>
            {
                Ok(Vec::new())
            }
            _ => Err(ErrorKind::WouldBlock),
        };
        let sort = file.sort;
        self.stir(id, Stir::Other);
        if let Sort::StreamEnd { other } | Sort::DatagramEnd { other } | Sort::PipeReader { other } = sort {
            self.stir(other, Stir::Other);
        }
        result
    }

    /// One byte is written, or one added to a counter. The peer of the driver that has it now, if it is one.
    pub fn write(&mut self, pid: Pid, slot: SlotId, byte: u8) -> Expected<Option<usize>> {
        let file = self.file_id(pid, slot);
        match self.files[file].sort {
            Sort::TcpStream { outside } | Sort::UnixStream { outside } => {
                self.stir(file, Stir::Other);
                Ok(Some(outside))
            }
            Sort::StreamEnd { .. } | Sort::PipeWriter { .. } if self.files[file].gone => Err(ErrorKind::BrokenPipe),
            Sort::StreamEnd { other } | Sort::DatagramEnd { other } | Sort::PipeWriter { other } => {
                self.files[other].incoming.push_back(byte);
                self.stir(other, Stir::Arrival);
                self.stir(file, Stir::Other);
                Ok(None)
            }
            Sort::Eventfd => {
                self.files[file].count += 1;
                self.stir(file, Stir::Arrival);
                Ok(None)
            }
            Sort::Dead => Err(ErrorKind::BrokenPipe),
            sort => unreachable!("nobody writes to {sort:?}"),
        }
    }

    /// The driver has sent a byte, or connected.
    pub fn send(&mut self, pid: Pid, slot: SlotId, byte: u8) {
        let file = self.file_id(pid, slot);
        self.files[file].incoming.push_back(byte);
        self.stir(file, Stir::Arrival);
    }

    /// The driver sends no more.
    pub fn shut(&mut self, pid: Pid, slot: SlotId) {
        let file = self.file_id(pid, slot);
        self.files[file].shut = true;
        self.stir(file, Stir::Ending);
    }

    /// Whether the driver has shut its end.
    pub fn is_shut(&self, pid: Pid, slot: SlotId) -> bool {
        self.file(pid, slot).shut
    }

    /// Checks the events of a poll with room for `capacity`.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn poll(
        &mut self,
        pid: Pid,
        selector: SelectorId,
        capacity: usize,
        events: &[Event],
    ) -> Result<Polled, String> {
        let process = self.processes.get_mut(&pid).expect("a living process");
        let selector = process.selectors.get_mut(&selector).expect("a selector");
        if events.len() > capacity {
            return Err(format!("{} events in room for {capacity}", events.len()));
        }
        let mut seen = BTreeSet::new();
        for event in events {
            let Some(((file, _), watch)) = selector.queue.iter_mut().find(|(_, watch)| watch.token == event.token)
            else {
                return Err(format!("an event for token {}, which is not registered there", event.token));
            };
            if !seen.insert(event.token) {
                return Err(format!("two events for token {}", event.token));
            }
            let file = &mut self.files[*file];
            let expected = readiness(file.level_for(watch.wanted));
            if event.readiness != expected {
                return Err(format!("{event:?} where {expected:?} is due"));
            }
            // The network, which takes its time, may announce one thing twice.
            if !watch.must && !watch.may && !file.is_network() {
                return Err(format!("an event for token {} although nothing has happened", event.token));
            }
            (watch.must, watch.may) = (false, false);
            if file.sort == Sort::Waker {
                file.count = 0;
            }
        }
        let mut late = Vec::new();
        if events.len() < capacity {
            for ((file, _), watch) in &mut selector.queue {
                let file = &self.files[*file];
                if watch.must && file.level_for(watch.wanted) != 0 && !seen.contains(&watch.token) {
                    if !file.is_late() {
                        return Err(format!("no event for token {}", watch.token));
                    }
                    late.push(watch.token);
                } else {
                    (watch.must, watch.may) = (false, false);
                }
            }
        }
        Ok(if late.is_empty() { Polled::Well } else { Polled::Late(late) })
    }

    /// Forks `pid`; the child is `child`.
    pub fn fork(&mut self, pid: Pid, child: Pid) -> Fork {
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
                Kind::Timer => self.files[entry.file].sort != Sort::Timerfd,
                _ => process.pair_of(entry.file, &self.files).is_none(),
            })
            .map(|(fd, ..)| *fd)
            .collect();
        if !refused.is_empty() {
            return Fork::Refused(refused);
        }

        // What stands at the child's numbers.
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
            files.push(File::new(Sort::Dead));
            let severed = entries.iter().filter(|(.., policy)| *policy == Policy::Sever);
            fds.extend(severed.map(|(fd, ..)| (*fd, files.len() - 1)));
        }
        for fd in self.renewed_timers(process, &entries) {
            let mut copy = File::new(Sort::Timerfd);
            copy.count = process.timer_at(fd).map_or(self.files[process.fds[&fd]].count, |slot| slot.pending);
            files.push(copy);
            fds.insert(fd, files.len() - 1);
        }
        for (fd, entry, _) in renewed().filter(|(_, entry, _)| self.kind_of(entry) != Kind::Timer) {
            if !fresh.contains_key(&entry.file)
                && let Some((end, peer)) = process.pair_of(entry.file, &self.files)
            {
                let first = files.len();
                for (offset, number) in [(0, end), (1, peer)] {
                    let before = process.fds[&number];
                    let mut copy = File::new(Sort::StreamEnd { other: first + 1 - offset });
                    copy.incoming = self.files[before].incoming.clone();
                    files.push(copy);
                    fresh.insert(before, first + offset);
                    ends.push((number, first + offset));
                }
            }
            // A duplicate that is tagged so too.
            ends.push((*fd, fresh[&entry.file]));
        }
        fds.extend(ends);
        for fd in wakers {
            let mut copy = File::new(Sort::Waker);
            copy.count = self.files[process.fds[&fd]].count;
            files.push(copy);
            fds.insert(fd, files.len() - 1);
        }

        let mut born = process.clone();
        born.generation += 1;
        born.fds = fds;
        for selector in born.selectors.values_mut() {
            selector.queue.clear();
            selector.table.retain(|fd, entry| entry.dropped || process.is_live(*fd, entry));
            for (fd, entry) in selector.table.iter_mut().filter(|(_, entry)| !entry.dropped) {
                entry.dropped = process.policy_of(entry, &self.files) == Policy::NoFork;
                entry.kind = entry.kind.or(Some(self.files[entry.file].kind()));
                entry.file = born.fds[fd];
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
            for entry in selector.table.values_mut() {
                entry.kind = entry.kind.or(Some(self.files[entry.file].kind()));
            }
        }
        self.processes.insert(child, born);
        Fork::Made
    }

    fn kind_of(&self, entry: &Entry) -> Kind {
        entry.kind.unwrap_or_else(|| self.files[entry.file].kind())
    }

    /// Timers that are registered and to be renewed, and those of the reactor's own that are not registered to be
    /// something else.
    fn renewed_timers(&self, process: &Process, entries: &[(Fd, Entry, Policy)]) -> BTreeSet<Fd> {
        let tagged = entries.iter().filter(|(.., policy)| *policy == Policy::Renew);
        let tagged = tagged.filter(|(_, entry, _)| self.kind_of(entry) == Kind::Timer).map(|(fd, ..)| *fd);
        let is_other = |fd: Fd| {
            entries.iter().any(|(at, _, policy)| *at == fd && matches!(policy, Policy::Inherit | Policy::Sever))
        };
        let own = process.slots.values().filter(|slot| slot.is_timer()).map(|slot| slot.fd);
        let own = own.filter(|fd| !is_other(*fd) && self.files[process.fds[fd]].sort == Sort::Timerfd);
        tagged.chain(own).collect()
    }

    /// What a selector's kernel queue watches: numbers with tokens.
    pub fn watched(&self, pid: Pid, selector: SelectorId) -> Vec<(Fd, u64)> {
        let queue = &self.process(pid).selectors[&selector].queue;
        let mut watched: Vec<_> = queue.iter().map(|((_, fd), watch)| (*fd, watch.token as u64)).collect();
        watched.sort_unstable();
        watched
    }

    /// Checks what a process says its registrations are.
    ///
    /// # Errors
    ///
    /// What is wrong with the list.
    pub fn check_registrations(&self, pid: Pid, listed: &[super::message::Registration]) -> Result<(), String> {
        let process = self.process(pid);
        let mut rest: BTreeSet<(Fd, Fd)> = listed.iter().map(|line| (line.selector, line.fd)).collect();
        if rest.len() != listed.len() {
            return Err("a registration is listed twice".to_owned());
        }
        for selector in process.selectors.values() {
            for (fd, entry) in selector.table.iter().filter(|(_, entry)| !entry.dropped) {
                let line = listed.iter().find(|line| (line.selector, line.fd) == (selector.fd, *fd));
                rest.remove(&(selector.fd, *fd));
                if !process.is_live(*fd, entry) {
                    // Closed by number while registered: it may be listed until a fork looks.
                    continue;
                }
                let Some(line) = line else { return Err(format!("descriptor {fd} is not listed")) };
                let kind_is_right = match line.kind {
                    // Nobody has looked; a fork that is refused may have, or not.
                    None => entry.bare && entry.kind.is_none(),
                    Some(kind) => kind == entry.kind.unwrap_or_else(|| self.files[entry.file].kind()),
                };
                let policy = entry.policy.unwrap_or_else(|| process.default_policy(line.kind.unwrap_or(Kind::Other)));
                if !kind_is_right
                    || line.token != entry.token
                    || (line.readable, line.writable) != (entry.wanted.is_readable(), entry.wanted.is_writable())
                    || line.policy != policy
                    || line.muted != entry.muted
                {
                    return Err(format!("{line:?} where {entry:?} is due, with policy {policy:?}"));
                }
            }
        }
        match rest.first() {
            Some((selector, fd)) => Err(format!("descriptor {fd} is listed for selector {selector}")),
            None => Ok(()),
        }
    }
}

impl Slot {
    /// Whether it is a timer of the reactor's own.
    pub fn is_timer(&self) -> bool {
        matches!(self.form, Form::Typed { kind: Kind::Timer, .. })
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

#[cfg(test)]
mod tests {
    use super::*;

    const READABLE: Readiness =
        Readiness { readable: true, writable: false, read_closed: false, write_closed: false, error: false };

    /// A process with a selector at 3.
    fn one() -> Model {
        let mut model = Model::new();
        model.new_selector(0, 0, 3);
        model
    }

    fn eventfd(model: &mut Model, slot: SlotId, fd: Fd, policy: Option<Policy>) {
        model.open(0, slot, fd, Form::Bare, Sort::Eventfd);
        assert_eq!(model.register(0, 0, fd, None, slot, Wanted::Readable, policy), Ok(()));
    }

    fn pair(model: &mut Model, policies: [Option<Policy>; 2]) {
        model.open_two(0, 1, [5, 6], Kind::Pair, |_, other| Sort::StreamEnd { other });
        for (slot, (fd, policy)) in (1..).zip([5, 6].into_iter().zip(policies)) {
            assert_eq!(model.register(0, 0, fd, Some(slot), slot, Wanted::Readable, policy), Ok(()));
        }
    }

    fn poll(model: &mut Model, pid: Pid, tokens: &[usize]) -> Result<Polled, String> {
        let events: Vec<_> = tokens.iter().map(|token| Event { token: *token, readiness: READABLE }).collect();
        model.poll(pid, 0, 8, &events)
    }

    #[test]
    fn an_event_for_each_arrival_and_for_nothing_else() {
        let mut model = one();
        eventfd(&mut model, 1, 5, None);
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Well));
        assert!(poll(&mut model, 0, &[1]).is_err(), "nothing has come");
        assert_eq!(model.write(0, 1, 0), Ok(None));
        assert!(poll(&mut model.clone(), 0, &[]).is_err(), "something has come");
        assert!(poll(&mut model.clone(), 0, &[1, 1]).is_err(), "once");
        assert!(poll(&mut model.clone(), 0, &[2]).is_err(), "an unknown token");
        assert_eq!(poll(&mut model, 0, &[1]), Ok(Polled::Well));
        assert!(poll(&mut model.clone(), 0, &[1]).is_err(), "it is edge-triggered");
        // Reregistering arms it.
        assert_eq!(model.reregister(0, 0, 5, None, 7, Wanted::Readable), Ok(()));
        assert_eq!(poll(&mut model, 0, &[7]), Ok(Polled::Well));
        // What is read before the poll is no event any more.
        assert_eq!(model.write(0, 1, 0), Ok(None));
        assert_eq!(model.read(0, 1, 8), Ok(2_u64.to_ne_bytes().to_vec()));
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Well));
    }

    #[test]
    fn what_does_not_fit_comes_next_time() {
        let mut model = one();
        for (slot, fd) in [(1, 5), (2, 6)] {
            eventfd(&mut model, slot, fd, None);
            assert_eq!(model.write(0, slot, 0), Ok(None));
        }
        assert_eq!(model.poll(0, 0, 1, &[Event { token: 2, readiness: READABLE }]), Ok(Polled::Well));
        assert!(poll(&mut model.clone(), 0, &[]).is_err());
        assert_eq!(poll(&mut model, 0, &[1]), Ok(Polled::Well));
    }

    #[test]
    fn each_policy_in_the_child() {
        let mut model = one();
        for (slot, (fd, policy)) in (1..).zip([(5, Policy::Inherit), (6, Policy::NoFork), (7, Policy::Sever)]) {
            eventfd(&mut model, slot, fd, Some(policy));
            assert_eq!(model.write(0, slot, 0), Ok(None));
        }
        assert_eq!(poll(&mut model, 0, &[1, 2, 3]), Ok(Polled::Well));
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.watched(0, 0), [(5, 1), (6, 2), (7, 3)]);
        assert_eq!(model.watched(1, 0), [(5, 1), (7, 3)]);
        // The parent has seen all of it; in the child it is armed, and the dead endpoint is at its end.
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Well));
        let end = Readiness { read_closed: true, write_closed: true, ..READABLE };
        let events = [Event { token: 1, readiness: READABLE }, Event { token: 3, readiness: end }];
        assert_eq!(model.poll(1, 0, 8, &events), Ok(Polled::Well));
        assert_eq!(model.read(1, 3, 8), Ok(Vec::new()));
        // To its owner it was there.
        assert_eq!(model.reregister(1, 0, 6, None, 9, Wanted::Readable), Err(ErrorKind::NotFound));
        assert_eq!(model.deregister(1, 0, 6, None), Ok(()));
        assert_eq!(model.deregister(1, 0, 6, None), Err(ErrorKind::NotFound));
        // One counter, two processes.
        assert_eq!(model.read(1, 1, 8), Ok(1_u64.to_ne_bytes().to_vec()));
        assert_eq!(model.read(0, 1, 8), Err(ErrorKind::WouldBlock));
    }

    #[test]
    fn what_is_muted_is_armed_in_the_child() {
        let mut model = one();
        eventfd(&mut model, 1, 5, None);
        assert_eq!(model.mute(0, 5), Ok(()));
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.write(0, 1, 0), Ok(None));
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Well));
        assert_eq!(poll(&mut model, 1, &[1]), Ok(Polled::Well));
        assert_eq!(model.unmute(0, 5), Ok(()));
        assert_eq!(poll(&mut model, 0, &[1]), Ok(Polled::Well));
    }

    #[test]
    fn a_pair_is_renewed_with_what_was_pending() {
        let mut model = one();
        pair(&mut model, [None, Some(Policy::Renew)]);
        assert_eq!(model.write(0, 1, 9), Ok(None));
        assert_eq!(model.fork(0, 1), Fork::Made);
        for pid in [0, 1] {
            assert_eq!(poll(&mut model, pid, &[2]), Ok(Polled::Well));
            assert_eq!(model.read(pid, 2, 8), Ok(vec![9]));
        }
        assert_eq!(model.write(1, 2, 8), Ok(None));
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Well));
        assert_eq!(poll(&mut model, 1, &[1]), Ok(Polled::Well));
        // What is left of a pair cannot be renewed, here alone.
        assert_eq!(model.close(1, 1), Vec::<usize>::new());
        assert_eq!(model.fork(1, 2), Fork::Refused(BTreeSet::from([6])));
        assert_eq!(model.fork(0, 2), Fork::Made);
    }

    #[test]
    fn wakes_and_timers_are_private() {
        let mut model = one();
        model.new_waker(0, 1, 0, 5, 1);
        model.open(0, 2, 6, Form::Typed { kind: Kind::Timer, with: None }, Sort::Timerfd);
        model.wake(0, 1);
        model.arm(0, 2, true);
        assert_eq!(model.fork(0, 1), Fork::Made);
        for pid in [0, 1] {
            assert_eq!(poll(&mut model, pid, &[1]), Ok(Polled::Well));
            assert_eq!(model.read(pid, 2, 8), Ok(1_u64.to_ne_bytes().to_vec()));
            assert_eq!(model.read(pid, 2, 8), Err(ErrorKind::WouldBlock));
        }
        model.wake(1, 1);
        assert_eq!(poll(&mut model, 0, &[]), Ok(Polled::Well));
        assert_eq!(poll(&mut model, 1, &[1]), Ok(Polled::Well));
    }

    #[test]
    fn a_peer_sees_the_end_with_the_last_descriptor() {
        let mut model = one();
        model.open(0, 1, 5, Form::Typed { kind: Kind::Stream, with: None }, Sort::UnixStream { outside: 4 });
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.close(0, 1), Vec::<usize>::new());
        assert_eq!(model.exit(1), [4]);
    }

    #[test]
    fn a_number_that_was_closed_is_not_inherited() {
        let mut model = one();
        eventfd(&mut model, 1, 5, None);
        model.duplicate(0, 1, 2, 6);
        assert_eq!(model.close(0, 1), Vec::<usize>::new());
        // The kernel has it until the last duplicate is closed.
        assert_eq!((model.watched(0, 0), model.process(0).is_stale(5)), (vec![(5, 1)], true));
        assert_eq!(model.fork(0, 1), Fork::Made);
        assert_eq!(model.watched(1, 0), []);
    }
}
