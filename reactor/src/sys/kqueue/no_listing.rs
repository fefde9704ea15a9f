//! This system does not list the registrations of a queue, so forks do not handle queues made by other code.

use std::io;
use std::os::fd::RawFd;

use crate::sys::Queue;
use crate::sys::adoption::{Listed, OpenDescriptors, Registered};

pub(crate) const EXISTS: bool = false;

#[derive(Debug, Default)]
pub(crate) struct SocketPeers {}

impl SocketPeers {
    pub(crate) fn of(&mut self, _: u64) -> Option<u64> {
        None
    }
}

pub(crate) fn list(_: RawFd) -> io::Result<Vec<Listed>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn registered(_: &Queue, _: &[Listed]) -> io::Result<Vec<Registered>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn open_descriptors(_: impl Fn(RawFd) -> bool) -> io::Result<OpenDescriptors> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn is_same_queue(_: RawFd, _: RawFd) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn are_both_ends(_: RawFd, _: RawFd) -> bool {
    false
}
