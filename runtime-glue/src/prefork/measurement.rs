//! The order in which the supervisor measures the memory of workers.

use std::time::Duration;

use tokio::time::Instant;

/// Measurements of all workers, one worker in each turn of the supervisor's loop. The kernel walks all pages of a
/// worker for its measurement, and signals must not wait until all workers are measured.
#[derive(Debug)]
pub(super) struct Measurement {
    /// The shortest time between two measurements of the same worker.
    period: Duration,
    due: Option<Instant>,
    /// The process ids of the workers that must still be measured.
    unmeasured: Vec<u32>,
    took: Duration,
}

impl Measurement {
    pub(super) fn new(period: Duration) -> Measurement {
        Measurement { period, due: None, unmeasured: Vec::new(), took: Duration::ZERO }
    }

    /// Begins to measure `workers`, if that is due, and no other measurement is in progress.
    pub(super) fn begin(&mut self, workers: impl Iterator<Item = u32>, now: Instant) {
        if self.unmeasured.is_empty() && self.due.is_none_or(|due| due <= now) {
            self.unmeasured = workers.collect();
            self.took = Duration::ZERO;
            self.due = Some(now + self.period);
        }
    }

    /// Measures the next worker with `measure`.
    pub(super) fn advance(&mut self, measure: impl FnOnce(u32)) {
        let Some(worker) = self.unmeasured.pop() else { return };
        let begin = Instant::now();
        measure(worker);
        self.took += begin.elapsed();
        // Leave most of the supervisor's time to other work.
        self.due = Some(Instant::now() + self.period.max(self.took * 20));
    }

    pub(super) fn is_in_progress(&self) -> bool {
        !self.unmeasured.is_empty()
    }

    #[cfg(feature = "status")]
    pub(super) fn cancel(&mut self) {
        self.unmeasured.clear();
    }

    /// Returns when to begin again. `None` before the first time.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_in_each_turn() {
        let (start, period) = (Instant::now(), Duration::from_secs(5));
        let mut measurement = Measurement::new(period);
        measurement.begin([1, 2, 3].into_iter(), start);
        let mut measured = Vec::new();
        while measurement.is_in_progress() {
            let before = measured.len();
            // The measurement in progress is not begun again.
            measurement.begin([4].into_iter(), start + period * 100);
            measurement.advance(|worker| measured.push(worker));
            assert_eq!(measured.len(), before + 1);
        }
        measured.sort_unstable();
        assert_eq!(measured, [1, 2, 3]);
        measurement.begin([5].into_iter(), start);
        assert!(!measurement.is_in_progress(), "not due");
        measurement.begin([5].into_iter(), start + period * 100);
        measurement.advance(|worker| assert_eq!(worker, 5));
    }

    #[test]
    fn slow_measurements_are_rare() {
        let mut measurement = Measurement::new(Duration::from_millis(1));
        measurement.begin([1].into_iter(), Instant::now());
        measurement.advance(|_| std::thread::sleep(Duration::from_millis(50)));
        let due = measurement.due().unwrap();
        assert!(due.saturating_duration_since(Instant::now()) > Duration::from_millis(500), "{due:?}");
    }
}
