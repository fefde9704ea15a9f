//! How the supervisor measures the memory of the workers.

use std::time::Duration;

use tokio::time::Instant;

use super::scoreboard::Memory;
use crate::prefork::limits::memory_sums;
use crate::prefork::supervisor::Supervisor;

/// The shortest time between two measurements.
const PERIOD: Duration = Duration::from_millis(500);

/// A measurement of all workers, one worker in each turn of the supervisor's loop: the kernel walks all pages of a worker, and
/// signals must not wait for all workers.
#[derive(Debug, Default)]
pub(super) struct Measurement {
    due: Option<Instant>,
    /// The process ids of the workers that must still be measured.
    pub(super) unmeasured: Vec<u32>,
    took: Duration,
}

impl Supervisor {
    pub(super) fn begin_measurement(&mut self) {
        let measurement = &mut self.service.measurement;
        if !measurement.unmeasured.is_empty() {
            return;
        }
        if measurement.due.is_none_or(|due| due <= Instant::now()) {
            measurement.unmeasured = self.workers.iter().map(|worker| worker.child.id()).collect();
            measurement.took = Duration::ZERO;
        }
        self.end_measurement();
    }

    /// Measures one worker.
    pub(super) fn measure_next(&mut self) {
        let begin = Instant::now();
        let measurement = &mut self.service.measurement;
        let next = measurement.unmeasured.pop();
        if let Some(worker) = self.workers.iter().find(|worker| Some(worker.child.id()) == next) {
            let memory = read_memory(worker.child.id()).unwrap_or_default();
            self.common.scoreboard.set_memory(worker.slot, memory);
        }
        measurement.took += begin.elapsed();
        // Leave most of the supervisor's time to other work.
        measurement.due = Some(Instant::now() + PERIOD.max(measurement.took * 20));
        self.end_measurement();
    }

    /// Tells the service worker if all workers have been measured.
    fn end_measurement(&self) {
        if self.service.measurement.unmeasured.is_empty() {
            self.service.say("memory");
        }
    }
}

/// Reads `/proc/PID/smaps_rollup`. The supervisor reads it, because the user of the workers may lack the permission.
fn read_memory(pid: u32) -> Option<Memory> {
    let bytes = memory_sums(pid)?;
    let shared = bytes("Shared_Clean:")? + bytes("Shared_Dirty:")?;
    Some(Memory { rss: bytes("Rss:")?, pss: bytes("Pss:")?, shared })
}
