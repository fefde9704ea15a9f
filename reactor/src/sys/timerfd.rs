//! Timers by timerfd_create(2).

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::as_raw_fd;
use super::descriptor::{self, borrow, unreadable};
use crate::misuse;
use crate::timer_state::{Clock, Setting, TimerState, nanos};

/// A timerfd, always set to an absolute time. If that time has passed, the kernel counts the expirations since.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new(state: &TimerState) -> io::Result<Timer> {
        let clock = match state.clock {
            Clock::Monotonic => TimerfdClockId::Monotonic,
            Clock::Realtime => TimerfdClockId::Realtime,
        };
        let fd = create(clock, TimerfdFlags::NONBLOCK)?;
        descriptor::mark(&fd, OFlags::NONBLOCK)?;
        Ok(Timer(fd))
    }

    pub(crate) fn set(&self, setting: Option<Setting>) -> io::Result<()> {
        Ok(set(&self.0, setting, TimerfdTimerFlags::ABSTIME)?)
    }

    pub(crate) fn take(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count)? {
            8 => Ok(u64::from_ne_bytes(count)),
            _ => Err(misuse::severed()),
        }
    }
}

as_raw_fd!(Timer, 0);

fn create(clock: TimerfdClockId, flags: TimerfdFlags) -> Result<OwnedFd, Errno> {
    rustix::time::timerfd_create(clock, TimerfdFlags::CLOEXEC | flags)
}

fn set(timer: &OwnedFd, setting: Option<Setting>, flags: TimerfdTimerFlags) -> Result<(), Errno> {
    let timespec = |nanos| Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as _ };
    // A first expiration of zero disarms the timer.
    let Setting { first, period } = setting.unwrap_or(Setting { first: 0, period: 0 });
    let value = Itimerspec { it_interval: timespec(period), it_value: timespec(first) };
    rustix::time::timerfd_settime(timer, flags, &value)?;
    Ok(())
}

pub(crate) fn renewed(state: &TimerState) -> io::Result<Option<OwnedFd>> {
    let timer = Timer::new(state)?;
    timer.set(state.rest())?;
    Ok(Some(timer.0))
}

/// Makes a timer for the child that continues the timerfd `fd`, which is known only by its descriptor. The count is exact, the
/// phase good to a few microseconds. The child's timer is set to an absolute time, even if `fd` was set to a relative one: on a
/// real-time clock it then moves when that clock is set.
pub(crate) fn renewed_by_descriptor(fd: RawFd) -> io::Result<OwnedFd> {
    let (info, rest) = observe(fd)?;
    let fresh = create(info.clock, info.file_flags & TimerfdFlags::NONBLOCK)?;
    set(&fresh, rest, TimerfdTimerFlags::ABSTIME | info.set_flags & TimerfdTimerFlags::CANCEL_ON_SET)?;
    Ok(fresh)
}

/// Determines the setting of a timerfd, and how many expirations wait to be read, without changing either.
fn observe(fd: RawFd) -> io::Result<(Info, Option<Setting>)> {
    /// One look is enough, unless the timer expires meanwhile or the kernel preempts the thread.
    const MOST_LOOKS: usize = 3;
    /// The longest precise look, in nanoseconds. A longer look says little about the phase.
    const LONGEST_LOOK: u64 = 10_000;

    let timer = borrow(fd)?;
    let mut best: Option<(u64, Info, Option<Setting>)> = None;
    for look in 1..=MOST_LOOKS {
        // This call also brings the count of a periodic timer up to date. Reading `/proc` does not.
        let before = rustix::time::timerfd_gettime(timer)?;
        let info = Info::read(fd)?;
        let now = || nanos(rustix::time::clock_gettime(info.shown_by));
        let began = now();
        let value = rustix::time::timerfd_gettime(timer)?;
        let took = now().saturating_sub(began);
        let (remaining, period) = (nanos(value.it_value), nanos(value.it_interval));
        let has_expired_meanwhile = remaining > nanos(before.it_value);
        let next = began.saturating_add(took / 2).saturating_add(remaining);
        let rest = match (remaining, info.ticks) {
            (0, 0) => None,
            // The timer has expired: any time that has passed will do.
            (0, _) if period == 0 => Some(Setting { first: 1, period }),
            (_, ticks) => Some(Setting { first: next.saturating_sub(ticks.saturating_mul(period)).max(1), period }),
        };
        // No time remains if the timer is not set, or if the kernel is about to handle its expiration. The next look shows
        // which.
        let may_be_due = remaining == 0 && (info.ticks == 0 || period > 0);
        let uncertainty = if may_be_due || has_expired_meanwhile { u64::MAX } else { took };
        if best.as_ref().is_none_or(|(least, ..)| uncertainty <= *least) {
            best = Some((uncertainty, info, rest));
        }
        if uncertainty <= LONGEST_LOOK || (may_be_due && look > 1) {
            break;
        }
    }
    best.map(|(_, info, rest)| (info, rest)).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// The contents of `/proc/self/fdinfo` for a timerfd (proc_pid_fdinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Info {
    clock: TimerfdClockId,
    /// The clock that shows the timer's time. A clock that wakes a suspended system shows the same time as the clock that it
    /// is derived from.
    shown_by: ClockId,
    file_flags: TimerfdFlags,
    set_flags: TimerfdTimerFlags,
    /// Expirations that wait to be read.
    ticks: u64,
}

impl Info {
    fn read(fd: RawFd) -> io::Result<Info> {
        let path = format!("/proc/self/fdinfo/{fd}");
        // The file is some 200 bytes long, and one read gives all of it.
        let mut text = [0; 1024];
        let length =
            File::open(&path).and_then(|mut file| file.read(&mut text)).map_err(|error| unreadable(&path, error))?;
        Info::parse(&String::from_utf8_lossy(&text[..length])).ok_or_else(|| {
            let text = format!("{path} does not describe a timer: Linux 3.17 or later does");
            io::Error::new(io::ErrorKind::Unsupported, text)
        })
    }

    fn parse(text: &str) -> Option<Info> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start_matches(['\t', ' '])))
        };
        let (clock, shown_by) = match field("clockid")?.parse().ok()? {
            libc::CLOCK_REALTIME => (TimerfdClockId::Realtime, ClockId::Realtime),
            libc::CLOCK_MONOTONIC => (TimerfdClockId::Monotonic, ClockId::Monotonic),
            libc::CLOCK_BOOTTIME => (TimerfdClockId::Boottime, ClockId::Boottime),
            libc::CLOCK_REALTIME_ALARM => (TimerfdClockId::RealtimeAlarm, ClockId::Realtime),
            libc::CLOCK_BOOTTIME_ALARM => (TimerfdClockId::BoottimeAlarm, ClockId::Boottime),
            _ => return None,
        };
        Some(Info {
            clock,
            shown_by,
            file_flags: TimerfdFlags::from_bits_retain(u32::from_str_radix(field("flags")?, 8).ok()?),
            set_flags: TimerfdTimerFlags::from_bits_retain(u32::from_str_radix(field("settime flags")?, 8).ok()?),
            ticks: field("ticks")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn reads_what_the_kernel_says_about_a_timer() {
        let timer = create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK).unwrap();
        set(&timer, Some(Setting { first: 1, period: 0 }), TimerfdTimerFlags::ABSTIME).unwrap();
        let wait = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&timer, PollFlags::IN)], Some(&wait)).unwrap(), 1);
        let info = Info::read(timer.as_raw_fd()).unwrap();
        assert_eq!((info.clock, info.set_flags, info.ticks), (TimerfdClockId::Boottime, TimerfdTimerFlags::ABSTIME, 1));
        assert!(info.file_flags.contains(TimerfdFlags::NONBLOCK));
        assert!(Info::parse("pos:\t0\nflags:\t02\n").is_none());
    }

    #[test]
    fn observes_a_periodic_timer() {
        let timer = Timer::new(&TimerState::new(Clock::Monotonic)).unwrap();
        let period = Clock::Monotonic.nanos() / 12;
        let first = Clock::Monotonic.nanos() - 10 * period - period / 2;
        timer.set(Some(Setting { first, period })).unwrap();
        let begins_with = |expiration: u64| {
            let found = observe(timer.0.as_raw_fd()).unwrap().1.unwrap();
            assert_eq!(found.period, period);
            let expected = first + expiration * period;
            assert!(found.first.abs_diff(expected) < period / 2, "{found:?} in place of {expected}");
        };
        begins_with(0);
        let taken = timer.take().unwrap();
        assert!(taken >= 11, "{taken}");
        begins_with(taken);
        timer.set(None).unwrap();
        assert_eq!(observe(timer.0.as_raw_fd()).unwrap().1, None);
    }
}
