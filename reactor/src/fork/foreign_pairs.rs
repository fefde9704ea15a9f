//! Pairs of descriptors that other code has made, with both ends in this process. These are the signal pipe of tokio on
//! upstream mio, and the pairs with an end in one of tokio's epoll instances.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;

use rustix::net::RecvFlags;

use super::policy::SourceKind;
use crate::Token;
use crate::sys::adoption::{OpenDescriptors, Registered, SocketPeers};
use crate::sys::descriptor;

/// The token of the signal pipe (`tokio/src/runtime/io/driver.rs`, `TOKEN_SIGNAL`).
pub(super) const SIGNAL_PIPE: Token = Token(1);

/// tokio's signal pipe: a socket pair, made once per process, and never closed.
///
/// A signal handler writes to one end, the sender. Each runtime registers a duplicate of the other end, the receiver. The
/// descriptors in the fields are not registered with an epoll instance.
#[derive(Debug)]
pub(super) struct SignalPipe {
    /// tokio's own descriptor of the receiver.
    pub(super) receiver: RawFd,
    /// tokio's own descriptor of the sender.
    pub(super) sender: RawFd,
    /// Duplicates of both ends.
    others: Vec<RawFd>,
    /// The inodes of receiver and sender in `generation`. A child has other inodes, because the fork renews the pipe.
    inodes: [u64; 2],
    generation: u32,
}

impl SignalPipe {
    /// Finds the pipe whose receiver has this inode. `is_registered` recognises the duplicates that runtimes have. The
    /// caller then calls [`find_others`](SignalPipe::find_others).
    pub(super) fn find(
        inode: u64,
        generation: u32,
        open: &OpenDescriptors,
        is_registered: impl Fn(RawFd) -> bool,
    ) -> io::Result<SignalPipe> {
        let unregistered = open.sockets.iter().filter(|(fd, _)| !is_registered(*fd));
        let receiver = unregistered.clone().find(|(_, found)| *found == inode);
        let &(receiver, _) =
            receiver.ok_or_else(|| io::Error::other("tokio's own receiving end of its signal pipe is missing"))?;
        let others: Vec<_> = unregistered.copied().filter(|(fd, found)| *fd != receiver && *found != inode).collect();
        let peer = SocketPeers::default().of(inode);
        let sender = match peer {
            Some(peer) => others.iter().find(|(_, found)| *found == peer).copied(),
            None => find_by_writing(receiver, &others)?,
        };
        let (sender, sender_inode) =
            sender.ok_or_else(|| io::Error::other("the sending end of tokio's signal pipe is not in this process"))?;
        let mut pipe = SignalPipe { receiver, sender, others: Vec::new(), inodes: [inode, sender_inode], generation };
        pipe.check(generation)?;
        Ok(pipe)
    }

    pub(super) fn find_others(&mut self, open: &OpenDescriptors, is_registered: impl Fn(RawFd) -> bool) {
        let is_other = |(fd, inode): &&(RawFd, u64)| {
            self.inodes.contains(inode) && ![self.receiver, self.sender].contains(fd) && !is_registered(*fd)
        };
        self.others = open.sockets.iter().filter(is_other).map(|(fd, _)| *fd).collect();
    }

    /// Checks that the descriptors still refer to the pipe, and returns the inode of its receiving end.
    pub(super) fn check(&mut self, generation: u32) -> io::Result<u64> {
        for (fd, inode) in [self.receiver, self.sender].into_iter().zip(&mut self.inodes) {
            let found =
                descriptor::identity(fd).ok().filter(|_| descriptor::is_unix_stream(fd)).map(|(_, found)| found);
            match found {
                Some(found) if found == *inode => {}
                // The fork has renewed the pipe.
                Some(found) if generation != self.generation => *inode = found,
                _ => {
                    let text = format!("descriptor {fd} was an end of tokio's signal pipe, and is another file now");
                    return Err(io::Error::other(text));
                }
            }
        }
        self.generation = generation;
        Ok(self.inodes[0])
    }

    /// Lists the descriptors of the pipe that are not registered with an epoll instance.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [self.receiver, self.sender].into_iter().chain(self.others.iter().copied())
    }
}

/// Finds the sender if the kernel does not report the peers of sockets. Writes bytes to the receiver, and takes them
/// from the candidate that has got them. tokio never reads the sender.
fn find_by_writing(receiver: RawFd, candidates: &[(RawFd, u64)]) -> io::Result<Option<(RawFd, u64)>> {
    /// How many bytes to write at most. One is enough, unless other candidates get data at the same moment.
    const ROUNDS: usize = 16;
    let mut candidates: Vec<_> =
        candidates.iter().copied().filter(|(fd, _)| descriptor::is_unnamed_stream(*fd)).collect();
    for round in 1..=ROUNDS {
        let pending = |fd| descriptor::pending_bytes(fd).unwrap_or(0);
        let before: Vec<_> = candidates.iter().map(|(fd, _)| pending(*fd)).collect();
        descriptor::send_byte(receiver)?;
        let mut before = before.into_iter();
        candidates.retain(|(fd, _)| before.next().is_some_and(|before| pending(*fd) > before));
        // Any duplicate of the sender will do.
        let Some(&(fd, inode)) = candidates.first() else { return Ok(None) };
        if candidates.iter().all(|(_, other)| *other == inode) {
            rustix::net::recv(descriptor::borrow(fd)?, &mut [0; ROUNDS][..round], RecvFlags::DONTWAIT)?;
            return Ok(Some((fd, inode)));
        }
    }
    Ok(None)
}

/// The open sockets and pipes, and the socket pairs that were found among them.
#[derive(Debug)]
pub(super) struct OwnPairs {
    /// A descriptor of each socket, by inode.
    sockets: BTreeMap<u64, RawFd>,
    pipes: Vec<(RawFd, u64)>,
    peers: SocketPeers,
    pub(super) found: Vec<(RawFd, RawFd)>,
}

impl OwnPairs {
    /// Collects the sockets and pipes. `registered` supplies the registered sockets, which `open` may lack.
    pub(super) fn new<'a>(open: OpenDescriptors, registered: impl Iterator<Item = &'a Registered>) -> OwnPairs {
        let registered = registered.filter(|registered| registered.kind.is_socket());
        let registered = registered.map(|registered| (registered.inode, registered.fd));
        let sockets = open.sockets.iter().map(|(fd, inode)| (*inode, *fd)).chain(registered).collect();
        OwnPairs { sockets, pipes: open.pipes, peers: SocketPeers::default(), found: Vec::new() }
    }

    /// Determines the kind of a registered descriptor. If the kernel does not report the peers of sockets, no socket counts
    /// as an end of a pair.
    pub(super) fn kind(&mut self, registered: &Registered) -> SourceKind {
        let is_end = match registered.kind {
            SourceKind::Stream if registered.token == SIGNAL_PIPE => false,
            SourceKind::Stream => {
                // Both ends of a pair are unnamed. At least one end of a connection to a listener has a name.
                let is_unnamed = descriptor::is_unnamed_stream(registered.fd);
                let peer = is_unnamed.then(|| self.peers.of(registered.inode)).flatten();
                let peer = peer.and_then(|peer| self.sockets.get(&peer));
                self.found.extend(peer.map(|peer| (registered.fd, *peer)));
                peer.is_some()
            }
            SourceKind::Pipe => {
                let mut others = self.pipes.iter().filter(|(_, inode)| *inode == registered.inode);
                others.any(|(fd, _)| descriptor::are_both_ends(registered.fd, *fd))
            }
            _ => false,
        };
        if is_end { SourceKind::Pair } else { registered.kind }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_sender_is_found_by_writing() {
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        pairs.iter().flat_map(|(a, b)| [a, b]).for_each(|end| end.set_nonblocking(true).unwrap());
        let (receiver, sender) = &pairs[1];
        let all = pairs.iter().flat_map(|(a, b)| [a.as_raw_fd(), b.as_raw_fd()]);
        let candidates: Vec<_> =
            all.filter(|fd| *fd != receiver.as_raw_fd()).map(|fd| (fd, descriptor::identity(fd).unwrap().1)).collect();
        let found = find_by_writing(receiver.as_raw_fd(), &candidates).unwrap();
        assert_eq!(found.map(|(fd, _)| fd), Some(sender.as_raw_fd()));
        assert!(
            pairs.iter().flat_map(|(a, b)| [a, b]).all(|end| descriptor::pending_bytes(end.as_raw_fd()).unwrap() == 0)
        );
        assert_eq!(find_by_writing(receiver.as_raw_fd(), &candidates[..2]).unwrap(), None);
    }
}
