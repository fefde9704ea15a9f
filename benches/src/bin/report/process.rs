//! Processes that are measured, and what the kernel tells about them.

use std::fs;
use std::io;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process, ended when this is dropped or when this program is killed.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> io::Result<Process> {
        forked::end_with_this_process(command).spawn().map(Process)
    }

    pub(crate) fn pipes(&mut self) -> io::Result<(ChildStdin, ChildStdout)> {
        self.0.stdin.take().zip(self.0.stdout.take()).ok_or_else(|| io::Error::other("no pipes"))
    }

    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }

    /// Asks it to end, and waits until it has; kills it if that takes too long.
    pub(crate) fn terminate(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.0.try_wait()? {
            return Ok(status);
        }
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.0.kill()?;
        self.0.wait()
    }

    pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    pub(crate) fn interrupt(&mut self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), Signal::INT)?)
    }

    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// It, its children and theirs.
    pub(crate) fn tree(&self) -> Vec<u32> {
        let mut tree = vec![self.0.id()];
        let mut next = 0;
        while let Some(pid) = tree.get(next) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            tree.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            next += 1;
        }
        tree
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ended = self.terminate();
    }
}

/// Processor time in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

/// What the processes have used so far.
pub(crate) fn cpu_time(pids: &[u32]) -> CpuTime {
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let times = pids.iter().filter_map(|pid| ticks(*pid));
    let (user, system) = times.fold((0, 0), |sum, time| (sum.0 + time.0, sum.1 + time.1));
    CpuTime { user: user as f64 / ticks_per_second, system: system as f64 / ticks_per_second }
}

/// utime and stime of proc_pid_stat(5).
fn ticks(pid: u32) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have spaces; what follows it does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// How often the processes have been switched away from so far, all threads together.
pub(crate) fn context_switches(pids: &[u32]) -> u64 {
    let threads = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten();
    let counts = threads.filter_map(|thread| {
        let status = fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        Some(lines.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>())
    });
    counts.sum()
}

/// How long the processes' threads have waited for a processor so far, in seconds: the second field of `schedstat`
/// (Documentation/scheduler/sched-stats.rst).
pub(crate) fn waited_for_processor(pids: &[u32]) -> f64 {
    let threads = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten();
    let waits = threads.filter_map(|thread| {
        let statistics = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        statistics.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    waits.sum::<u64>() as f64 / 1e9
}

/// Resident memory in MiB, each page divided by the number of processes that share it.
pub(crate) fn pss(pids: &[u32]) -> f64 {
    let kibibytes = pids.iter().filter_map(|pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kibibytes.sum::<u64>() as f64 / 1024.0
}

/// How many sockets a process has open.
pub(crate) fn sockets(pid: u32) -> usize {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}
