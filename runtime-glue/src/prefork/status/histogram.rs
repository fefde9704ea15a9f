//! Latency histograms with log-linear buckets.

use std::time::Duration;

/// Each power of two has this many buckets of the same width, so the width of a bucket is at most 12.5 % of its start.
const PER_OCTAVE: usize = 1 << PER_OCTAVE_BITS;
const PER_OCTAVE_BITS: u32 = 3;

/// Durations below 2^10 ns, about a microsecond, have one bucket.
const FIRST_OCTAVE: u32 = 10;

/// Durations from 2^36 ns on, more than a minute, have one bucket.
const END_OCTAVE: u32 = 36;

pub(super) const BUCKETS: usize = 2 + (END_OCTAVE - FIRST_OCTAVE) as usize * PER_OCTAVE;

/// Returns the bucket of a duration in nanoseconds.
pub(super) fn bucket_of(nanoseconds: u64) -> usize {
    let Some(octave) = nanoseconds.checked_ilog2().filter(|octave| *octave >= FIRST_OCTAVE) else { return 0 };
    if octave >= END_OCTAVE {
        return BUCKETS - 1;
    }
    let within = (nanoseconds >> (octave - PER_OCTAVE_BITS)) as usize % PER_OCTAVE;
    1 + (octave - FIRST_OCTAVE) as usize * PER_OCTAVE + within
}

/// Returns the first duration of a bucket in nanoseconds, and the first one beyond it. The last bucket has no end.
fn bounds(bucket: usize) -> (u64, Option<u64>) {
    let start = |bucket: usize| match bucket.checked_sub(1) {
        None => 0,
        Some(bucket) => {
            let (octave, within) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
            ((PER_OCTAVE + within) as u64) << (octave as u32 + FIRST_OCTAVE - PER_OCTAVE_BITS)
        }
    };
    (start(bucket), (bucket < BUCKETS - 1).then(|| start(bucket + 1)))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    sum: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], sum: 0 }
    }
}

impl Histogram {
    /// Adds `count` durations to a bucket, but not to the sum. Also call [`add_to_sum`](Histogram::add_to_sum).
    pub(super) fn add_to_bucket(&mut self, bucket: usize, count: u64) {
        self.counts[bucket] = self.counts[bucket].wrapping_add(count);
    }

    pub(super) fn add_to_sum(&mut self, nanoseconds: u64) {
        self.sum = self.sum.wrapping_add(nanoseconds);
    }

    pub(super) fn add(&mut self, other: &Histogram) {
        for (bucket, count) in other.counts.iter().enumerate() {
            self.add_to_bucket(bucket, *count);
        }
        self.add_to_sum(other.sum);
    }

    /// Returns what has been counted since an earlier state of the same histogram.
    pub(super) fn since(&self, earlier: &Histogram) -> Histogram {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, before)| now.saturating_sub(*before));
        Histogram { counts: counts.collect(), sum: self.sum.saturating_sub(earlier.sum) }
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// Returns the duration that the fraction `part` of all durations does not exceed, exact to the width of a bucket. `part` is
    /// from 0 to 1. Returns `None` if nothing was counted.
    pub(super) fn quantile(&self, part: f64) -> Option<Duration> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = (part.clamp(0.0, 1.0) * total as f64).max(1.0);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            if (below + count) as f64 >= rank {
                let (start, end) = bounds(bucket);
                let end = end.unwrap_or(start);
                let fraction = (rank - below as f64) / *count as f64;
                return Some(Duration::from_nanos(start + ((end - start) as f64 * fraction) as u64));
            }
            below += count;
        }
        None
    }

    /// Returns the counts in coarse buckets for monitoring systems: one per power of two, each with its end in seconds. The end
    /// of the last one is infinite.
    pub(super) fn octaves(&self) -> Vec<(f64, u64)> {
        let mut octaves = vec![(seconds(1 << FIRST_OCTAVE), self.counts[0])];
        for (octave, counts) in self.counts[1..BUCKETS - 1].chunks(PER_OCTAVE).enumerate() {
            octaves.push((seconds(2 << (FIRST_OCTAVE + octave as u32)), counts.iter().sum()));
        }
        octaves.push((f64::INFINITY, self.counts[BUCKETS - 1]));
        octaves
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for nanoseconds in durations {
            histogram.add_to_bucket(bucket_of(*nanoseconds), 1);
            histogram.add_to_sum(*nanoseconds);
        }
        histogram
    }

    #[test]
    fn buckets_cover_all_durations_without_gaps() {
        let mut expected = 0;
        for bucket in 0..BUCKETS {
            let (start, end) = bounds(bucket);
            assert_eq!(start, expected);
            assert_eq!((bucket_of(start), bucket_of(end.map_or(u64::MAX, |end| end - 1))), (bucket, bucket));
            if let Some(end) = end {
                assert!(bucket == 0 || (end - start) * 8 <= start, "{bucket}: at most 12.5 % wide");
                expected = end;
            }
        }
    }

    #[test]
    fn quantiles_are_exact_to_a_bucket() {
        let milliseconds: Vec<u64> = (1..=1000).map(|milliseconds| milliseconds * 1_000_000).collect();
        let histogram = of(&milliseconds);
        for part in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let quantile = histogram.quantile(part).unwrap().as_secs_f64();
            assert!((quantile / part - 1.0).abs() < 0.13, "{part}: {quantile}");
        }
        assert_eq!(histogram.sum(), Duration::from_millis(500_500));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert!(of(&[u64::MAX]).quantile(0.5) >= Some(Duration::from_secs(60)));
    }

    #[test]
    fn octaves_have_all_counts() {
        let histogram = of(&[3, 1024, 2047, 2048, 5_000_000, u64::MAX]);
        let octaves = histogram.octaves();
        assert_eq!(octaves.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert_eq!(octaves[..3].iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 2, 1]);
        assert!(octaves.windows(2).all(|pair| pair[0].0 < pair[1].0), "{octaves:?}");
    }

    #[test]
    fn a_difference_has_the_later_counts() {
        let before = of(&[5_000, 70_000]);
        let mut after = before.clone();
        after.add(&of(&[70_000, 900_000]));
        assert_eq!(after.since(&before), of(&[70_000, 900_000]));
    }
}
