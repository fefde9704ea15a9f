//! What tests ask of the system, and each system answers in its own way.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "bsd.rs")]
mod system;

use std::collections::BTreeMap;

pub use system::*;

/// A process, as the system lists it.
#[derive(Clone, Debug)]
pub struct Stat {
    /// Its id.
    pub pid: i32,
    /// R, S, D, Z, ...
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
}

impl Stat {
    /// Whether it has ended, though its parent may not have asked for its status yet.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn by_id(processes: impl Iterator<Item = Stat>) -> BTreeMap<i32, Stat> {
    processes.map(|process| (process.pid, process)).collect()
}

/// The clocks of timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerClock {
    /// Counts while the machine is awake.
    Monotonic,
    /// The time of day.
    Realtime,
    /// Counts on while the machine sleeps.
    Boottime,
}

impl TimerClock {
    /// All.
    pub const ALL: [TimerClock; 3] = [TimerClock::Monotonic, TimerClock::Realtime, TimerClock::Boottime];
}
