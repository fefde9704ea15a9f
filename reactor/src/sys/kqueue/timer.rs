//! Timers by `EVFILT_TIMER`.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use super::source_queue::{Contents, SourceQueue, expires_at};
use crate::source_kind::SourceKind;
use crate::sys::as_raw_fd;
use crate::timer_state::{Setting, TimerState};

/// A queue with a timer, armed for one expiration at a time. The process then counts the expirations by the clock.
#[derive(Debug)]
pub(crate) struct Timer {
    queue: SourceQueue,
    state: Arc<TimerState>,
}

impl Timer {
    pub(crate) fn new(state: &Arc<TimerState>) -> io::Result<Timer> {
        let queue = SourceQueue::new(SourceKind::Timer, Contents::Timer(Arc::clone(state)))?;
        Ok(Timer { queue, state: Arc::clone(state) })
    }

    pub(crate) fn set(&self, setting: Option<Setting>) -> io::Result<()> {
        self.queue.arm(setting.map(|setting| expires_at(setting.first, self.state.clock)))
    }

    pub(crate) fn take(&self) -> io::Result<u64> {
        self.queue.drain()?;
        let Some(Setting { first, period }) = self.state.rest() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let Some(passed) = self.state.clock.nanos().checked_sub(first) else {
            // No event has come, or it came early: the clock was set, or the system rounds down.
            self.set(Some(Setting { first, period }))?;
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let count = passed.checked_div(period).map_or(1, |more| 1 + more);
        let next = first.saturating_add(period.saturating_mul(count));
        self.set((period != 0).then_some(Setting { first: next, period }))?;
        Ok(count)
    }
}

as_raw_fd!(Timer, queue);

/// Returns `None`: the child opens the timer's queue itself.
pub(crate) fn renewed(_: &TimerState) -> io::Result<Option<OwnedFd>> {
    Ok(None)
}

/// Makes a timer that continues the timerfd at `fd`. forkio supports timerfds only on Linux.
pub(crate) fn renewed_by_descriptor(_fd: RawFd) -> io::Result<OwnedFd> {
    #[cfg(forkio_kqueue)]
    return crate::sys::timerfd::renewed_by_descriptor(_fd);
    #[cfg(not(forkio_kqueue))]
    Err(io::ErrorKind::Unsupported.into())
}
