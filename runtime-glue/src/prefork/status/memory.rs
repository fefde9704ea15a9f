//! How the supervisor measures the memory of the workers.

use std::time::Duration;

use tokio::time::Instant;

use super::scoreboard::Memory;
use crate::prefork::limits::memory_sums;
use crate::prefork::supervisor::Supervisor;

/// The shortest time between two measurements of the same worker.
pub(super) const PERIOD: Duration = Duration::from_millis(500);

impl Supervisor {
    pub(super) fn begin_measurement(&mut self) {
        if !self.service.measurement.is_in_progress() {
            let workers = self.workers.iter().map(|worker| worker.child.id());
            self.service.measurement.begin(workers, Instant::now());
            self.end_measurement();
        }
    }

    pub(super) fn measure_next(&mut self) {
        let (workers, scoreboard) = (&self.workers, &self.common.scoreboard);
        self.service.measurement.advance(|pid| {
            if let Some(worker) = workers.iter().find(|worker| worker.child.id() == pid) {
                scoreboard.set_memory(worker.slot, read_memory(pid).unwrap_or_default());
            }
        });
        self.end_measurement();
    }

    /// If all workers have been measured, tells the service worker to read the results.
    fn end_measurement(&self) {
        if !self.service.measurement.is_in_progress() {
            self.service.say("memory");
        }
    }
}

/// Reads `/proc/PID/smaps_rollup`. The service worker does not read it, because its user may lack the permission.
fn read_memory(pid: u32) -> Option<Memory> {
    let bytes = memory_sums(pid)?;
    let shared = bytes("Shared_Clean:")? + bytes("Shared_Dirty:")?;
    Some(Memory { rss: bytes("Rss:")?, pss: bytes("Pss:")?, shared })
}
