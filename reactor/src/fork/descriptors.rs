//! What forks must know of descriptors besides their registrations.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::sys::descriptor::{self, Identity, OpenFile};
use crate::timer_state::TimerState;

/// The record of a descriptor. Most descriptors have no record.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The other end, if the descriptor is an end of a stream socket pair that this crate made or found.
    pub(super) peer: Option<RawFd>,
    /// Whether the pair was found in the list of an adopted queue: this crate did not make the pair.
    is_found: bool,
    /// Whether every child gets a pair of its own in place of this one, registered or not.
    pub(super) is_always_renewed: bool,
    /// The socket that this end of an [always renewed](Self::is_always_renewed) pair is in this process. Other code may close
    /// the descriptor without notice.
    pub(super) socket: Option<Identity>,
    /// The state of the `unix::Timer` that owns the descriptor.
    pub(super) timer: Option<Arc<TimerState>>,
    /// The file that a bare descriptor referred to when it was muted. The kernel does not have a muted registration, so only
    /// this file shows whether the descriptor was closed and used again.
    pub(super) muted: Option<OpenFile>,
}

#[derive(Debug)]
pub(super) struct Records(BTreeMap<RawFd, Record>);

impl Records {
    pub(super) const fn new() -> Records {
        Records(BTreeMap::new())
    }

    pub(super) fn get(&self, fd: RawFd) -> Option<&Record> {
        self.0.get(&fd)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RawFd, &Record)> {
        self.0.iter().map(|(fd, record)| (*fd, record))
    }

    /// Returns the record of `fd`, after making an empty one if needed.
    pub(super) fn record(&mut self, fd: RawFd) -> &mut Record {
        self.0.entry(fd).or_default()
    }

    pub(super) fn add_pair(&mut self, a: RawFd, b: RawFd) {
        self.record(a).peer = Some(b);
        self.record(b).peer = Some(a);
    }

    /// Replaces the pairs that were found before, whose descriptors may have been closed without notice. Ignores a pair with an
    /// end in another pair.
    pub(super) fn set_found_pairs(&mut self, found: &[(RawFd, RawFd)]) {
        for record in self.0.values_mut().filter(|record| record.is_found) {
            record.peer = None;
            record.is_found = false;
        }
        for &(a, b) in found {
            if [a, b].iter().all(|fd| self.get(*fd).is_none_or(|record| record.peer.is_none())) {
                self.add_pair(a, b);
                self.record(a).is_found = true;
                self.record(b).is_found = true;
            }
        }
        self.0.retain(|_, record| {
            if record.peer.is_none() {
                record.is_always_renewed = false;
                record.socket = None;
            }
            record.peer.is_some() || record.timer.is_some() || record.muted.is_some()
        });
    }

    /// Notes that the owner gives `fd` away, still open: `fd` no longer counts as a timer or as an end of a pair.
    pub(super) fn release(&mut self, fd: RawFd) {
        let muted = self.get(fd).and_then(|record| record.muted);
        self.forget(fd);
        if muted.is_some() {
            self.record(fd).muted = muted;
        }
    }

    /// Forgets `fd`, which its owner closes.
    pub(super) fn forget(&mut self, fd: RawFd) {
        let Some(record) = self.0.remove(&fd) else { return };
        if let Some(peer) = record.peer.and_then(|peer| self.0.get_mut(&peer)) {
            peer.peer = None;
            peer.is_always_renewed = false;
            peer.socket = None;
        }
    }

    /// Finds the pair that the socket `identity` is an end of. That end comes first.
    pub(super) fn find_pair(&self, identity: Identity) -> Option<(RawFd, RawFd)> {
        let may_be = |record: &Record| record.socket.is_none_or(|socket| socket == identity);
        let mut ends = self.iter().filter_map(|(fd, record)| Some((fd, record.peer.filter(|_| may_be(record))?)));
        ends.find(|(fd, _)| descriptor::identity(*fd).is_ok_and(|found| found == identity))
    }

    /// Gives every child a fresh pair in place of the one with these ends.
    pub(super) fn always_renew(&mut self, ends: [RawFd; 2]) -> io::Result<()> {
        let sockets = [descriptor::identity(ends[0])?, descriptor::identity(ends[1])?];
        self.record(ends[0]).is_always_renewed = true;
        for (fd, socket) in ends.into_iter().zip(sockets) {
            self.record(fd).socket = Some(socket);
        }
        Ok(())
    }

    /// Whether `fd`, an end of an always renewed pair, is still that socket.
    pub(super) fn is_intact(&self, fd: RawFd) -> bool {
        let socket = self.get(fd).and_then(|record| record.socket);
        socket.is_some() && descriptor::identity(fd).ok() == socket
    }

    /// Lists the pairs that are always renewed.
    pub(super) fn always_renewed(&self) -> impl Iterator<Item = [RawFd; 2]> {
        self.iter().filter(|(_, record)| record.is_always_renewed).filter_map(|(fd, record)| Some([fd, record.peer?]))
    }

    /// In the child, notes that `fd` is an end of a fresh pair. Async-signal-safe.
    pub(super) fn renewed(&mut self, fd: RawFd, socket: Identity) {
        if let Some(known) = self.0.get_mut(&fd).and_then(|record| record.socket.as_mut()) {
            *known = socket;
        }
    }

    /// In the child, notes that `fd` was severed: the descriptor is no longer a timer or an end of a pair.
    /// Async-signal-safe, because it frees nothing.
    pub(super) fn sever(&mut self, fd: RawFd) {
        let Some(record) = self.0.get_mut(&fd) else { return };
        if let Some(timer) = &record.timer {
            timer.sever();
        }
        if let Some(peer) = record.peer.take().and_then(|peer| self.0.get_mut(&peer)) {
            peer.peer = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_is_found_again_keeps_its_records() {
        let mut records = Records::new();
        records.set_found_pairs(&[(3, 4)]);
        records.record(3).is_always_renewed = true;
        let muted = Some(((1, 2), rustix::fs::OFlags::RDONLY));
        records.record(4).muted = muted;
        records.set_found_pairs(&[(3, 4)]);
        assert!(records.get(3).is_some_and(|record| record.peer == Some(4) && record.is_always_renewed));
        assert_eq!(records.get(4).and_then(|record| record.muted), muted);
        // The pair does not exist any more.
        records.set_found_pairs(&[]);
        assert!(records.get(3).is_none());
        assert!(records.get(4).is_some_and(|record| record.peer.is_none() && record.muted.is_some()));
    }
}
