//! Functions that differ between operating systems.

#[cfg(target_os = "linux")]
mod seccomp;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "bsd.rs")]
mod system;

use std::collections::BTreeMap;

#[cfg(target_os = "linux")]
pub use seccomp::*;
pub use system::*;

/// A process, as the system lists it.
#[derive(Clone, Debug)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// The state as a letter, such as R, S, D or Z.
    pub state: char,
    /// The parent's process id.
    pub parent: i32,
    /// The process group.
    pub group: i32,
}

impl Process {
    /// Whether the process has ended, even if its parent has not asked for its status yet.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The children of this process that have not ended.
pub fn children() -> Vec<i32> {
    let own = crate::own_pid();
    processes().into_values().filter(|child| child.parent == own && !child.has_ended()).map(|child| child.pid).collect()
}

fn by_id(processes: impl Iterator<Item = Process>) -> BTreeMap<i32, Process> {
    processes.map(|process| (process.pid, process)).collect()
}

/// The clocks of timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerClock {
    /// The clock stops while the machine is suspended.
    Monotonic,
    /// The clock shows the time of day.
    Realtime,
    /// The clock continues while the machine is suspended.
    Boottime,
}

impl TimerClock {
    /// All clocks.
    pub const ALL: [TimerClock; 3] = [TimerClock::Monotonic, TimerClock::Realtime, TimerClock::Boottime];
}
