//! Measuring the contenders in turn.
//!
//! A machine drifts by more than the contenders differ, so the figure that counts is a ratio of neighbours: each round
//! runs every contender once for some milliseconds, each round begins with another one, and every few rounds all make
//! their sockets and selectors anew, so that nobody keeps a lucky address. mio takes part twice: how far the median of its
//! ratio to itself is from 1 is the noise of the run. It says nothing of where this build happens to have placed the code,
//! which alone is worth up to a percent.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::{Batch, Contender, FORKIO, LIBC, MIO, Operation, PLAIN, processor_time};

/// Who takes part.
pub const CONTENDERS: [Contender; 5] = [FORKIO, PLAIN, MIO, LIBC, Contender { name: "mio again", ..MIO }];

/// Which contender the others are compared with.
pub const PEER: usize = 2;

/// How long each contender runs in a round.
const TURN: Duration = Duration::from_millis(4);

/// Rounds after which everything is made anew.
const FRESH: usize = 8;

/// The same for an operation that [is large](Operation::is_large): there are that many times fewer rounds of it, each
/// with everything made anew.
const LARGE: usize = 8;

/// Nanoseconds of processor time per operation: for each round, those of each contender.
///
/// # Errors
///
/// Those of the operation: it is tried at the limit of open files that the process has.
pub fn measure(operation: Operation, rounds: usize) -> io::Result<Vec<[f64; CONTENDERS.len()]>> {
    let times = times_in_a_turn(operation)?;
    let rounds = if operation.is_large() { rounds.div_ceil(LARGE) } else { rounds };
    let mut batches = Vec::new();
    let mut results = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let in_turn = (0..CONTENDERS.len()).map(|turn| (turn + round) % CONTENDERS.len());
        if round % FRESH == 0 {
            batches.clear();
            batches.resize_with(CONTENDERS.len(), || None);
        }
        let mut result = [0.0; CONTENDERS.len()];
        for index in in_turn {
            let mut batch = match batches[index].take() {
                Some(batch) => batch,
                None => prepare(&CONTENDERS[index], operation, times)?,
            };
            result[index] = time(&mut batch, times)?.as_nanos() as f64 / times as f64;
            if !operation.is_large() {
                batches[index] = Some(batch);
            }
        }
        results.push(result);
    }
    Ok(results)
}

/// What the contender needs, and warm.
fn prepare(contender: &Contender, operation: Operation, times: u64) -> io::Result<Batch> {
    let mut batch = (contender.prepare)(operation)?;
    batch(times.div_ceil(8))?;
    Ok(batch)
}

/// How often the peer does the operation in a turn: the same number for everyone.
fn times_in_a_turn(operation: Operation) -> io::Result<u64> {
    let mut batch = (CONTENDERS[PEER].prepare)(operation)?;
    let mut times = 1;
    loop {
        let took = time(&mut batch, times)?;
        if took >= TURN / 4 {
            return Ok((times as f64 * TURN.as_secs_f64() / took.as_secs_f64()).ceil() as u64);
        }
        times *= 2;
    }
}

fn time(batch: &mut Batch, times: u64) -> io::Result<Duration> {
    let start = processor_time()?;
    batch(times)?;
    Ok(processor_time()? - start)
}

/// The median of some figures, and how far they spread.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quartiles {
    /// A quarter of the figures is below.
    pub lower: f64,
    /// Half of them.
    pub median: f64,
    /// Three quarters.
    pub upper: f64,
}

impl Quartiles {
    /// Of at least one figure.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Quartiles {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Quartiles { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.lower, self.upper)
    }
}
