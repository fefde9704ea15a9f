//! On this system nothing lists the registrations of a queue, so forks do not handle the queues of other code.

use std::io;
use std::os::fd::RawFd;

use crate::source_kind::SourceKind;
use crate::sys::Queue;
use crate::{Interest, Token};

pub(crate) const EXISTS: bool = false;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    pub(crate) fd: RawFd,
    pub(crate) token: Token,
    pub(crate) interest: Interest,
    pub(crate) kind: SourceKind,
    pub(crate) inode: u64,
}

impl Registered {
    pub(crate) fn is_socket(&self) -> bool {
        false
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) fd: RawFd,
    pub(crate) data: u64,
    pub(crate) inode: u64,
}

pub(crate) fn list(_: RawFd) -> io::Result<Vec<Listed>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn registered(_: &Queue, _: &[Listed]) -> io::Result<Vec<Registered>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[derive(Debug, Default)]
pub(crate) struct OpenDescriptors {
    pub(crate) queues: Vec<RawFd>,
    pub(crate) sockets: Vec<(RawFd, u64)>,
    pub(crate) pipes: Vec<(RawFd, u64)>,
}

pub(crate) fn open_descriptors(_: impl Fn(RawFd) -> bool) -> io::Result<OpenDescriptors> {
    Err(io::ErrorKind::Unsupported.into())
}

#[derive(Debug, Default)]
pub(crate) struct SocketPeers {}

impl SocketPeers {
    pub(crate) fn of(&mut self, _: u64) -> Option<u64> {
        None
    }
}

pub(crate) fn is_same_queue(_: RawFd, _: RawFd) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn are_both_ends(_: RawFd, _: RawFd) -> bool {
    false
}
