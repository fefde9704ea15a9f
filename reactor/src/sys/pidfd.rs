//! Watches a process with pidfd_open(2).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::syscall;

/// A descriptor of a process.
#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    pub(crate) fn open(pid: u32) -> io::Result<ProcessHandle> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // The kernel makes it close-on-exec.
        let fd = syscall!(syscall(libc::SYS_pidfd_open, pid, 0))?;
        // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
        Ok(ProcessHandle(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure.
        loop {
            match syscall!(poll(&mut poll, 1, 0)) {
                // A signal may interrupt it, although it does not wait.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Ok(result? > 0),
            }
        }
    }

    /// Reaps a child that has ended.
    pub(crate) fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let id = self.0.as_raw_fd() as u32;
        // SAFETY: the kernel writes one structure at most.
        syscall!(waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG))?;
        // SAFETY: all zero is a valid value; the kernel has filled the fields of SIGCHLD if it has set the process id.
        let (info, pid) = unsafe {
            let info = info.assume_init();
            (info, info.si_pid())
        };
        if pid == 0 {
            return Ok(None);
        }
        // SAFETY: as above.
        let status = unsafe { info.si_status() };
        // In the encoding of wait(2), which is the one that the standard library takes.
        Ok(Some(ExitStatus::from_raw(match info.si_code {
            libc::CLD_EXITED => (status & 0xff) << 8,
            libc::CLD_DUMPED => status | 0x80,
            _ => status,
        })))
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
