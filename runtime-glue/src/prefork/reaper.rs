//! Reaps orphans that the supervisor has adopted, as process 1 of a container or as a subreaper.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use crate::sys;

/// How long a process must have been a zombie before the supervisor reaps it. If the supervisor started the process itself, a
/// handle (`tokio::process`, `std::process`) reaps it well before that.
const ZOMBIE_AGE: Duration = Duration::from_secs(2);

/// The zombies that may have no handle in this process.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    zombies: Vec<(u32, Instant)>,
}

impl Reaper {
    /// Checks all children except those for which `is_known` returns true, and reaps those that have been zombies for
    /// [`ZOMBIE_AGE`]. Returns when to check again, or `None` if there is no zombie.
    pub(super) fn look(&mut self, is_known: impl Fn(u32) -> bool, now: Instant) -> Option<Instant> {
        let zombies: Vec<u32> = children().into_iter().filter(|pid| !is_known(*pid) && is_zombie(*pid)).collect();
        self.zombies.retain(|(pid, _)| zombies.contains(pid));
        for pid in zombies {
            match self.zombies.iter().position(|(zombie, _)| *zombie == pid) {
                None => self.zombies.push((pid, now)),
                Some(position) if now.saturating_duration_since(self.zombies[position].1) >= ZOMBIE_AGE => {
                    self.zombies.remove(position);
                    if sys::reap(pid).is_some() {
                        tracing::debug!(pid, "reaped an adopted process");
                    }
                }
                Some(_) => {}
            }
        }
        self.zombies.iter().map(|(_, since)| *since + ZOMBIE_AGE).min()
    }
}

/// Returns the children of the current thread, which is the only one of this process.
fn children() -> Vec<u32> {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state is in parentheses, and may have any character in it.
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
