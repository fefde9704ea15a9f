//! Takes signals with signalfd(2).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::sys::syscall;
use crate::unix::SignalInfo;

/// A signalfd. Its set is never changed, so that processes can share it: it gives each reader the reader's own signals.
#[derive(Debug)]
pub(crate) struct SignalQueue(OwnedFd);

impl SignalQueue {
    /// Opens a signalfd for the signals, and blocks them in the calling thread.
    pub(crate) fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<SignalQueue> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset fills `set`, and cannot fail.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is initialised.
            let is_signal = unsafe { libc::sigaddset(&mut set, signal) } == 0;
            // The kernel would silently leave these two out.
            if !is_signal || signal == libc::SIGKILL || signal == libc::SIGSTOP {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{signal} is not the number of a signal that a process can receive"),
                ));
            }
        }
        // SAFETY: the kernel reads `set`.
        let fd = syscall!(signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))?;
        // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
        let queue = SignalQueue(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: pthread_sigmask reads `set`. It cannot fail, because the operation is valid.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        Ok(queue)
    }

    pub(crate) fn take(&self) -> io::Result<SignalInfo> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most one structure.
        let read = syscall!(read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size))?;
        if read as usize != size {
            // It is severed.
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the signals belong to the process that this one was forked from",
            ));
        }
        // SAFETY: the kernel has filled all of it.
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

impl AsRawFd for SignalQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
