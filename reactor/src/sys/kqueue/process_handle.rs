//! Watches a process with `EVFILT_PROC`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::kernel::{EV_ADD, EVFILT_PROC, NOTE_EXIT};
use super::own::{Contents, OwnQueue, expired_timer};
use super::{Event, Token};
use crate::source_kind::SourceKind;
use crate::sys::syscall;

/// A queue that gives an event once a process has ended.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    queue: OwnQueue,
    pid: libc::pid_t,
}

impl ProcessHandle {
    pub(crate) fn open(pid: u32) -> io::Result<ProcessHandle> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // FreeBSD has a process of that id: the kernel.
        if pid == 0 {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let mut event = Event::new(pid as usize, EVFILT_PROC, EV_ADD, Token(0));
        event.0.fflags = NOTE_EXIT;
        let watch = |event| OwnQueue::new(SourceKind::Process, Contents::Events(vec![event]));
        let queue = match watch(event) {
            // Some systems refuse to watch a process that has ended and not been waited for (libuv pull request 3451). Such a
            // process can still be sent signals. Its queue gets an expired timer instead.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) && is_there(pid) => watch(expired_timer())?,
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
                // Some systems report the end a moment before the status is available (libuv pull request 3521), and do not
                // report it again.
                Ok(0) if self.has_ended()? => options = 0,
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(ExitStatus::from_raw(status))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether there is such a process, ended or not. This process may lack the permission to send it signals. 0 is a group.
fn is_there(pid: libc::pid_t) -> bool {
    pid != 0 && !syscall!(kill(pid, 0)).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

impl AsRawFd for ProcessHandle {
    fn as_raw_fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}
