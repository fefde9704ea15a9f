//! The scoreboard's record of a worker that has ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::prefork::reason::Reason;
use crate::sys;

/// A worker that has ended.
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
    /// Writes the record of a worker that has just ended.
    pub(super) fn write(&self, words: &[AtomicU64]) {
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

    /// Reads a record that [`write`](Restart::write) wrote.
    pub(super) fn read(words: &[AtomicU64]) -> Option<Restart> {
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

/// Returns how long ago a moment of the monotonic clock was.
pub(super) fn age(nanoseconds: u64) -> Duration {
    Duration::from_nanos(sys::monotonic_nanoseconds().saturating_sub(nanoseconds))
}

/// Returns the Unix time of a moment that was `age` ago, in seconds.
pub(super) fn unix_time(age: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(age).as_secs()
}
