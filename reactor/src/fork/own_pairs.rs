//! Finds socket pairs and pipes that other code has made, with both ends in this process.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use super::adopted::SIGNAL_PIPE;
use super::policy::SourceKind;
use crate::sys::adoption::{self, OpenDescriptors, Registered, SocketPeers};
use crate::sys::descriptor;

/// The open sockets and pipes, and the pairs that were found among them.
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
        let registered = registered.filter(|registered| registered.is_socket());
        let registered = registered.map(|registered| (registered.inode, registered.fd));
        let sockets = open.sockets.iter().map(|(fd, inode)| (*inode, *fd)).chain(registered).collect();
        OwnPairs { sockets, pipes: open.pipes, peers: SocketPeers::default(), found: Vec::new() }
    }

    /// Determines the kind of a registered descriptor. If the kernel does not report the peers of sockets, no socket counts
    /// as an end of a pair.
    pub(super) fn kind(&mut self, registered: &Registered) -> SourceKind {
        let is_end = match registered.kind {
            SourceKind::Stream => registered.token != SIGNAL_PIPE && self.is_end_of_socket_pair(registered),
            SourceKind::Pipe => {
                let mut others = self.pipes.iter().filter(|(_, inode)| *inode == registered.inode);
                others.any(|(fd, _)| adoption::are_both_ends(registered.fd, *fd))
            }
            _ => false,
        };
        if is_end { SourceKind::Pair } else { registered.kind }
    }

    fn is_end_of_socket_pair(&mut self, registered: &Registered) -> bool {
        // At least one end of a connection to a listener has a name.
        let is_unnamed = descriptor::is_unnamed_stream(registered.fd);
        let peer = is_unnamed.then(|| self.peers.of(registered.inode)).flatten();
        let peer = peer.and_then(|peer| self.sockets.get(&peer));
        let Some(peer) = peer else { return false };
        self.found.push((registered.fd, *peer));
        true
    }
}
