//! Measures the contenders in turn.
//!
//! The speed of a machine drifts by more than the contenders differ, so only ratios within a round count. Each round runs every
//! contender once for some milliseconds, and each round begins with a different contender. Every few rounds all contenders
//! create their sockets and selectors again, so that no contender keeps a favourable memory address. mio takes part twice:
//! its ratio to itself is the noise of the run. This noise excludes the effect of code placement, which can be one percent.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Batch, Contender, FORKIO, LIBC, MIO, MIO_AGAIN, Operation, WITHOUT_CPONFORK};

/// The contenders of each round.
pub const CONTENDERS: [Contender; 5] = [FORKIO, WITHOUT_CPONFORK, MIO, LIBC, MIO_AGAIN];

/// The index of the contender that the other ones are compared with.
pub const PEER: usize = 2;

/// How long the peer runs in a round. Each other contender does the operation as often.
const TURN: Duration = Duration::from_millis(4);

/// The number of rounds after which all contenders are prepared again.
const FRESH: usize = 8;

/// The factor by which a [large](Operation::is_large) operation has fewer rounds. The operation is prepared for each round.
const LARGE: usize = 8;

/// Measures an operation. Returns, for each round, each contender's nanoseconds of processor time for one operation.
pub fn measure(operation: Operation, rounds: usize) -> io::Result<Vec<[f64; CONTENDERS.len()]>> {
    let times = times_in_a_turn(operation)?;
    let rounds = if operation.is_large() { rounds.div_ceil(LARGE) } else { rounds };
    let mut batches: [Option<Batch>; CONTENDERS.len()] = Default::default();
    let mut results = Vec::with_capacity(rounds);
    for round in 0..rounds {
        if round % FRESH == 0 {
            batches = Default::default();
        }
        let mut result = [0.0; CONTENDERS.len()];
        for turn in 0..CONTENDERS.len() {
            let index = (turn + round) % CONTENDERS.len();
            let mut batch = match batches[index].take() {
                Some(batch) => batch,
                None => prepare(&CONTENDERS[index], operation, times)?,
            };
            result[index] = batch(times)?.as_nanos() as f64 / times as f64;
            if !operation.is_large() {
                batches[index] = Some(batch);
            }
        }
        results.push(result);
    }
    Ok(results)
}

/// Prepares the operation, and warms it up.
fn prepare(contender: &Contender, operation: Operation, times: u64) -> io::Result<Batch> {
    let mut batch = (contender.prepare)(operation)?;
    batch(times.div_ceil(8))?;
    Ok(batch)
}

/// Returns how often the peer can do the operation in a turn.
fn times_in_a_turn(operation: Operation) -> io::Result<u64> {
    let mut batch = (CONTENDERS[PEER].prepare)(operation)?;
    let mut times = 1;
    loop {
        let took = batch(times)?;
        if took >= TURN / 4 {
            return Ok((times as f64 * TURN.as_secs_f64() / took.as_secs_f64()).ceil() as u64);
        }
        times *= 2;
    }
}

/// The median of some figures, and how far they spread.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter of the figures is below this one.
    pub lower: f64,
    /// Half of the figures are below this one.
    pub median: f64,
    /// Three quarters of the figures are below this one.
    pub upper: f64,
}

impl Quartiles {
    /// Returns the quartiles of the figures, or `None` if there are no figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Quartiles> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len().checked_sub(1)?;
        let at = |part: f64| figures[(last as f64 * part).round() as usize];
        Some(Quartiles { lower: at(0.25), median: at(0.5), upper: at(0.75) })
    }
}
