//! When the supervisor tries again after a failure, and when it replaces workers that have died.

use std::time::Duration;

use tokio::time::Instant;

/// The delay after the first failure of a boot or a fork. It doubles with each further failure in a row.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How many workers the supervisor replaces at once, before it limits the rate.
const BURST: u32 = 10;

/// The time between two replacements beyond the burst.
const PERIOD: Duration = Duration::from_secs(1);

/// Returns the delay before the next try, after `failures` in a row.
pub(super) fn delay(failures: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_DELAY)
}

/// Limits how fast the supervisor replaces workers that die after they were ready: a request that kills its worker must not
/// keep the server busy with forks. The supervisor replaces [`BURST`] workers at once, then one in each [`PERIOD`].
#[derive(Debug)]
pub(super) struct ReplacementRate {
    /// How many workers may be replaced at once, as of `since`.
    tokens: u32,
    since: Instant,
}

impl ReplacementRate {
    pub(super) fn new(now: Instant) -> ReplacementRate {
        ReplacementRate { tokens: BURST, since: now }
    }

    /// Takes one replacement. Returns when it may start.
    pub(super) fn take(&mut self, now: Instant) -> Instant {
        let earned = now.saturating_duration_since(self.since).as_secs() / PERIOD.as_secs();
        if earned > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(earned.try_into().unwrap_or(BURST)));
            self.since = if self.tokens == BURST { now } else { self.since + PERIOD * earned as u32 };
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                now
            }
            None => {
                // The next token is taken in advance.
                self.since += PERIOD;
                self.since.max(now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit() {
        assert_eq!(delay(1), FIRST_DELAY);
        assert_eq!(delay(3), FIRST_DELAY * 4);
        assert_eq!(delay(40), LONGEST_DELAY);
    }

    #[test]
    fn a_burst_is_replaced_at_once_and_then_one_a_second() {
        let start = Instant::now();
        let mut rate = ReplacementRate::new(start);
        for _ in 0..BURST {
            assert_eq!(rate.take(start), start);
        }
        assert_eq!(rate.take(start), start + PERIOD);
        assert_eq!(rate.take(start), start + PERIOD * 2);
        // Five seconds have given five replacements, and two of them were taken in advance.
        let later = start + PERIOD * 5;
        for _ in 0..3 {
            assert_eq!(rate.take(later), later);
        }
        assert!(rate.take(later) > later);
        let much_later = start + PERIOD * 1000;
        for _ in 0..BURST {
            assert_eq!(rate.take(much_later), much_later);
        }
        assert!(rate.take(much_later) > much_later);
    }
}
