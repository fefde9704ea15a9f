//! [`Timer`].

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use forkio_reactor::unix;
use forkio_reactor::unix::Clock;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// A timer in the kernel, for a task.
///
/// What tokio's own timers are not: it can follow the time of day ([`Clock::Realtime`]), it is as exact as the kernel is, not
/// to the millisecond, and it says how many periods have passed. For anything else [`tokio::time`] costs less.
///
/// # Fork
///
/// Each process has its own: the child's expires when the parent's would, keeps period and phase, and has the expirations
/// that were not taken, which are there in the parent too. [`set_policy`](crate::set_policy) with
/// [`NoFork`](crate::ForkPolicy::NoFork) makes it the parent's alone: in the child [`expired`](Timer::expired) does not
/// return.
///
/// # Examples
///
/// ```
/// use forkio::{Clock, Timer};
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
    /// Creates a timer that is not set, on the current runtime.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or those of registering one with the runtime.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, or if it has no I/O driver.
    pub fn new(clock: Clock) -> io::Result<Timer> {
        Ok(Timer { watched: sys::watch(unix::Timer::new(clock)?).map_err(|(_, error)| error)? })
    }

    /// Lets the timer expire after `delay`, and then after each `period`, if there is one. What it was set to before, and
    /// expirations not taken, are forgotten.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a period of zero.
    pub fn set_after(&mut self, delay: Duration, period: Option<Duration>) -> io::Result<()> {
        self.watched.get_mut().set_after(delay, period)
    }

    /// Lets the timer expire when its [clock](Clock::now) shows `time`, and then after each `period`, if there is one. For a
    /// time that has passed it expires at once, and has expired once for each period since.
    ///
    /// # Errors
    ///
    /// As [`set_after`](Timer::set_after).
    pub fn set_at(&mut self, time: Duration, period: Option<Duration>) -> io::Result<()> {
        self.watched.get_mut().set_at(time, period)
    }

    /// Stops the timer. Expirations not taken are forgotten.
    ///
    /// # Errors
    ///
    /// None is expected, unless a fork has severed it.
    pub fn disarm(&mut self) -> io::Result<()> {
        self.watched.get_mut().disarm()
    }

    /// Waits until the timer has expired; returns how often since the last time, or since it was set. A timer that is not
    /// set does not return.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a future that is dropped has taken nothing.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) in a child where the timer was severed.
    pub async fn expired(&mut self) -> io::Result<u64> {
        poll_fn(|cx| self.poll_expired(cx)).await
    }

    /// As [`expired`](Timer::expired), for hand-written futures.
    ///
    /// # Errors
    ///
    /// As [`expired`](Timer::expired).
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        loop {
            let mut ready = ready!(self.watched.poll_read_ready_mut(cx))?;
            match ready.get_inner_mut().expirations() {
                // All were taken, so that what expires from now on gives an event of its own.
                Ok(count) => {
                    ready.clear_ready();
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The time until the timer expires next; `None` if it will not.
    pub fn remaining(&self) -> Option<Duration> {
        self.watched.get_ref().remaining()
    }

    /// The clock that the timer was made with.
    pub fn clock(&self) -> Clock {
        self.watched.get_ref().clock()
    }
}

/// For [`set_policy`](crate::set_policy). Expirations are taken with [`Timer::expired`] only.
impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.get_ref().as_fd()
    }
}
