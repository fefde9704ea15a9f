//! Timers by timerfd_create(2).

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::syscall;
use crate::timer_state::{Clock, Setting};

/// A timerfd, always set to an absolute time. If that time has passed, the kernel counts the expirations since.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new(clock: Clock) -> io::Result<Timer> {
        create(id(clock), libc::TFD_NONBLOCK).map(Timer)
    }

    /// Sets the timer; `None` disarms it. Expirations that were not taken are lost.
    pub(crate) fn set(&self, setting: Option<Setting>) -> io::Result<()> {
        set(&self.0, setting, libc::TFD_TIMER_ABSTIME)
    }

    /// Takes the expirations, and returns their number, or `WouldBlock`.
    pub(crate) fn take(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        // SAFETY: the kernel writes at most 8 bytes.
        match syscall!(read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()))? {
            8 => Ok(u64::from_ne_bytes(count)),
            // It is severed.
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the timer belongs to the process that this one was forked from",
            )),
        }
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(crate) fn now(clock: Clock) -> u64 {
    now_by(id(clock))
}

fn id(clock: Clock) -> libc::clockid_t {
    match clock {
        Clock::Monotonic => libc::CLOCK_MONOTONIC,
        Clock::Realtime => libc::CLOCK_REALTIME,
    }
}

fn now_by(clock: libc::clockid_t) -> u64 {
    // The clocks that wake a suspended system show the same as those they are derived from.
    let clock = match clock {
        libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        libc::CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
        clock => clock,
    };
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills `now`. It cannot fail: the kernel has these clocks.
    unsafe { libc::clock_gettime(clock, &mut now) };
    nanos(now)
}

fn create(clock: libc::clockid_t, flags: libc::c_int) -> io::Result<OwnedFd> {
    let fd = syscall!(timerfd_create(clock, libc::TFD_CLOEXEC | flags))?;
    // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set(timer: &OwnedFd, setting: Option<Setting>, flags: libc::c_int) -> io::Result<()> {
    // A value of zero disarms.
    let Setting { first, period } = setting.unwrap_or(Setting { first: 0, period: 0 });
    let value = libc::itimerspec { it_interval: timespec(period), it_value: timespec(first) };
    // SAFETY: the kernel reads `value`.
    syscall!(timerfd_settime(timer.as_raw_fd(), flags, &value, std::ptr::null_mut()))?;
    Ok(())
}

fn timespec(nanos: u64) -> libc::timespec {
    libc::timespec {
        // Where seconds have 32 bits they end in 2038.
        tv_sec: (nanos / 1_000_000_000).try_into().unwrap_or(i32::MAX.into()),
        tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
    }
}

fn nanos(time: libc::timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Makes a timer for the child that continues `state`.
pub(crate) fn renewed(state: &crate::timer_state::TimerState) -> io::Result<Option<OwnedFd>> {
    let timer = Timer::new(state.clock())?;
    timer.set(state.rest())?;
    Ok(Some(timer.into_fd()))
}

/// Makes a timer for the child that continues the timerfd `fd`, which is known only by its descriptor.
///
/// Its count is exact; its phase is good to a few microseconds. It is set to an absolute time, even if `fd` was set to a
/// relative one: on a real-time clock the child's timer then moves when that clock is set.
pub(crate) fn renewed_by_descriptor(fd: RawFd) -> io::Result<OwnedFd> {
    let found = observe(fd)?;
    let fresh = create(found.clock, found.file_flags & libc::O_NONBLOCK)?;
    set(&fresh, found.rest, libc::TFD_TIMER_ABSTIME | found.set_flags & libc::TFD_TIMER_CANCEL_ON_SET)?;
    Ok(fresh)
}

struct Observed {
    clock: libc::clockid_t,
    file_flags: libc::c_int,
    set_flags: libc::c_int,
    rest: Option<Setting>,
}

/// Determines the setting of a timerfd, and how many expirations wait to be read, without changing either.
fn observe(fd: RawFd) -> io::Result<Observed> {
    /// One look is enough, unless the timer expires meanwhile or the kernel preempts the thread.
    const LOOKS: usize = 3;
    /// A look that took longer, in nanoseconds, says little about the phase.
    const LONGEST: u64 = 10_000;

    let mut best: Option<(u64, Observed)> = None;
    for look in 1..=LOOKS {
        // This call also brings the count of a periodic timer up to date. Reading `/proc` does not.
        let before = get(fd)?;
        let info = Info::read(fd)?;
        let clock = info.clock;
        let began = now_by(clock);
        let value = get(fd)?;
        let took = now_by(clock).saturating_sub(began);
        let (remaining, period) = (nanos(value.it_value), nanos(value.it_interval));
        let has_expired_meanwhile = remaining > nanos(before.it_value);
        let next = began.saturating_add(took / 2).saturating_add(remaining);
        let rest = match (remaining, info.ticks) {
            (0, 0) => None,
            // It has expired: any time that has passed will do.
            (0, _) if period == 0 => Some(Setting { first: 1, period }),
            (_, ticks) => Some(Setting { first: next.saturating_sub(ticks.saturating_mul(period)).max(1), period }),
        };
        // No time remains if the timer is not set, or if the kernel is about to handle it. The next look shows which.
        let may_be_due = remaining == 0 && (info.ticks == 0 || period > 0);
        let blur = if may_be_due || has_expired_meanwhile { u64::MAX } else { took };
        if best.as_ref().is_none_or(|(least, _)| blur <= *least) {
            best = Some((blur, Observed { clock, file_flags: info.file_flags, set_flags: info.set_flags, rest }));
        }
        if blur <= LONGEST || (may_be_due && look > 1) {
            break;
        }
    }
    best.map(|(_, found)| found).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn get(fd: RawFd) -> io::Result<libc::itimerspec> {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut value = libc::itimerspec { it_interval: zero, it_value: zero };
    // SAFETY: the kernel fills `value`.
    syscall!(timerfd_gettime(fd, &mut value))?;
    Ok(value)
}

/// The contents of `/proc/self/fdinfo` for a timerfd (proc_pid_fdinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Info {
    clock: libc::clockid_t,
    file_flags: libc::c_int,
    set_flags: libc::c_int,
    /// Expirations that wait to be read.
    ticks: u64,
}

impl Info {
    fn read(fd: RawFd) -> io::Result<Info> {
        let path = format!("/proc/self/fdinfo/{fd}");
        // It is some 200 bytes long, and one read gives all of it.
        let mut text = [0; 1024];
        let length = File::open(&path)
            .and_then(|mut file| file.read(&mut text))
            .map_err(|error| io::Error::new(error.kind(), format!("reading {path}: {error}; is /proc mounted?")))?;
        Info::parse(&String::from_utf8_lossy(&text[..length])).ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, format!("{path} does not describe a timer (Linux 3.17)"))
        })
    }

    fn parse(text: &str) -> Option<Info> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start_matches(['\t', ' '])))
        };
        Some(Info {
            clock: field("clockid")?.parse().ok()?,
            file_flags: libc::c_int::from_str_radix(field("flags")?, 8).ok()?,
            set_flags: libc::c_int::from_str_radix(field("settime flags")?, 8).ok()?,
            ticks: field("ticks")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says_about_a_timer() {
        let timer = create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK).unwrap();
        set(&timer, Some(Setting { first: 1, period: 0 }), libc::TFD_TIMER_ABSTIME).unwrap();
        let mut poll = libc::pollfd { fd: timer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure.
        assert_eq!(syscall!(poll(&mut poll, 1, 30_000)).unwrap(), 1);
        let info = Info::read(timer.as_raw_fd()).unwrap();
        assert_eq!((info.clock, info.set_flags, info.ticks), (libc::CLOCK_BOOTTIME, libc::TFD_TIMER_ABSTIME, 1));
        assert_eq!(info.file_flags & libc::O_NONBLOCK, libc::O_NONBLOCK);
        assert!(Info::parse("pos:\t0\nflags:\t02\n").is_none());
    }

    #[test]
    fn observes_a_periodic_timer() {
        let timer = Timer::new(Clock::Monotonic).unwrap();
        let period = now(Clock::Monotonic) / 12;
        let first = now(Clock::Monotonic) - 10 * period - period / 2;
        timer.set(Some(Setting { first, period })).unwrap();
        let begins_with = |expiration: u64| {
            let found = observe(timer.0.as_raw_fd()).unwrap().rest.unwrap();
            assert_eq!(found.period, period);
            let expected = first + expiration * period;
            assert!(found.first.abs_diff(expected) < period / 2, "{found:?} in place of {expected}");
        };
        begins_with(0);
        let taken = timer.take().unwrap();
        assert!(taken >= 11, "{taken}");
        begins_with(taken);
        timer.set(None).unwrap();
        assert_eq!(observe(timer.0.as_raw_fd()).unwrap().rest, None);
    }
}
