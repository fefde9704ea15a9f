//! The answer to `GET /status`.

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) pid: u32,
    /// The current parent. If the supervisor was killed, this is another process.
    pub(crate) ppid: u32,
    pub(crate) worker: Option<usize>,
    /// How many forks lie between this process and the start of the program.
    pub(crate) generation: u32,
    /// Requests to this worker, including the one for this status.
    pub(crate) requests: u64,
    /// The connections that each worker has open, by index.
    pub(crate) connections: Vec<usize>,
    /// Ticks of the timer: the ticks before the fork, in the process that loaded the table, and the ticks in this worker
    /// since then.
    pub(crate) timer_ticks: u64,
    /// Milliseconds since this worker was forked.
    pub(crate) uptime_ms: u128,
    pub(crate) table_entries: usize,
    #[serde(flatten)]
    pub(crate) memory: Memory,
}

/// The memory of this process, in KiB; null if the system does not report it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident pages, shared ones included.
    rss_kib: Option<u64>,
    /// Resident pages, each divided by the number of processes that share it.
    pss_kib: Option<u64>,
}

impl Memory {
    pub(crate) async fn of_this_process() -> Memory {
        // This runs on the blocking pool, because the kernel walks all pages of the process for this file.
        match tokio::fs::read_to_string("/proc/self/smaps_rollup").await {
            Ok(rollup) => Memory { rss_kib: kib(&rollup, "Rss:"), pss_kib: kib(&rollup, "Pss:") },
            Err(_) => Memory::default(),
        }
    }
}

/// Reads the value of a line such as `Rss:      1234 kB`.
fn kib(rollup: &str, name: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
