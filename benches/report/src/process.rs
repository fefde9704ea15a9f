//! Processes that this program starts, and the usage of the measured ones as the kernel reports it.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process. It ends when this value is dropped or when this program is killed.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> io::Result<Process> {
        fork_protocol::end_with_this_process(command).spawn().map(Process)
    }

    pub(crate) fn pipes(&mut self) -> io::Result<(ChildStdin, ChildStdout)> {
        self.0.stdin.take().zip(self.0.stdout.take()).ok_or_else(no_pipe)
    }

    pub(crate) fn stdout(&mut self) -> io::Result<ChildStdout> {
        self.0.stdout.take().ok_or_else(no_pipe)
    }

    pub(crate) fn stderr(&mut self) -> io::Result<ChildStderr> {
        self.0.stderr.take().ok_or_else(no_pipe)
    }

    /// Waits until the process ends. Returns the last line of its standard error, or its exit status if there is no line.
    pub(crate) fn last_error_line(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.stderr()?.read_to_string(&mut text)?;
        let status = self.0.wait()?;
        Ok(text.lines().last().map_or_else(|| format!("the process ended with {status}"), str::to_owned))
    }

    pub(crate) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    pub(crate) fn interrupt(&mut self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), Signal::INT)?)
    }

    /// Asks the process to end, waits for it, and kills it if that takes too long.
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

    /// Returns the ids of the process and of all its descendants.
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
        // The measurement is over, so the exit status does not matter.
        let _ended = self.terminate();
    }
}

fn no_pipe() -> io::Error {
    io::Error::other("there is no pipe to the process")
}

/// Makes a process, with all its threads and children, run on these CPUs only.
pub(crate) fn pin<'a>(command: &'a mut Command, cpus: &[usize]) -> &'a mut Command {
    let cpus = cpu_set(cpus);
    // SAFETY: the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(move || Ok(sched_setaffinity(None, &cpus)?)) }
}

pub(crate) fn pin_this_thread(cpus: &[usize]) -> io::Result<()> {
    Ok(sched_setaffinity(None, &cpu_set(cpus))?)
}

fn cpu_set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    set
}

/// The resources that the threads of processes have used so far. Threads that have ended do not count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time in seconds.
    pub(crate) seconds: f64,
    /// The part of the processor time in user mode, in seconds.
    pub(crate) user: f64,
    /// How long threads were ready to run and had to wait for a CPU, in seconds.
    pub(crate) waited: f64,
    /// How many times a thread was switched away from.
    pub(crate) switches: u64,
}

impl Usage {
    pub(crate) fn of(pids: &[u32]) -> Usage {
        let mut usage = Usage::default();
        for pid in pids {
            let before = usage.seconds;
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
                // The first two fields are nanoseconds on a CPU and waiting for one: Documentation/scheduler/sched-stats.rst.
                let statistics = read("schedstat");
                let mut statistics = statistics.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
                usage.seconds += statistics.next().unwrap_or(0) as f64 / 1e9;
                usage.waited += statistics.next().unwrap_or(0) as f64 / 1e9;
                let status = read("status");
                let counts =
                    status.lines().filter_map(|line| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok());
                usage.switches += counts.sum::<u64>();
            }
            usage.user += (usage.seconds - before) * user_part(*pid).unwrap_or(0.0);
        }
        usage
    }

    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage {
            seconds: self.seconds - before.seconds,
            user: self.user - before.user,
            waited: self.waited - before.waited,
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// Returns the part of a process's time that was in user mode, from utime and stime of proc_pid_stat(5).
fn user_part(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have spaces. The fields that follow the name have none.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<f64>().ok()?, fields.next()?.parse::<f64>().ok()?);
    Some(user / (user + system).max(1.0))
}

/// Returns the resident memory in MiB, each page divided by the number of processes that share it.
pub(crate) fn pss(pids: &[u32]) -> f64 {
    memory(pids, "Pss:")
}

/// Returns the memory in MiB that the processes have written since they were forked.
pub(crate) fn private_dirty(pids: &[u32]) -> f64 {
    memory(pids, "Private_Dirty:")
}

/// Sums up a field of proc_pid_smaps_rollup(5), in MiB.
fn memory(pids: &[u32], field: &str) -> f64 {
    let kibibytes = pids.iter().filter_map(|pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kibibytes.sum::<u64>() as f64 / 1024.0
}

pub(crate) fn sockets(pid: u32) -> usize {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}
