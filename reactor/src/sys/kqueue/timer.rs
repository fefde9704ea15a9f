//! Timers by `EVFILT_TIMER`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::own::{Alarm, Contents, OwnQueue};
use crate::source_kind::SourceKind;
use crate::timer_state::{Clock, Setting};

/// A queue with a timer in it, armed for one expiration at a time. The kernel only wakes the process, which then counts the
/// expirations by the clock.
#[derive(Debug)]
pub(crate) struct Timer(OwnQueue);

impl Timer {
    pub(crate) fn new(clock: Clock) -> io::Result<Timer> {
        let alarm = Alarm { clock, next: AtomicU64::new(0), period: AtomicU64::new(0) };
        OwnQueue::new(SourceKind::Timer, Contents::Timer(alarm)).map(Timer)
    }

    /// Sets the timer; `None` disarms it. Expirations that were not taken are lost.
    pub(crate) fn set(&self, setting: Option<Setting>) -> io::Result<()> {
        let Some(alarm) = self.0.alarm() else { return Ok(()) };
        alarm.next.store(setting.map_or(0, |setting| setting.first), Ordering::Relaxed);
        alarm.period.store(setting.map_or(0, |setting| setting.period), Ordering::Relaxed);
        self.0.arm()
    }

    /// Takes the expirations, and returns their number, or `WouldBlock`.
    pub(crate) fn take(&self) -> io::Result<u64> {
        let Some(alarm) = self.0.alarm() else { return Err(io::ErrorKind::WouldBlock.into()) };
        self.0.drain()?;
        let (next, period) = (alarm.next.load(Ordering::Relaxed), alarm.period.load(Ordering::Relaxed));
        let passed = alarm.clock.nanos().checked_sub(next).filter(|_| next != 0);
        let Some(passed) = passed else {
            if next != 0 {
                // The event came early: the clock was set, or the system rounds down.
                self.0.arm()?;
            }
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let count = passed.checked_div(period).map_or(1, |more| 1 + more);
        let after = if period == 0 { 0 } else { next.saturating_add(period.saturating_mul(count)) };
        alarm.next.store(after, Ordering::Relaxed);
        self.0.arm()?;
        Ok(count)
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Returns `None`: the child opens the timer's queue itself.
pub(crate) fn renewed(_: &crate::timer_state::TimerState) -> io::Result<Option<std::os::fd::OwnedFd>> {
    Ok(None)
}

/// Makes a timer that continues the one at `fd`. Descriptors that are timers themselves exist on Linux only.
pub(crate) fn renewed_by_descriptor(fd: RawFd) -> io::Result<std::os::fd::OwnedFd> {
    #[cfg(forkio_kqueue)]
    return crate::sys::timerfd::renewed_by_descriptor(fd);
    #[cfg(not(forkio_kqueue))]
    {
        let _ = fd;
        Err(io::ErrorKind::Unsupported.into())
    }
}
