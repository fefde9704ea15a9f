//! Watches a process with `EVFILT_PROC`.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, test_kill_process, waitpid};

use super::kernel::{EV_ADD, EVFILT_PROC, NOTE_EXIT};
use super::source_queue::{Contents, SourceQueue, expired_timer};
use super::{Event, Token};
use crate::source_kind::SourceKind;
use crate::sys::{as_raw_fd, descriptor};

/// A queue that gives an event once a process has ended.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    queue: SourceQueue,
    pid: Pid,
}

impl ProcessHandle {
    pub(crate) fn open(pid: u32) -> io::Result<ProcessHandle> {
        // `Pid` excludes 0, which is the kernel's process on FreeBSD.
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let mut event = Event::new(pid.as_raw_nonzero().get() as usize, EVFILT_PROC, EV_ADD, Token(0));
        event.0.fflags = NOTE_EXIT;
        let watch = |event| SourceQueue::new(SourceKind::Process, Contents::Events(vec![event]));
        let queue = match watch(event) {
            // Some systems refuse to watch a process that has ended and not been waited for (libuv pull request 3451).
            // kill(2) still finds such a process. The queue gets an expired timer instead.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) && test_kill_process(pid) != Err(Errno::SRCH) => {
                watch(expired_timer())?
            }
            result => result?,
        };
        Ok(ProcessHandle { queue, pid })
    }

    pub(crate) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let wait = |options| rustix::io::retry_on_intr(|| waitpid(Some(self.pid), options));
        let mut ended = wait(WaitOptions::NOHANG)?;
        // Some systems report the end a moment before the status is available (libuv pull request 3521), and do not report it
        // again.
        if ended.is_none() && descriptor::is_readable(self.as_raw_fd())? {
            ended = wait(WaitOptions::empty())?;
        }
        Ok(ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw())))
    }
}

as_raw_fd!(ProcessHandle, queue);
