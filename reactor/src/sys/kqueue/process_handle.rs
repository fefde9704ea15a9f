//! `EVFILT_PROC`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::kernel::{EV_ADD, EV_ONESHOT, EVFILT_PROC, EVFILT_TIMER, NOTE_EXIT, TIMER_UNIT};
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
        let watch = |event| OwnQueue::new(SourceKind::Process, Contents::Events(vec![event]));
        let queue = match watch(event) {
            // Not every system takes a process that has ended and not been waited for (libuv pull request 3451). There is
            // one as long as it can be sent signals; what stays in its queue is a timer that has expired.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) && is_there(pid) => {
                let mut expired = Event::new(0, EVFILT_TIMER, EV_ADD | EV_ONESHOT, Token(0));
                (expired.0.fflags, expired.0.data) = (TIMER_UNIT.0, 1);
                watch(expired)?
            }
            result => result?,
        };
        Ok(ProcessHandle { queue, pid })
    }

    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        self.queue.is_ready()
    }

    /// Reaps a child that has ended.
    pub(crate) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut status = 0;
        let mut options = libc::WNOHANG;
        loop {
            // SAFETY: the kernel writes the status.
            match syscall!(waitpid(self.pid, &mut status, options)) {
                // Some systems report the end a moment before there is a status to wait for (libuv pull request 3521), and
                // they do not report it again.
                Ok(0) if self.has_ended()? => options = 0,
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(ExitStatus::from_raw(status))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether there is such a process, ended or not. It may be one that this one may not send signals. 0 is a group.
fn is_there(pid: libc::pid_t) -> bool {
    pid != 0 && !syscall!(kill(pid, 0)).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
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
