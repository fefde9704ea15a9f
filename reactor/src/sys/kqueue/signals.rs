//! Watches signals with `EVFILT_SIGNAL`.

use std::io;

use super::kernel::{EV_ADD, EV_CLEAR, EVFILT_SIGNAL};
use super::source_queue::{Contents, SourceQueue};
use super::{Event, Token};
use crate::source_kind::SourceKind;
use crate::sys::as_raw_fd;
use crate::sys::process::{SignalsBlocked, signal_set};
use crate::unix::SignalInfo;

/// Signals that are blocked, so that they stay pending, and a queue that gives an event when one is sent.
#[derive(Debug)]
pub(crate) struct SignalQueue(SourceQueue);

impl SignalQueue {
    pub(crate) fn new(signals: impl IntoIterator<Item = i32>) -> io::Result<SignalQueue> {
        let signals: Vec<i32> = signals.into_iter().collect();
        let set = signal_set(&signals)?;
        let event = |&signal: &i32| Event::new(signal as usize, EVFILT_SIGNAL, EV_ADD | EV_CLEAR, Token(0));
        let contents = Contents::Events(signals.iter().map(event).collect());
        let queue = SourceQueue::new(SourceKind::Signal, contents)?;
        let blocked = SignalsBlocked::block(&set);
        // The kernel gives no event for a signal that was pending before.
        queue.0.notice_pending_signals()?;
        // The signals stay blocked.
        std::mem::forget(blocked);
        Ok(SignalQueue(queue))
    }

    pub(crate) fn take(&self) -> io::Result<SignalInfo> {
        // Take the event first, so that a signal sent from now on gives a new one.
        self.0.drain()?;
        while let Some(signal) = self.0.0.pending_signal()? {
            if let Some(info) = accept(signal)? {
                return Ok(info);
            }
            // Another thread was faster.
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Takes a signal. `None`: it is no longer pending.
#[cfg(not(any(target_os = "openbsd", target_vendor = "apple")))]
fn accept(signal: i32) -> io::Result<Option<SignalInfo>> {
    let set = signal_set(&[signal])?;
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel reads the set and the time, and writes one structure.
    match crate::sys::syscall!(sigtimedwait(&set, info.as_mut_ptr(), &now)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
        Ok(_) => {
            // SAFETY: the kernel has filled the structure; all zero is a valid value for the rest.
            let info = unsafe { info.assume_init() };
            // SAFETY: both fields are initialised: they are zero if the signal has no sender.
            let (pid, uid) = unsafe { (info.si_pid(), info.si_uid()) };
            Ok(Some(SignalInfo {
                signal,
                code: info.si_code,
                sender: u32::try_from(pid).ok().filter(|pid| *pid != 0),
                user: (pid > 0).then_some(uid),
                value: value(&info),
            }))
        }
    }
}

/// Takes a pending signal. These systems do not say which process sent it.
#[cfg(any(target_os = "openbsd", target_vendor = "apple"))]
fn accept(signal: i32) -> io::Result<Option<SignalInfo>> {
    let set = signal_set(&[signal])?;
    let mut taken = 0;
    // SAFETY: the kernel reads the set, and writes one number.
    match unsafe { libc::sigwait(&set, &mut taken) } {
        0 => Ok(Some(SignalInfo { signal: taken, code: 0, sender: None, user: None, value: 0 })),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(not(any(target_os = "netbsd", target_os = "openbsd", target_vendor = "apple")))]
fn value(info: &libc::siginfo_t) -> i32 {
    // SAFETY: the kernel has filled `si_value`, a union of an integer and a pointer. The integer is the lower half of the
    // pointer on little-endian systems.
    let value = unsafe { info.si_value() };
    value.sival_ptr as usize as i32
}

#[cfg(target_os = "netbsd")]
fn value(_: &libc::siginfo_t) -> i32 {
    0
}

as_raw_fd!(SignalQueue, 0);
