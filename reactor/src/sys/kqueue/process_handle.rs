//! `EVFILT_PROC`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::kernel::{EV_ADD, EVFILT_PROC, NOTE_EXIT};
use super::own::{Contents, OwnQueue};
use super::{Event, Token};
use crate::source_kind::SourceKind;
use crate::sys::syscall;

/// A queue that has an event once a process has ended.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    queue: OwnQueue,
    pid: libc::pid_t,
}

impl ProcessHandle {
    pub(crate) fn open(pid: u32) -> io::Result<ProcessHandle> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        let mut event = Event::new(pid as usize, EVFILT_PROC, EV_ADD, Token(0));
        event.0.fflags = NOTE_EXIT;
        Ok(ProcessHandle { queue: OwnQueue::new(SourceKind::Process, Contents::Events(vec![event]))?, pid })
    }

    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        self.queue.is_ready()
    }

    /// Reaps a child that has ended.
    pub(crate) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut status = 0;
        // SAFETY: the kernel writes the status.
        match syscall!(waitpid(self.pid, &mut status, libc::WNOHANG))? {
            0 => Ok(None),
            _ => Ok(Some(ExitStatus::from_raw(status))),
        }
    }
}

impl AsRawFd for ProcessHandle {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}

/// A queue of the watch's own, for waiting by other means.
impl AsFd for crate::unix::Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sys().queue.as_fd()
    }
}

/// See [`AsFd`](#impl-AsFd-for-Process).
impl AsRawFd for crate::unix::Process {
    fn as_raw_fd(&self) -> RawFd {
        self.sys().as_raw_fd()
    }
}
