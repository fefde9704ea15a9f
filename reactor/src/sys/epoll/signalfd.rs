//! Takes signals with signalfd(2).

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::misuse;
use crate::sys::process::{SignalsBlocked, signal_set};
use crate::sys::{as_raw_fd, syscall};
use crate::unix::SignalInfo;

/// A signalfd. It gives each reader the reader's own signals, so processes can share it. Its set never changes.
#[derive(Debug)]
pub(crate) struct SignalQueue(OwnedFd);

impl SignalQueue {
    pub(crate) fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<SignalQueue> {
        let set = signal_set(&signals.into_iter().collect::<Vec<_>>())?;
        // SAFETY: the kernel reads `set`.
        let fd = syscall!(signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))?;
        // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
        let queue = SignalQueue(unsafe { OwnedFd::from_raw_fd(fd) });
        // The signals stay blocked.
        mem::forget(SignalsBlocked::block(&set));
        Ok(queue)
    }

    pub(crate) fn take(&self) -> io::Result<SignalInfo> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most one structure.
        let read = syscall!(read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size))?;
        if read as usize != size {
            return Err(misuse::severed());
        }
        // SAFETY: the kernel has filled all of the structure.
        let info = unsafe { info.assume_init() };
        Ok(SignalInfo {
            signal: info.ssi_signo as i32,
            code: info.ssi_code,
            // A signal from the kernel has no sender; SIGCHLD has the child's id.
            sender: (info.ssi_pid != 0).then_some(info.ssi_pid),
            user: (info.ssi_pid != 0).then_some(info.ssi_uid),
            value: info.ssi_int,
        })
    }
}

as_raw_fd!(SignalQueue, 0);
