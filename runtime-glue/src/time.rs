//! Kernel timers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use forkio_reactor::unix;
pub use forkio_reactor::unix::Clock;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// A kernel timer for a task.
///
/// Use it instead of [`tokio::time`] if a timer must follow the time of day ([`Clock::Realtime`]), be more exact than a
/// millisecond, or count the periods that have passed. Otherwise tokio's timers cost less.
///
/// # Fork
///
/// Each process has its own timer. The child's timer expires when the parent's does, and keeps period and phase. Both
/// processes have the expirations that were not taken before the fork. After [`set_policy`](crate::set_policy) with
/// [`NoFork`](crate::ForkPolicy::NoFork) only the parent has the timer: in the child [`expired`](Timer::expired) does not
/// return.
///
/// # Examples
///
/// ```
/// use forkio::time::{Clock, Timer};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut timer = Timer::new(Clock::Monotonic)?;
/// timer.set_after(Duration::from_micros(250), Some(Duration::from_micros(500)))?;
/// let mut periods = 0;
/// while periods < 3 {
///     periods += timer.expired().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Timer {
    watched: AsyncFd<unix::Timer>,
}

impl Timer {
    /// Creates a timer on the current runtime. It is not set.
    ///
    /// # Errors
    ///
    /// Fails if no descriptor is left, or if the timer cannot be registered with the runtime.
    ///
    /// # Panics
    ///
    /// Outside a runtime, or if the runtime has no I/O driver.
    pub fn new(clock: Clock) -> io::Result<Timer> {
        Ok(Timer { watched: sys::watch(unix::Timer::new(clock)?)? })
    }

    /// Sets the timer to expire after `delay`, and then after each `period`, if there is one. Discards the previous setting, and
    /// expirations that were not taken.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a period of zero; otherwise those of [`disarm`](Timer::disarm).
    pub fn set_after(&mut self, delay: Duration, period: Option<Duration>) -> io::Result<()> {
        self.watched.get_mut().set_after(delay, period)
    }

    /// Sets the timer to expire when its [clock](Clock::now) shows `time`, and then after each `period`, if there is one. If
    /// that time has passed, the timer expires at once, and counts each period since.
    ///
    /// # Errors
    ///
    /// Those of [`set_after`](Timer::set_after).
    pub fn set_at(&mut self, time: Duration, period: Option<Duration>) -> io::Result<()> {
        self.watched.get_mut().set_at(time, period)
    }

    /// Stops the timer. Discards expirations that were not taken.
    ///
    /// # Errors
    ///
    /// Fails only if a fork has severed the timer.
    pub fn disarm(&mut self) -> io::Result<()> {
        self.watched.get_mut().disarm()
    }

    /// Waits until the timer has expired. Returns how often it has expired since the last call, or since it was set. While the
    /// timer is not set, this does not return.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) in a child where the timer was severed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a future that is dropped has taken no expiration.
    pub async fn expired(&mut self) -> io::Result<u64> {
        loop {
            let mut ready = self.watched.readable_mut().await?;
            match ready.get_inner_mut().expirations() {
                // All expirations were taken, so the next one gives another event.
                Ok(count) => {
                    ready.clear_ready();
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the time until the timer expires next, or `None` if it is not set.
    pub fn remaining(&self) -> Option<Duration> {
        self.watched.get_ref().remaining()
    }

    /// Returns the clock that the timer was made with.
    pub fn clock(&self) -> Clock {
        self.watched.get_ref().clock()
    }
}

/// The descriptor for [`set_policy`](crate::set_policy). Read expirations with [`Timer::expired`] only.
impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.get_ref().as_fd()
    }
}
