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
    children_of(crate::own_pid())
}

/// The children of a process that have not ended.
pub fn children_of(parent: i32) -> Vec<i32> {
    let children = processes().into_values().filter(|child| child.parent == parent && !child.has_ended());
    children.map(|child| child.pid).collect()
}

/// Whether a process has ended, even if its parent has not asked for its status yet.
pub fn has_ended(pid: i32) -> bool {
    processes().get(&pid).is_none_or(Process::has_ended)
}

/// A field of `/proc/PID/status`, such as `Uid`. Only Linux has it.
#[track_caller]
pub fn status_field(pid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of a process");
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.expect("a field of the status").trim().to_owned()
}

/// How often a process has gone to sleep, which tells how often it was woken. Only Linux counts this.
#[track_caller]
pub fn sleeps_of(pid: i32) -> u64 {
    status_field(pid, "voluntary_ctxt_switches").parse().expect("a number")
}

/// The names of the threads of a process. Only Linux lists them.
#[track_caller]
pub fn thread_names(pid: i32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of a process").flatten();
    let names = threads.flat_map(|thread| std::fs::read_to_string(thread.path().join("comm")));
    names.map(|name| name.trim_end().to_owned()).collect()
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
