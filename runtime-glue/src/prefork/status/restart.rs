//! The scoreboard's record of a worker that has ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::prefork::reason::Reason;
use crate::sys;

/// How many records of each kind are kept: failures, and other restarts. A reload must not displace the failures.
const LAST_RESTARTS: usize = 32;

/// Words of a restart.
const WORDS: usize = 8;

/// Words of the restarts of one kind: how many there have been, then the last ones.
const KIND: usize = WORDS * (1 + LAST_RESTARTS);

/// Words of all restarts.
pub(super) const RESTARTS: usize = 2 * KIND;

#[derive(Clone, Debug)]
pub(super) struct Restart {
    pub(super) age: Duration,
    pub(super) index: u64,
    pub(super) pid: u64,
    pub(super) generation: u64,
    pub(super) reason: Reason,
    pub(super) status: ExitStatus,
    pub(super) uptime: Duration,
}

impl Restart {
    /// Writes this record to `restarts`, for a worker that has just ended.
    pub(super) fn record(&self, restarts: &[AtomicU64]) {
        let kind = &restarts[usize::from(self.reason.is_failure()) * KIND..][..KIND];
        let words = record(kind, kind[0].fetch_add(1, Ordering::Relaxed));
        let values = [
            sys::monotonic_nanoseconds(),
            self.index,
            self.pid,
            self.generation,
            self.reason as u64,
            self.status.into_raw() as u64,
            u64::try_from(self.uptime.as_nanos()).unwrap_or(u64::MAX),
        ];
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Returns the last restarts of both kinds, the newest first.
    pub(super) fn last(restarts: &[AtomicU64]) -> Vec<Restart> {
        let last = restarts.chunks(KIND).flat_map(|kind| {
            let numbers = (0..kind[0].load(Ordering::Relaxed)).rev().take(LAST_RESTARTS);
            numbers.filter_map(move |number| Restart::read(record(kind, number)))
        });
        let mut last: Vec<Restart> = last.collect();
        last.sort_by_key(|restart| restart.age);
        last
    }

    fn read(words: &[AtomicU64]) -> Option<Restart> {
        let [time, index, pid, generation, reason, status, uptime] =
            std::array::from_fn(|field| words[field].load(Ordering::Relaxed));
        Some(Restart {
            age: age(time),
            index,
            pid,
            generation,
            reason: *Reason::ALL.get(reason as usize)?,
            status: ExitStatus::from_raw(status as i32),
            uptime: Duration::from_nanos(uptime),
        })
    }
}

/// Returns the words of the restart with this number, which counts the restarts of the kind from 0.
fn record(kind: &[AtomicU64], number: u64) -> &[AtomicU64] {
    &kind[WORDS * (1 + number as usize % LAST_RESTARTS)..][..WORDS]
}

/// Returns how long ago a moment of the monotonic clock was.
pub(super) fn age(nanoseconds: u64) -> Duration {
    Duration::from_nanos(sys::monotonic_nanoseconds().saturating_sub(nanoseconds))
}

/// Returns the Unix time of a moment that was `age` ago, in seconds.
pub(super) fn unix_time(age: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(age).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_displaces_no_failure() {
        let words: Vec<AtomicU64> = (0..RESTARTS).map(|_| AtomicU64::new(0)).collect();
        let record = |index, reason| {
            let (age, pid, generation, status, uptime) = (Duration::ZERO, 1, 1, ExitStatus::default(), Duration::ZERO);
            Restart { age, index, pid, generation, reason, status, uptime }.record(&words);
        };
        let last = || Restart::last(&words).iter().map(|restart| restart.index).collect::<Vec<u64>>();
        let kept = LAST_RESTARTS as u64;
        (0..2 * kept).for_each(|index| record(index, Reason::Died));
        let failures: Vec<u64> = (kept..2 * kept).rev().collect();
        assert_eq!(last(), failures);
        (0..2 * kept).for_each(|_| record(1000, Reason::Reload));
        assert_eq!(last(), [vec![1000; LAST_RESTARTS], failures].concat());
    }
}
