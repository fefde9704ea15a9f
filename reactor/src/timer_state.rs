use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, Timespec};

/// The clock that a [`Timer`](crate::unix::Timer) uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clock {
    /// Advances steadily and is never set, like [`Instant`](std::time::Instant). It may stop while the system is suspended.
    Monotonic,
    /// The time of day, like [`SystemTime`](std::time::SystemTime). When it is set, expirations move with it.
    Realtime,
}

impl Clock {
    /// Returns the time that the clock shows. The real-time clock counts from the beginning of 1970 (UTC). The monotonic clock
    /// counts from a moment that is the same for all processes of the system.
    pub fn now(self) -> Duration {
        Duration::from_nanos(self.nanos())
    }

    pub(crate) fn nanos(self) -> u64 {
        nanos(rustix::time::clock_gettime(match self {
            Clock::Monotonic => ClockId::Monotonic,
            Clock::Realtime => ClockId::Realtime,
        }))
    }
}

pub(crate) fn nanos(time: Timespec) -> u64 {
    Duration::try_from(time).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// When a timer expires, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The time of the first expiration, never 0. If it has passed, the timer has expired, and again after each period since.
    pub(crate) first: u64,
    /// The period. 0: the timer expires once.
    pub(crate) period: u64,
}

impl Setting {
    /// The latest time of a setting. The kernel counts nanoseconds in signed 64 bits, so a later time would never come.
    const NEVER: u64 = i64::MAX as u64;

    /// Makes a setting. Without a period, the timer expires once. A period of zero fails with `InvalidInput`.
    pub(crate) fn new(first: Duration, period: Option<Duration>) -> io::Result<Setting> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(Setting::NEVER);
        if period == Some(Duration::ZERO) {
            let text = "a timer cannot have a period of zero: pass `None`, and it expires once";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let period = period.map_or(0, nanos).min(Setting::NEVER);
        Ok(Setting { first: nanos(first).clamp(1, Setting::NEVER), period })
    }
}

/// The setting of a timer, and how many of its expirations its owner has taken. From these two values, a fresh timer can
/// continue this one without a read of the kernel object.
///
/// Only the timer's owner and a child that severs the timer write to it. A fork by another thread may copy a half done change
/// of the owner. This does no harm: the child does not have the owner's thread, so it does not use the timer.
#[derive(Debug)]
pub(crate) struct TimerState {
    pub(crate) clock: Clock,
    /// The time of the first expiration. 0: not set.
    first: AtomicU64,
    period: AtomicU64,
    taken: AtomicU64,
    /// Whether a fork has severed the timer: only an ancestor of this process has the timer.
    severed: AtomicBool,
}

impl TimerState {
    pub(crate) fn new(clock: Clock) -> TimerState {
        let zero = || AtomicU64::new(0);
        TimerState { clock, first: zero(), period: zero(), taken: zero(), severed: AtomicBool::new(false) }
    }

    pub(crate) fn set(&self, setting: Option<Setting>) {
        self.first.store(setting.map_or(0, |setting| setting.first), Ordering::Relaxed);
        self.period.store(setting.map_or(0, |setting| setting.period), Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, count: u64) {
        self.taken.fetch_add(count, Ordering::Relaxed);
    }

    /// Notes that a fork has severed the timer. Async-signal-safe.
    pub(crate) fn sever(&self) {
        self.severed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_severed(&self) -> bool {
        self.severed.load(Ordering::Relaxed)
    }

    /// Returns a setting that begins with the first expiration that the owner has not taken; `None` if none will come.
    pub(crate) fn rest(&self) -> Option<Setting> {
        let first = self.first.load(Ordering::Relaxed);
        let period = self.period.load(Ordering::Relaxed);
        let taken = self.taken.load(Ordering::Relaxed);
        let is_over = first == 0 || (period == 0 && taken > 0);
        let first = first.saturating_add(period.saturating_mul(taken)).min(Setting::NEVER);
        (!is_over).then_some(Setting { first, period })
    }

    /// Returns the time from `now` to the next expiration that is still to come.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn timer_state(first: u64, period: Option<u64>) -> TimerState {
        let state = TimerState::new(Clock::Monotonic);
        let setting = Setting::new(Duration::from_nanos(first), period.map(Duration::from_nanos)).unwrap();
        state.set(Some(setting));
        state
    }

    #[test]
    fn once() {
        let once = timer_state(100, None);
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
        let periodic = timer_state(100, Some(30));
        assert_eq!(periodic.remaining(99), Some(Duration::from_nanos(1)));
        assert_eq!(periodic.remaining(100), Some(Duration::from_nanos(30)));
        assert_eq!(periodic.remaining(165), Some(Duration::from_nanos(25)));
        periodic.take(2);
        // At 150 the third expiration comes next: at 160.
        assert_eq!(periodic.rest(), Some(Setting { first: 160, period: 30 }));
        assert_eq!(periodic.remaining(150), Some(Duration::from_nanos(10)));
        // If the clock was set back, expirations that the owner has taken do not come again.
        assert_eq!(periodic.remaining(10), Some(Duration::from_nanos(150)));
    }

    #[test]
    fn values_out_of_range() {
        assert_eq!(timer_state(0, None).rest(), Some(Setting { first: 1, period: 0 }));
        let never = Setting::new(Duration::MAX, Some(Duration::MAX)).unwrap();
        assert_eq!(never, Setting { first: Setting::NEVER, period: Setting::NEVER });
        let state = TimerState::new(Clock::Realtime);
        state.set(Some(never));
        state.take(u64::MAX);
        assert_eq!(state.rest(), Some(never));
        let zero = Setting::new(Duration::ZERO, Some(Duration::ZERO)).unwrap_err();
        assert_eq!(zero.kind(), io::ErrorKind::InvalidInput);
    }
}
