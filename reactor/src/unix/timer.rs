use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::io_source::{IoSource, SourceKind, source};
use crate::timer_state::{Clock, Setting, TimerState};
use crate::{fork, sys};

/// A timer in the kernel: a source that becomes [readable](crate::event::Event::is_readable) when it expires.
///
/// It expires once, or once and then after each period. Register it with [`READABLE`](crate::Interest::READABLE). After an
/// event call [`expirations`](Timer::expirations). Until you call it the timer stays readable, and a later expiration need not
/// give another event.
///
/// # Fork
///
/// A timer is private to a process: its kind's default policy is `Renew`. The child's timer continues the parent's: it
/// expires at the same time and keeps period and phase. Each process can take the expirations that were not taken yet.
/// If the timer is not registered, or has the policy `NoFork`, the child has such a timer too, unregistered. With `Inherit`,
/// both processes share one timer (on kqueue systems, each has its own). With `Sever`, the timer fails in the child with
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
///
/// # Platforms
///
/// Linux: [timerfd_create(2)](https://man7.org/linux/man-pages/man2/timerfd_create.2.html). kqueue systems: `EVFILT_TIMER`.
/// NetBSD, OpenBSD and DragonFly count in milliseconds, and on them a timer on [`Clock::Realtime`] does not expire earlier when
/// that clock is set forward.
///
/// # Examples
///
/// ```
/// use forkio_reactor::unix::{Clock, Timer};
/// use forkio_reactor::{Events, Interest, Poll, Token};
/// use std::time::Duration;
///
/// let mut poll = Poll::new()?;
/// let mut events = Events::with_capacity(8);
/// let mut timer = Timer::new(Clock::Monotonic)?;
/// poll.registry().register(&mut timer, Token(0), Interest::READABLE)?;
///
/// timer.set_after(Duration::from_millis(2), Some(Duration::from_millis(10)))?;
/// poll.poll(&mut events, None)?;
/// assert!(!events.is_empty() && timer.expirations()? >= 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Timer {
    inner: IoSource<sys::Timer>,
    state: Arc<TimerState>,
}

impl Timer {
    /// Creates a timer that is not set.
    ///
    /// # Errors
    ///
    /// Those of `timerfd_create(2)` or `kqueue(2)`: the process or the system has no descriptor left. With the feature
    /// `cponfork`, also an error if this thread is between `fork::prepare` and the end of that fork.
    pub fn new(clock: Clock) -> io::Result<Timer> {
        let state = Arc::new(TimerState::new(clock));
        let timer = fork::add_timer(|| sys::Timer::new(&state), &state)?;
        Ok(Timer { inner: IoSource::recorded(timer, SourceKind::Timer), state })
    }

    /// Lets the timer expire after `delay`, and then after each `period`, if there is one. This discards the previous setting,
    /// and expirations that were not taken.
    ///
    /// On [`Clock::Realtime`] the delay counts by that clock: if the clock is set meanwhile, the expiration moves.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a period of zero; otherwise those of [`disarm`](Timer::disarm).
    pub fn set_after(&mut self, delay: Duration, period: Option<Duration>) -> io::Result<()> {
        self.set_at(self.clock().now().saturating_add(delay), period)
    }

    /// Like [`set_after`](Timer::set_after), but lets the timer expire when its clock shows `time`.
    ///
    /// If `time` has passed, the timer expires at once, and each period since `time` counts as an expiration too.
    pub fn set_at(&mut self, time: Duration, period: Option<Duration>) -> io::Result<()> {
        self.set(Some(Setting::new(time, period)?))
    }

    /// Stops the timer. This discards expirations that were not taken.
    ///
    /// # Errors
    ///
    /// Those of `timerfd_settime(2)` or `kevent(2)`; none is expected, unless the timer was severed.
    pub fn disarm(&mut self) -> io::Result<()> {
        self.set(None)
    }

    fn set(&mut self, setting: Option<Setting>) -> io::Result<()> {
        fork::settle();
        self.inner.set(setting)?;
        self.state.set(setting);
        Ok(())
    }

    /// Takes the expirations since the last call, or since the timer was set, and returns their number, which is never 0.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if there are none;
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if a fork has severed the timer.
    pub fn expirations(&mut self) -> io::Result<u64> {
        fork::settle();
        let count = self.inner.take()?;
        self.state.take(count);
        Ok(count)
    }

    /// Returns the time until the timer expires next; `None` if it will not.
    pub fn remaining(&self) -> Option<Duration> {
        self.state.remaining(self.clock().nanos())
    }

    /// Returns the clock that the timer was made with.
    pub fn clock(&self) -> Clock {
        self.state.clock
    }
}

source! {
    /// A descriptor for waiting by other means: a timerfd, or a kqueue with the timer. Use the type's own methods to take
    /// expirations and to set the timer: a fork does not notice changes that the program makes through the descriptor.
    Timer
}
