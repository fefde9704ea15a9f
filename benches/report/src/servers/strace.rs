//! System calls of a process, as strace(1) logs them.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::process::Process;

/// How often each system call was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Calls {
    by_name: BTreeMap<String, f64>,
    /// Writes to an eventfd: wakes that reach the kernel.
    pub(crate) wakes: f64,
}

impl Calls {
    /// Returns the number of calls whose name begins with `prefix`.
    pub(crate) fn named(&self, prefix: &str) -> f64 {
        self.by_name.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    /// Reads a log that was made with `-f` and `-y`: process, call, `(`, arguments.
    fn read(log: &str) -> Calls {
        let mut calls = Calls::default();
        for line in log.lines() {
            let call = line.trim_start_matches(|character: char| character.is_ascii_digit()).trim_start();
            // Other lines are about a signal, an exit, or the rest of a call that was logged already.
            let Some((name, arguments)) = call.split_once('(') else { continue };
            if name.starts_with(['<', '+', '-']) {
                continue;
            }
            *calls.by_name.entry(name.to_owned()).or_default() += 1.0;
            if name == "write" && arguments.split(',').next().is_some_and(|file| file.contains("[eventfd]")) {
                calls.wakes += 1.0;
            }
        }
        calls
    }

    /// Subtracts the counts of `other`. Differences below 0 count as 0.
    pub(crate) fn since(&self, other: &Calls) -> Calls {
        let more = |count: f64, other: f64| (count - other).max(0.0);
        let by_name = self
            .by_name
            .iter()
            .map(|(name, count)| (name.clone(), more(*count, other.by_name.get(name).copied().unwrap_or(0.0))));
        Calls { by_name: by_name.collect(), wakes: more(self.wakes, other.wakes) }
    }
}

#[derive(Debug)]
pub(crate) struct Strace {
    process: Process,
    log: PathBuf,
}

impl Strace {
    pub(crate) fn run(program: &Command, log: &Path) -> Result<Strace, Box<dyn Error>> {
        let mut strace = command(log);
        strace.arg(program.get_program()).args(program.get_args()).stdout(Stdio::null()).stderr(Stdio::null());
        Strace::start(strace, log)
    }

    /// Attaches strace to processes; returns when it sees their calls.
    pub(crate) fn attach(pids: &[u32], log: &Path) -> Result<Strace, Box<dyn Error>> {
        let mut strace = command(log);
        strace.args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()])).stderr(Stdio::piped());
        let mut strace = Strace::start(strace, log)?;
        let mut stderr = BufReader::new(strace.process.stderr()?);
        let mut attached = 0;
        while attached < pids.len() {
            let mut line = String::new();
            if stderr.read_line(&mut line)? == 0 {
                return Err("strace cannot attach to the server".into());
            }
            attached += usize::from(line.contains(" attached"));
        }
        // A thread reads the later lines: strace would block if the pipe were full.
        thread::spawn(move || stderr.lines().for_each(drop));
        Ok(strace)
    }

    fn start(mut strace: Command, log: &Path) -> Result<Strace, Box<dyn Error>> {
        let process = Process::start(strace.stdin(Stdio::null()))
            .map_err(|error| format!("cannot run strace: {error}; is it installed?"))?;
        Ok(Strace { process, log: log.to_owned() })
    }

    /// Waits for the end of the program that strace runs.
    pub(crate) fn wait(mut self) -> Result<Calls, Box<dyn Error>> {
        let status = self.process.wait()?;
        if !status.success() {
            return Err(format!("strace ended with {status}").into());
        }
        self.calls()
    }

    /// Detaches strace from the processes that it is attached to.
    pub(crate) fn detach(mut self) -> Result<Calls, Box<dyn Error>> {
        self.process.interrupt()?;
        self.process.wait()?;
        self.calls()
    }

    fn calls(&self) -> Result<Calls, Box<dyn Error>> {
        let calls = Calls::read(&String::from_utf8_lossy(&fs::read(&self.log)?));
        // One second of calls fills many megabytes.
        fs::remove_file(&self.log)?;
        Ok(calls)
    }
}

fn command(log: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-o"]).arg(log);
    strace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_counted_by_name() {
        let log = "\
17 epoll_wait(3<anon_inode:[eventpoll]>, [], 1024, 0) = 0
17 write(4<anon_inode:[eventfd]>, \"\"..., 8) = 8
17 write(1<pipe:[12]>, \"\"..., 80 <unfinished ...>
18 epoll_pwait(3<anon_inode:[eventpoll]>,  <unfinished ...>
17 <... write resumed>) = 80
17 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=1, si_uid=0} ---
18 +++ exited with 0 +++
";
        let calls = Calls::read(log);
        assert_eq!((calls.named("epoll_"), calls.named("write"), calls.named(""), calls.wakes), (2.0, 2.0, 4.0, 1.0));
        assert_eq!(calls.since(&calls).named(""), 0.0);
    }
}
