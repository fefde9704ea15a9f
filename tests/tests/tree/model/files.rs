//! Operations on files and timers. Those that return no `Expected` record what a process or the driver has done.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::file::FileKind;
use super::{Change, Expected, FileId, Holder, Model, Pid, SelectorId, Slot, SlotId};
use crate::message::{Fd, Kind, Wanted};

/// The driver's peers of connections that no process has open any more.
pub(crate) type Ended = Vec<usize>;

impl Model {
    pub(crate) fn open(&mut self, pid: Pid, slot: SlotId, fd: Fd, holder: Holder, kind: FileKind) {
        let file = self.new_file(kind);
        let process = self.process_mut(pid);
        process.fds.insert(fd, file);
        process.slots.insert(slot, Slot { fd, holder, pending: 0 });
    }

    /// Records that a process has opened two files that are connected.
    pub(crate) fn open_two(
        &mut self,
        pid: Pid,
        slot: SlotId,
        fds: [Fd; 2],
        kind: Kind,
        file_kind: impl Fn(usize, FileId) -> FileKind,
    ) {
        let first = self.files.len();
        self.open(pid, slot, fds[0], Holder::Typed { kind, with: None }, file_kind(0, first + 1));
        self.open(pid, slot + 1, fds[1], Holder::Typed { kind, with: None }, file_kind(1, first));
        if matches!(self.files[first].kind, FileKind::StreamEnd { .. } | FileKind::DatagramEnd { .. }) {
            let process = self.process_mut(pid);
            process.pairs.extend([(fds[0], fds[1]), (fds[1], fds[0])]);
        }
    }

    pub(crate) fn new_waker(&mut self, pid: Pid, slot: SlotId, selector: SelectorId, fd: Fd, token: usize) {
        self.open(pid, slot, fd, Holder::Waker(selector), FileKind::Waker);
        let done = self.add(pid, selector, fd, token, Wanted::Readable, Some(Kind::Waker), None);
        debug_assert_eq!(done, Ok(()));
    }

    pub(crate) fn duplicate(&mut self, pid: Pid, slot: SlotId, into: SlotId, fd: Fd) {
        let file = self.file_id(pid, slot);
        let process = self.process_mut(pid);
        process.fds.insert(fd, file);
        process.slots.insert(into, Slot { fd, holder: Holder::Bare, pending: 0 });
    }

    /// Records that a process has taken the descriptor out of a source.
    pub(crate) fn take_fd(&mut self, pid: Pid, slot: SlotId) {
        let process = self.process_mut(pid);
        let Slot { fd, holder, .. } = process.slots[&slot];
        let Holder::Typed { kind, with } = holder else { return };
        if let Some(entry) =
            with.and_then(|with| process.selectors.get_mut(&with)).and_then(|selector| selector.table.get_mut(&fd))
        {
            entry.bare = true;
        }
        if kind == Kind::Pair {
            process.forget_pair(fd);
        }
        process.slots.insert(slot, Slot { fd, holder: Holder::Bare, pending: 0 });
    }

    /// Records that a process has dropped a source.
    pub(crate) fn close(&mut self, pid: Pid, slot: SlotId) -> Ended {
        let Slot { fd, holder, .. } = self.process(pid).slots[&slot];
        let with = match holder {
            Holder::Typed { with, .. } => with,
            Holder::Waker(selector) => Some(selector),
            Holder::Bare => None,
        };
        if let Some(with) = with.filter(|with| self.process(pid).selectors.contains_key(with)) {
            let _gone = self.remove(pid, with, fd);
        }
        let process = self.process_mut(pid);
        if matches!(holder, Holder::Typed { kind: Kind::Pair, .. }) {
            process.forget_pair(fd);
        }
        process.slots.remove(&slot);
        let file = process.fds.remove(&fd).expect("an open descriptor");
        self.release(vec![file])
    }

    pub(crate) fn exit(&mut self, pid: Pid) -> Ended {
        let process = self.processes.remove(&pid).expect("a living process");
        self.release(process.fds.into_values().collect())
    }

    /// Closes files that no process has open any more.
    pub(super) fn release(&mut self, closed: Vec<FileId>) -> Ended {
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
            match self.files[file].kind {
                FileKind::TcpStream { outside } | FileKind::UnixStream { outside } => ended.push(outside),
                FileKind::StreamEnd { other } => {
                    self.files[other].closed_by_peer = true;
                    self.files[other].reset |= unread;
                    self.notify(other, Change::Ending);
                }
                FileKind::PipeReader { other } | FileKind::PipeWriter { other } => {
                    self.files[other].closed_by_peer = true;
                    self.notify(other, Change::Ending);
                }
                FileKind::DatagramEnd { other } => {
                    self.files[other].closed_by_peer = true;
                    self.notify(other, Change::Other);
                }
                _ => {}
            }
        }
        ended
    }

    pub(crate) fn wake(&mut self, pid: Pid, slot: SlotId) {
        let file = self.file_id(pid, slot);
        self.files[file].count = 1;
        self.notify(file, Change::Arrival);
    }

    /// Records that a process has set a timer, which is due now or in a year.
    pub(crate) fn arm(&mut self, pid: Pid, slot: SlotId, due: bool) {
        let file = self.file_id(pid, slot);
        self.files[file].count = due.into();
        self.slot_mut(pid, slot).pending = due.into();
        self.notify(file, if due { Change::Arrival } else { Change::Other });
    }

    /// Accepts a connection in a process.
    pub(crate) fn accept(&mut self, pid: Pid, slot: SlotId) -> Expected {
        let file = self.file_id(pid, slot);
        if self.files[file].kind == FileKind::Dead {
            return Err(ErrorKind::InvalidInput);
        }
        self.files[file].incoming.pop_front().map(|_| ()).ok_or(ErrorKind::WouldBlock)
    }

    /// Reads at most `most` bytes in a process. A counter gives its value, in eight bytes.
    pub(crate) fn read(&mut self, pid: Pid, slot: SlotId, most: usize) -> Expected<Vec<u8>> {
        let id = self.file_id(pid, slot);
        let is_timer = self.process(pid).slots[&slot].is_timer();
        let file = &mut self.files[id];
        if is_timer {
            let count = file.count;
            let slot = self.processes.get_mut(&pid).and_then(|process| process.slots.get_mut(&slot)).expect("a source");
            slot.pending = slot.pending.saturating_sub(count);
        }
        let most = if matches!(file.kind, FileKind::Udp { .. } | FileKind::DatagramEnd { .. }) { 1 } else { most };
        let taken: Vec<u8> = file.incoming.drain(..most.min(file.incoming.len())).collect();
        let result = match file.kind {
            FileKind::Eventfd | FileKind::Timerfd => match std::mem::take(&mut file.count) {
                0 => Err(ErrorKind::WouldBlock),
                count => Ok(count.to_ne_bytes().to_vec()),
            },
            // A timer has no end of file.
            FileKind::Dead if is_timer => Err(ErrorKind::UnexpectedEof),
            FileKind::Dead => Ok(Vec::new()),
            _ if !taken.is_empty() => Ok(taken),
            _ if std::mem::take(&mut file.reset) => Err(ErrorKind::ConnectionReset),
            FileKind::TcpStream { .. }
            | FileKind::UnixStream { .. }
            | FileKind::StreamEnd { .. }
            | FileKind::PipeReader { .. }
                if file.shut || file.closed_by_peer =>
            {
                Ok(Vec::new())
            }
            _ => Err(ErrorKind::WouldBlock),
        };
        let kind = file.kind;
        self.notify(id, Change::Other);
        if let FileKind::StreamEnd { other } | FileKind::DatagramEnd { other } | FileKind::PipeReader { other } = kind {
            self.notify(other, Change::Other);
        }
        result
    }

    /// Writes a byte in a process, or adds one to a counter. Returns the driver's peer that receives the byte, if any.
    pub(crate) fn write(&mut self, pid: Pid, slot: SlotId, byte: u8) -> Expected<Option<usize>> {
        let file = self.file_id(pid, slot);
        match self.files[file].kind {
            FileKind::TcpStream { outside } | FileKind::UnixStream { outside } => {
                self.notify(file, Change::Other);
                Ok(Some(outside))
            }
            FileKind::StreamEnd { .. } | FileKind::PipeWriter { .. } if self.files[file].closed_by_peer => {
                Err(ErrorKind::BrokenPipe)
            }
            FileKind::StreamEnd { other } | FileKind::DatagramEnd { other } | FileKind::PipeWriter { other } => {
                self.files[other].incoming.push_back(byte);
                self.notify(other, Change::Arrival);
                self.notify(file, Change::Other);
                Ok(None)
            }
            FileKind::Eventfd => {
                self.files[file].count += 1;
                self.notify(file, Change::Arrival);
                Ok(None)
            }
            FileKind::Dead => Err(ErrorKind::BrokenPipe),
            kind => unreachable!("no operation writes to {kind:?}"),
        }
    }

    /// Records that the driver has sent a byte to a source, or connected to it.
    pub(crate) fn send(&mut self, pid: Pid, slot: SlotId, byte: u8) {
        let file = self.file_id(pid, slot);
        self.files[file].incoming.push_back(byte);
        self.notify(file, Change::Arrival);
    }

    /// Records that the driver has shut its end of a connection.
    pub(crate) fn shut(&mut self, pid: Pid, slot: SlotId) {
        let file = self.file_id(pid, slot);
        self.files[file].shut = true;
        self.notify(file, Change::Ending);
    }

    /// Whether the driver has shut its end.
    pub(crate) fn is_shut(&self, pid: Pid, slot: SlotId) -> bool {
        self.file(pid, slot).shut
    }
}
