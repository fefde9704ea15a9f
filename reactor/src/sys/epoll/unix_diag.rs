//! The peers of Unix sockets: sock_diag(7), `UNIX_DIAG_PEER`.

use std::os::fd::AsRawFd;

use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys::syscall;

/// Asks the kernel about sockets, over a netlink socket that is opened for the first question.
#[derive(Debug, Default)]
pub(crate) struct SocketPeers(Option<Option<Socket>>);

/// `struct nlmsghdr` with the `struct unix_diag_req` that follows it.
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    padding: u16,
    states: u32,
    inode: u32,
    show: u32,
    cookie: [u32; 2],
}

/// `SOCK_DIAG_BY_FAMILY`, the kind of the request and of its answer.
const BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_PEER`.
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`, an attribute with the peer's inode.
const PEER: u16 = 2;
/// Where the attributes are: after a `struct nlmsghdr` and a `struct unix_diag_msg`.
const ATTRIBUTES: usize = 16 + 16;

impl SocketPeers {
    /// Returns the inode of a socket's peer. `None` if the socket has no peer, or if the kernel does not report it: the
    /// kernel may be built without `CONFIG_UNIX_DIAG`, and a container may forbid netlink sockets.
    pub(crate) fn of(&mut self, inode: u64) -> Option<u64> {
        let socket = self.0.get_or_insert_with(|| {
            let (family, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(libc::NETLINK_SOCK_DIAG));
            Socket::new(family, Type::RAW, Some(protocol)).ok()
        });
        let socket = socket.as_ref()?;
        let request = Request {
            length: size_of::<Request>() as u32,
            kind: BY_FAMILY,
            flags: libc::NLM_F_REQUEST as u16,
            sequence: 0,
            port: 0,
            family: libc::AF_UNIX as u8,
            protocol: 0,
            padding: 0,
            states: u32::MAX,
            inode: inode.try_into().ok()?,
            show: SHOW_PEER,
            // No cookie: the inode is enough.
            cookie: [u32::MAX; 2],
        };
        // SAFETY: the kernel reads the request.
        syscall!(send(socket.as_raw_fd(), (&raw const request).cast(), size_of::<Request>(), 0)).ok()?;
        let mut answer = [0_u8; 512];
        // The kernel has answered by now.
        let (length, _) = rustix::net::recv(socket, &mut answer, RecvFlags::DONTWAIT).ok()?;
        peer(&answer[..length])
    }
}

/// Returns the peer's inode in an answer; `None` if the answer is an error.
fn peer(answer: &[u8]) -> Option<u64> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != BY_FAMILY {
        return None;
    }
    let mut at = ATTRIBUTES;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == PEER {
            let inode = u32::from_ne_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?);
            // Zero means that the peer was closed.
            return (inode != 0).then_some(inode.into());
        }
        // Attributes are aligned, and at least as long as their header.
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::descriptor::identity;

    #[test]
    fn the_ends_of_a_pair_are_peers() {
        let (a, b) = UnixStream::pair().unwrap();
        let [a_inode, b_inode] = [&a, &b].map(|end| identity(end.as_raw_fd()).unwrap().1);
        let mut peers = SocketPeers::default();
        // A kernel without `CONFIG_UNIX_DIAG` reports no peers.
        if peers.of(a_inode).is_some() {
            assert_eq!((peers.of(a_inode), peers.of(b_inode)), (Some(b_inode), Some(a_inode)));
        }
        drop(b);
        assert_eq!(peers.of(a_inode), None);
        assert_eq!(peer(&[]), None);
    }
}
