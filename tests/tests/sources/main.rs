//! Timers, signals and processes as sources of the reactor, without tokio.

mod processes;
mod signals;
mod timerfds;
mod timers;
mod timers_in_forks;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::time::Duration;

use forkio_tests::reactor::*;

forkio_tests::main!(processes, signals, timerfds, timers, timers_in_forks);

const MILLIS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const CLOCKS: [Clock; 2] = [Clock::Monotonic, Clock::Realtime];

/// A selector, and a timer that is registered with it under token 1.
fn with_timer(clock: Clock) -> (Poll, Timer) {
    let (selector, mut timer) = (Poll::new().unwrap(), Timer::new(clock).unwrap());
    register(selector.registry(), &mut timer, 1);
    (selector, timer)
}

#[track_caller]
fn check_blocked<T: Debug>(what: &str, result: io::Result<T>) {
    check_eq(what, result.unwrap_err().kind(), ErrorKind::WouldBlock);
}
