use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitStatus;

use crate::io_source::{IoSource, SourceKind, source};
use crate::{fork, misuse, sys};

/// A watch on another process: [readable](crate::event::Event::is_readable) once it has ended.
///
/// The watch is on the process that has the id when [`open`](Process::open) is called, even if the system gives the id to
/// another process later. A child keeps its id until it has been waited for. Dropping the watch does not affect the process.
///
/// # Fork
///
/// The watch belongs to the process that opened it, and is not registered in the child: its kind's default policy is
/// `NoFork`. In the child, [`try_wait`](Process::try_wait) fails with `ECHILD`: only the parent can wait for its children. With
/// the policy `Inherit`, the end of the watched process gives an event in both processes.
///
/// # Platforms
///
/// Linux 5.3: [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html). kqueue systems: `EVFILT_PROC`.
///
/// # Examples
///
/// ```
/// use forkio_reactor::unix::Process;
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::process::Command;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// let child = Command::new("false").spawn()?;
/// let mut process = Process::open(child.id())?;
/// poll.registry().register(&mut process, Token(0), Interest::READABLE)?;
///
/// poll.poll(&mut events, None)?;
/// assert_eq!(process.try_wait()?.and_then(|status| status.code()), Some(1));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Process {
    pid: u32,
    inner: IoSource<sys::ProcessHandle>,
}

impl Process {
    /// Watches the process with the id `pid`.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is no such process (a child that has ended, but has not been waited for, is still a process).
    /// Otherwise those of `pidfd_open(2)` or `kevent(2)`: no descriptor left, or `ENOSYS` before Linux 5.3.
    pub fn open(pid: u32) -> io::Result<Process> {
        let handle = fork::while_no_fork("watching a process", || sys::ProcessHandle::open(pid))?;
        Ok(Process { pid, inner: IoSource::new(handle, SourceKind::Process) })
    }

    /// Returns the process id. The system may give it to another process once this one has ended and been waited for.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Whether the process has ended. This works for any process, not only for children.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if a fork has severed the watch; otherwise those of `poll(2)`.
    pub fn has_ended(&self) -> io::Result<bool> {
        fork::settle();
        let fd = self.as_raw_fd();
        if sys::descriptor::is_unix_stream(fd) {
            return Err(misuse::severed());
        }
        sys::descriptor::is_readable(fd)
    }

    /// Reaps the process, a child of this one, if it has ended, and returns its exit status; `None` while it runs.
    ///
    /// # Errors
    ///
    /// `ECHILD` if the process is not a child of this one, or has been waited for already. On Linux, `EBADF` if a fork has
    /// severed the watch, and `EINVAL` before Linux 5.4.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.inner.try_wait()
    }
}

source! {
    /// A descriptor for waiting by other means: a pidfd, or a kqueue with the watch.
    Process
}
