//! Watches a process with pidfd_open(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::sys::as_raw_fd;

/// A descriptor of a process.
#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    pub(crate) fn open(pid: u32) -> io::Result<ProcessHandle> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        // The kernel makes the descriptor close-on-exec.
        Ok(ProcessHandle(pidfd_open(pid, PidfdFlags::empty())?))
    }

    pub(crate) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let ended = waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        // The standard library takes a status in the encoding of wait(2).
        Ok(ended.map(|ended| {
            let core = if ended.dumped() { 0x80 } else { 0 };
            let exited = ended.exit_status().map(|status| (status & 0xff) << 8);
            ExitStatus::from_raw(exited.or(ended.terminating_signal()).unwrap_or(0) | core)
        }))
    }
}

as_raw_fd!(ProcessHandle, 0);
