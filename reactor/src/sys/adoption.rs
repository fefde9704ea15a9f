//! The queues that other code in the process has made. Only Linux lists their registrations.

use std::os::fd::RawFd;

pub(crate) use super::listing::{CAN_LIST, SocketPeers, is_same_queue, list, open_descriptors, registered};
use crate::source_kind::SourceKind;
use crate::{Interest, Token};

/// The token of the waker (`tokio/src/runtime/io/driver.rs`, `TOKEN_WAKEUP`).
pub(crate) const WAKER: Token = Token(0);

/// A registration whose descriptor still refers to the registered file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    pub(crate) fd: RawFd,
    pub(crate) token: Token,
    /// Includes the [mark](Interest::MARK), if the registration has one.
    pub(crate) interest: Interest,
    pub(crate) kind: SourceKind,
    pub(crate) inode: u64,
}

/// A line of the list that the kernel prints: a registration, for a file that may have been closed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) fd: RawFd,
    pub(crate) token: Token,
    pub(crate) inode: u64,
    pub(super) events: u32,
    pub(super) device: u64,
}

#[derive(Debug, Default)]
pub(crate) struct OpenDescriptors {
    /// Epoll instances.
    pub(crate) queues: Vec<RawFd>,
    /// Sockets, with their inodes.
    pub(crate) sockets: Vec<(RawFd, u64)>,
    /// Ends of pipes, with their inodes.
    pub(crate) pipes: Vec<(RawFd, u64)>,
}
