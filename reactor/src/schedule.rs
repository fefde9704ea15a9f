//! What a timer is set to, and how far its owner has come with it.

use std::io;
#[cfg(feature = "os-ext")]
use std::os::fd::{AsRawFd, RawFd};
#[cfg(feature = "os-ext")]
use std::sync::Arc;
#[cfg(feature = "cponfork")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys;

/// The clock that a [`Timer`](crate::unix::Timer) counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    /// Goes on steadily and is never set, as [`Instant`](std::time::Instant). It may stand still while the system is
    /// suspended.
    Monotonic,
    /// The time of day, as [`SystemTime`](std::time::SystemTime). When it is set, expirations move with it.
    Realtime,
}

impl Clock {
    /// What the clock shows: for the real-time clock the time since 1970 began (UTC), for the monotonic one since a moment
    /// that is the same for all processes of the system.
    pub fn now(self) -> Duration {
        Duration::from_nanos(sys::timer::now(self))
    }
}

/// When a timer expires, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Never 0. It may have passed: such a timer has expired, once for each period since.
    pub(crate) first: u64,
    /// 0: it expires once.
    pub(crate) period: u64,
}

impl Setting {
    /// The kernel counts in signed 64 bits. Beyond that is never.
    const NEVER: u64 = i64::MAX as u64;

    /// # Errors
    ///
    /// `InvalidInput` for a period of zero.
    pub(crate) fn new(first: Duration, period: Option<Duration>) -> io::Result<Setting> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(Setting::NEVER);
        let period = match period {
            Some(Duration::ZERO) => {
                let text = "a timer cannot have a period of zero: give it none, and it expires once";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            period => period.map_or(0, nanos),
        };
        Ok(Setting { first: nanos(first).clamp(1, Setting::NEVER), period: period.min(Setting::NEVER) })
    }
}

/// What a timer is set to, and how many of its expirations its owner has taken. With these two a fresh timer goes on
/// where this one is, whatever its kernel object has to say.
///
/// Its words are written by the timer's owner alone. Who forks on another thread meanwhile may read some before and some
/// after: in that child the thread is not there, and nobody has the timer.
#[derive(Debug)]
pub(crate) struct Schedule {
    clock: Clock,
    /// 0: not set.
    first: AtomicU64,
    period: AtomicU64,
    taken: AtomicU64,
    /// The timer stayed with a process that this one was forked from.
    #[cfg(feature = "cponfork")]
    severed: AtomicBool,
}

impl Schedule {
    fn new(clock: Clock) -> Schedule {
        let zero = || AtomicU64::new(0);
        Schedule {
            clock,
            first: zero(),
            period: zero(),
            taken: zero(),
            #[cfg(feature = "cponfork")]
            severed: AtomicBool::new(false),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn set(&self, setting: Option<Setting>) {
        self.first.store(setting.map_or(0, |setting| setting.first), Ordering::Relaxed);
        self.period.store(setting.map_or(0, |setting| setting.period), Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, count: u64) {
        self.taken.fetch_add(count, Ordering::Relaxed);
    }

    /// Async-signal-safe.
    #[cfg(feature = "cponfork")]
    pub(crate) fn sever(&self) {
        self.severed.store(true, Ordering::Relaxed);
    }

    #[cfg(feature = "cponfork")]
    pub(crate) fn is_severed(&self) -> bool {
        self.severed.load(Ordering::Relaxed)
    }

    /// Begins with the first expiration that nobody has taken; `None`: there is none.
    pub(crate) fn rest(&self) -> Option<Setting> {
        let first = self.first.load(Ordering::Relaxed);
        let period = self.period.load(Ordering::Relaxed);
        let taken = self.taken.load(Ordering::Relaxed);
        match (first, period, taken) {
            (0, ..) | (_, 0, 1..) => None,
            _ => {
                let first = first.saturating_add(period.saturating_mul(taken)).min(Setting::NEVER);
                Some(Setting { first, period })
            }
        }
    }

    /// The time from `now` to the next expiration that is still to come.
    pub(crate) fn remaining(&self, now: u64) -> Option<Duration> {
        let Setting { first, period } = self.rest()?;
        let nanos = match now.checked_sub(first) {
            None => first - now,
            Some(_) if period == 0 => return None,
            Some(passed) => period - passed % period,
        };
        Some(Duration::from_nanos(nanos))
    }
}

/// A timer with its schedule, where forks find it.
#[cfg(feature = "os-ext")]
#[derive(Debug)]
pub(crate) struct Scheduled {
    pub(crate) timer: sys::Timer,
    pub(crate) schedule: Arc<Schedule>,
}

#[cfg(feature = "os-ext")]
impl Scheduled {
    /// # Errors
    ///
    /// The system's, and between prepare and the end of a fork.
    pub(crate) fn new(clock: Clock) -> io::Result<Scheduled> {
        let timer = sys::Timer::new(clock)?;
        let schedule = Arc::new(Schedule::new(clock));
        #[cfg(feature = "cponfork")]
        crate::fork::remember_timer(timer.as_raw_fd(), Arc::clone(&schedule))?;
        Ok(Scheduled { timer, schedule })
    }
}

#[cfg(feature = "os-ext")]
impl AsRawFd for Scheduled {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

/// Before the timer is closed, and after its registration has ended: until then forks look at both.
#[cfg(all(feature = "os-ext", feature = "cponfork"))]
impl Drop for Scheduled {
    fn drop(&mut self) {
        crate::fork::forget_timer(self.as_raw_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(first: u64, period: Option<u64>) -> Schedule {
        let schedule = Schedule::new(Clock::Monotonic);
        let setting = Setting::new(Duration::from_nanos(first), period.map(Duration::from_nanos)).unwrap();
        schedule.set(Some(setting));
        schedule
    }

    #[test]
    fn once() {
        let once = schedule(100, None);
        assert_eq!(once.rest(), Some(Setting { first: 100, period: 0 }));
        assert_eq!(once.remaining(40), Some(Duration::from_nanos(60)));
        assert_eq!(once.remaining(100), None);
        once.take(1);
        assert_eq!((once.rest(), once.remaining(40)), (None, None));
        once.set(None);
        assert_eq!(once.rest(), None);
    }

    #[test]
    fn periodic() {
        let periodic = schedule(100, Some(30));
        assert_eq!(periodic.remaining(99), Some(Duration::from_nanos(1)));
        assert_eq!(periodic.remaining(100), Some(Duration::from_nanos(30)));
        assert_eq!(periodic.remaining(165), Some(Duration::from_nanos(25)));
        periodic.take(2);
        // The third, taken or not, is the next one at 150.
        assert_eq!(periodic.rest(), Some(Setting { first: 160, period: 30 }));
        assert_eq!(periodic.remaining(150), Some(Duration::from_nanos(10)));
        // A clock that was set back: what was taken does not come again.
        assert_eq!(periodic.remaining(10), Some(Duration::from_nanos(150)));
    }

    #[test]
    fn what_is_out_of_range() {
        assert_eq!(schedule(0, None).rest(), Some(Setting { first: 1, period: 0 }));
        let never = Setting::new(Duration::MAX, Some(Duration::MAX)).unwrap();
        assert_eq!(never, Setting { first: Setting::NEVER, period: Setting::NEVER });
        let schedule = Schedule::new(Clock::Realtime);
        schedule.set(Some(never));
        schedule.take(u64::MAX);
        assert_eq!(schedule.rest(), Some(never));
        let zero = Setting::new(Duration::ZERO, Some(Duration::ZERO)).unwrap_err();
        assert_eq!(zero.kind(), io::ErrorKind::InvalidInput);
    }
}
