//! The request rate and the latencies of the last five minutes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::scoreboard::Totals;

/// How often the service worker notes the state.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// How many notes are kept: five minutes.
const NOTES: usize = 300;

/// The request rate and the latencies of a period of about a second.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Note {
    /// How long ago the period ended, in seconds.
    pub(super) age_seconds: f64,
    pub(super) requests_per_second: f64,
    /// The latencies are in seconds, or `None` if no request was timed.
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct History {
    notes: VecDeque<(Instant, Note)>,
    last: Option<(Instant, Totals)>,
}

impl History {
    pub(super) fn note(&mut self, totals: Totals) {
        let now = Instant::now();
        if let Some((then, before)) = &self.last {
            let sum = |totals: &Totals| totals.requests.iter().sum::<u64>();
            let seconds = now.duration_since(*then).as_secs_f64().max(f64::EPSILON);
            let latency = totals.latency.since(&before.latency);
            let quantile = |part| latency.quantile(part).map(|duration| duration.as_secs_f64());
            let note = Note {
                age_seconds: 0.0,
                requests_per_second: sum(&totals).saturating_sub(sum(before)) as f64 / seconds,
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
            };
            self.notes.push_back((now, note));
            if self.notes.len() > NOTES {
                self.notes.pop_front();
            }
        }
        self.last = Some((now, totals));
    }

    /// Returns the notes, the oldest first.
    pub(super) fn notes(&self) -> Vec<Note> {
        let age = |noted: &Instant| noted.elapsed().as_secs_f64();
        self.notes.iter().map(|(noted, note)| Note { age_seconds: age(noted), ..note.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::{Histogram, bucket_of};
    use super::*;

    #[test]
    fn a_note_has_the_counts_since_the_last_one() {
        let mut history = History::default();
        let mut latency = Histogram::default();
        history.note(Totals { requests: vec![1000], ..Totals::default() });
        assert!(history.notes().is_empty(), "a rate was made from one state");
        latency.add_to_bucket(bucket_of(5_000_000), 1);
        history.note(Totals { requests: vec![1001], latency, ..Totals::default() });
        let notes = history.notes();
        assert!(notes[0].requests_per_second > 0.0 && notes[0].p50.is_some_and(|p50| p50 > 0.004), "{notes:?}");
        for requests in 0..2 * NOTES as u64 {
            history.note(Totals { requests: vec![requests], ..Totals::default() });
        }
        assert_eq!(history.notes().len(), NOTES);
    }
}
