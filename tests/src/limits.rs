//! Time limits of steps, and numbers of repetitions.

use std::sync::OnceLock;
use std::time::Duration;

/// Returns how many times slower than an ordinary machine this one is: `FORKIO_TEST_SLOWDOWN` in the environment, or 1.
pub fn slowdown() -> u32 {
    // The factor is kept, because a child of a process with threads must not read the environment.
    static SLOWDOWN: OnceLock<u32> = OnceLock::new();
    *SLOWDOWN.get_or_init(|| match std::env::var("FORKIO_TEST_SLOWDOWN") {
        Ok(factor) => factor.parse().ok().filter(|factor| *factor > 0).expect("FORKIO_TEST_SLOWDOWN is a factor"),
        Err(_) => 1,
    })
}

/// How long one step of a scenario may take.
pub fn limit() -> Duration {
    Duration::from_secs(60) * slowdown()
}

/// How often to repeat a step that is repeated `count` times on an ordinary machine.
pub fn rounds(count: usize) -> usize {
    count.div_ceil(slowdown() as usize)
}
