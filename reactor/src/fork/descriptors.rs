//! Records of descriptors: the state besides registrations that a fork needs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::sys::descriptor::{self, Identity, OpenFile};
use crate::timer_state::TimerState;

/// The record of a descriptor. Most descriptors have no record.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Set if the descriptor is an end of a stream socket pair that this crate made or found.
    pub(super) end: Option<PairEnd>,
    /// Whether the pair was found in the list of an adopted queue: this crate did not make the pair.
    is_found: bool,
    /// Whether every child gets a pair of its own in place of this one, registered or not.
    pub(super) is_always_renewed: bool,
    /// The state of the `unix::Timer` that owns the descriptor.
    pub(super) timer: Option<Arc<TimerState>>,
    /// The file that the descriptor referred to when it was muted. The kernel does not have a muted registration, so only
    /// this file shows whether the descriptor was closed and used again.
    pub(super) muted: Option<OpenFile>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PairEnd {
    /// The descriptor of the other end.
    pub(super) peer: RawFd,
    /// The socket in this process. Other code may close the descriptor without notice, in this process or in a child.
    socket: Identity,
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

    pub(super) fn add_pair(&mut self, [a, b]: [RawFd; 2]) -> io::Result<()> {
        let sockets = [descriptor::identity(a)?, descriptor::identity(b)?];
        self.record(a).end = Some(PairEnd { peer: b, socket: sockets[0] });
        self.record(b).end = Some(PairEnd { peer: a, socket: sockets[1] });
        Ok(())
    }

    /// Replaces the pairs that were found before, whose descriptors may have been closed without notice. Ignores a pair with an
    /// end in another pair.
    pub(super) fn set_found_pairs(&mut self, found: &[(RawFd, RawFd)]) {
        for record in self.0.values_mut().filter(|record| record.is_found) {
            record.end = None;
            record.is_found = false;
        }
        for &(a, b) in found {
            let is_new = [a, b].iter().all(|fd| self.get(*fd).is_none_or(|record| record.end.is_none()));
            if is_new && self.add_pair([a, b]).is_ok() {
                self.record(a).is_found = true;
                self.record(b).is_found = true;
            }
        }
        self.0.retain(|_, record| {
            record.is_always_renewed &= record.end.is_some();
            record.end.is_some() || record.timer.is_some() || record.muted.is_some()
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
        if let Some(peer) = record.end.and_then(|end| self.0.get_mut(&end.peer)) {
            peer.end = None;
            peer.is_always_renewed = false;
        }
    }

    /// Finds the pair that the socket `identity` is an end of. That end comes first.
    pub(super) fn find_pair(&self, identity: Identity) -> Option<[RawFd; 2]> {
        let mut ends = self.iter().filter_map(|(fd, record)| Some((fd, record.end?)));
        let (fd, end) = ends.find(|(fd, end)| end.socket == identity && self.is_intact(*fd))?;
        Some([fd, end.peer])
    }

    /// Whether `fd` is an end of a pair, and still refers to that socket.
    pub(super) fn is_intact(&self, fd: RawFd) -> bool {
        let end = self.get(fd).and_then(|record| record.end);
        end.is_some_and(|end| descriptor::identity(fd).is_ok_and(|socket| socket == end.socket))
    }

    pub(super) fn always_renewed(&self) -> impl Iterator<Item = [RawFd; 2]> {
        self.iter()
            .filter(|(_, record)| record.is_always_renewed)
            .filter_map(|(fd, record)| Some([fd, record.end?.peer]))
    }

    /// In the child, notes that `fd` is an end of a fresh pair. Async-signal-safe.
    pub(super) fn renewed(&mut self, fd: RawFd, socket: Identity) {
        if let Some(end) = self.0.get_mut(&fd).and_then(|record| record.end.as_mut()) {
            end.socket = socket;
        }
    }

    /// In the child, notes that `fd` was severed: the descriptor is no longer a timer or an end of a pair.
    /// Async-signal-safe, because it frees nothing.
    pub(super) fn sever(&mut self, fd: RawFd) {
        let Some(record) = self.0.get_mut(&fd) else { return };
        if let Some(timer) = &record.timer {
            timer.sever();
        }
        if let Some(peer) = record.end.take().and_then(|end| self.0.get_mut(&end.peer)) {
            peer.end = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_pair_that_is_found_again_keeps_its_records() {
        let (end, other_end) = UnixStream::pair().unwrap();
        let (a, b) = (end.as_raw_fd(), other_end.as_raw_fd());
        let mut records = Records::new();
        records.set_found_pairs(&[(a, b)]);
        records.record(a).is_always_renewed = true;
        let muted = Some(((1, 2), rustix::fs::OFlags::RDONLY));
        records.record(b).muted = muted;
        records.set_found_pairs(&[(a, b)]);
        assert!(records.always_renewed().eq([[a, b]]));
        assert_eq!(records.get(b).and_then(|record| record.muted), muted);
        // The pair does not exist any more.
        records.set_found_pairs(&[]);
        assert!(records.get(a).is_none());
        assert!(records.get(b).is_some_and(|record| record.end.is_none() && record.muted.is_some()));
    }
}
