//! Limits after which the supervisor replaces a worker.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::reason::Reason;

/// The limits of each worker. `None` means no limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    pub(super) requests: Option<u64>,
    pub(super) age: Option<Duration>,
    pub(super) rss: Option<u64>,
    pub(super) pss: Option<u64>,
    /// The largest fraction of `requests` and `age` that is added to them at random.
    pub(super) jitter: f64,
}

impl Limits {
    /// Returns the limits of one worker. Jitter keeps workers from reaching a limit at the same time.
    pub(super) fn of_one_worker(&self) -> Limits {
        let factor = 1.0 + self.jitter * random();
        Limits {
            requests: self.requests.map(|requests| (requests as f64 * factor) as u64),
            age: self.age.map(|age| Duration::try_from_secs_f64(age.as_secs_f64() * factor).unwrap_or(Duration::MAX)),
            ..self.clone()
        }
    }

    pub(super) fn has_memory_limit(&self) -> bool {
        self.rss.is_some() || self.pss.is_some()
    }

    /// Returns the memory limit that a process has reached.
    pub(super) fn memory_reached(&self, pid: u32) -> Option<Reason> {
        if self.rss.is_some_and(|limit| rss(pid).is_some_and(|rss| rss > limit)) {
            return Some(Reason::Rss);
        }
        // Read PSS only if it has a limit, because the kernel walks all pages for it.
        self.pss.is_some_and(|limit| pss(pid).is_some_and(|pss| pss > limit)).then_some(Reason::Pss)
    }
}

/// Returns a random number from 0 to 1, from the keys of the standard library's hasher.
fn random() -> f64 {
    // Forked processes have the same keys. But each call advances the keys, and only the supervisor calls this function.
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

/// Returns the resident memory in bytes, including shared pages: the second field of `/proc/PID/statm`.
fn rss(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Returns the resident memory in bytes, each page divided by the number of processes that share it.
fn pss(pid: u32) -> Option<u64> {
    memory_sums(pid)?("Pss:")
}

/// Reads `/proc/PID/smaps_rollup`. Returns a function that looks a sum up, in bytes.
pub(super) fn memory_sums(pid: u32) -> Option<impl Fn(&str) -> Option<u64>> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(move |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_adds() {
        let limits =
            Limits { requests: Some(1000), age: Some(Duration::from_secs(10)), jitter: 0.5, ..Limits::default() };
        let drawn: Vec<u64> = (0..100).filter_map(|_| limits.of_one_worker().requests).collect();
        assert!(drawn.iter().all(|requests| (1000..=1500).contains(requests)), "{drawn:?}");
        assert!(drawn.iter().any(|requests| *requests != drawn[0]), "all the same: {drawn:?}");
        let exact = Limits { jitter: 0.0, ..limits };
        assert_eq!(exact.of_one_worker().requests, Some(1000));
        let endless = Limits { age: Some(Duration::MAX), jitter: 1.0, ..Limits::default() };
        assert_eq!(endless.of_one_worker().age, Some(Duration::MAX));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_of_this_process() {
        let own = std::process::id();
        let (rss, pss) = (rss(own).unwrap(), pss(own).unwrap());
        // The kernel counts resident pages for each thread or CPU, so the sum may be behind.
        assert!(pss > 0 && rss > 0, "{pss} and {rss}");
        let limits = Limits { rss: Some(1), ..Limits::default() };
        assert_eq!(limits.memory_reached(own), Some(Reason::Rss));
        assert_eq!(Limits { rss: Some(u64::MAX), ..limits.clone() }.memory_reached(own), None);
        assert_eq!(Limits { rss: None, pss: Some(1), ..limits }.memory_reached(own), Some(Reason::Pss));
    }
}
