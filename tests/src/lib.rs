//! What tests that run real processes have in common.
//!
//! A test never forks: its process has the threads of the harness. It starts a *fixture*, a small program in `src/bin`
//! that runs one named scenario, forks as it likes, checks what each process sees, and exits with 0 if all of it was as
//! it should be. The runner gives it a process group of its own and a deadline, and fails if anything of the group is
//! left afterwards.

pub mod foreign;
pub mod reactor;
pub mod runtime;
mod sys;

use std::fmt::Debug;
use std::future::Future;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub use sys::*;

// Readiness is modelled as epoll reports it.
#[cfg(epoll)]
pub mod tree;

/// Longer than anything takes unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits until `condition` holds; panics with `what` if it does not in time.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a child, which must have exited with 0.
#[track_caller]
pub fn reap(pid: i32) {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    check_eq("reaping the child", waited, pid);
    check_eq("the child's status", status, 0);
}

/// Runs a scenario of a fixture and checks that all its processes ended well and are gone.
#[track_caller]
pub fn run_fixture(program: &str, scenario: &str) {
    let fixture = Fixture::start(program, &[scenario]);
    let (status, output) = fixture.finish();
    assert!(status.success(), "{scenario}: {status}\n{output}");
}

/// A running fixture. Dropped, it takes its whole process group with it.
#[derive(Debug)]
pub struct Fixture {
    child: Child,
}

impl Fixture {
    /// Starts `program` with `args`: from where it was built, or from the directory `FORKIO_FIXTURES`.
    #[track_caller]
    pub fn start(program: &str, args: &[&str]) -> Fixture {
        let carried = std::env::var_os("FORKIO_FIXTURES");
        let carried = carried.and_then(|directory| Some(Path::new(&directory).join(Path::new(program).file_name()?)));
        let mut command = Command::new(carried.as_deref().unwrap_or(Path::new(program)));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Fixture { child: command.spawn().unwrap_or_else(|error| panic!("starting {program}: {error}")) }
    }

    /// The first process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether the first process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waiting for the fixture").is_some()
    }

    /// One line of its standard output, without the line's end.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let output = self.child.stdout.as_mut().expect("standard output is piped");
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match output.read(&mut byte).expect("reading the fixture's output") {
                0 => panic!("the fixture ended after {:?}", String::from_utf8_lossy(&line)),
                _ if byte[0] == b'\n' => return String::from_utf8(line).expect("fixtures print UTF-8"),
                _ => line.push(byte[0]),
            }
        }
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("standard input is piped");
        writeln!(input, "{line}").expect("writing to the fixture");
    }

    /// Waits for the end of the whole group; the status is the first process's.
    #[track_caller]
    pub fn finish(mut self) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        let mut output = String::new();
        // Threads, because both pipes must be read for the fixture not to block; they end with the last writer.
        let [stdout, stderr] = [
            read_in_background(self.child.stdout.take().expect("standard output is piped")),
            read_in_background(self.child.stderr.take().expect("standard error is piped")),
        ];
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for the fixture") {
                break Some(status);
            }
            if start.elapsed() > LIMIT {
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let left = wait_for_group(self.pid());
        drop(self);
        for reader in [stdout, stderr] {
            output.push_str(&reader.join().expect("reading the fixture's output"));
        }
        let status = status.unwrap_or_else(|| panic!("still running after {LIMIT:?}\n{output}"));
        assert!(left.is_empty(), "processes left behind: {left:?}\n{output}");
        (status, output)
    }

    /// Ends the whole group by force; what it has written.
    pub fn wreck(mut self) -> String {
        // SAFETY: no memory is involved; the group is the one made for this fixture.
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
        let _ended = self.child.wait();
        let mut output = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _unreadable = stderr.read_to_string(&mut output);
        }
        output
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // SAFETY: no memory is involved; the group is the one made for this fixture.
        unsafe { libc::kill(-self.pid(), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

fn read_in_background(mut source: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = source.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Gives the group of an ended leader a moment to go; what is left, as the system describes it.
fn wait_for_group(leader: i32) -> Vec<String> {
    let start = Instant::now();
    loop {
        let left: Vec<_> = processes().into_values().filter(|stat| stat.group == leader).collect();
        if left.is_empty() || start.elapsed() > Duration::from_secs(10) {
            return left.iter().map(|stat| format!("{stat:?}")).collect();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether what is being done is a kernel's business: that of a model of one, which has its memory here.
pub fn is_kernel() -> bool {
    #[cfg(forkio_kqueue)]
    return forkio_reactor::testing::kqueue::is_working();
    #[cfg(not(forkio_kqueue))]
    false
}

/// One direction of waiting between processes: whoever has the sender tells whoever has the receiver.
#[derive(Debug)]
pub struct Turn {
    receiver: PipeReader,
    sender: PipeWriter,
}

impl Turn {
    /// To be made before the fork.
    pub fn new() -> io::Result<Turn> {
        let (receiver, sender) = io::pipe()?;
        Ok(Turn { receiver, sender })
    }

    /// Lets one [`wait`](Turn::wait) go on.
    pub fn give(&self) {
        (&self.sender).write_all(&[1]).expect("telling another process");
    }

    /// The descriptor that becomes readable with a [`give`](Turn::give).
    pub fn as_raw_fd(&self) -> RawFd {
        self.receiver.as_raw_fd()
    }

    /// Waits for a [`give`](Turn::give).
    pub fn wait(&self) {
        (&self.receiver).read_exact(&mut [0]).expect("waiting for another process");
    }
}

/// Runs a future that never waits, outside of any runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

/// Panics unless `left` equals `right`, with the process id: several processes write to one log.
#[track_caller]
pub fn check_eq<T: PartialEq + Debug>(what: &str, left: T, right: T) {
    assert_eq!(left, right, "in process {}: {what}", std::process::id());
}

/// Runs the scenario named by the first argument, and exits with 0 if it returns.
pub fn fixture_main(scenarios: &[(&str, fn())]) {
    let name = std::env::args().nth(1).unwrap_or_default();
    match scenarios.iter().find(|(known, _)| *known == name) {
        Some((_, scenario)) => scenario(),
        None => {
            let known: Vec<_> = scenarios.iter().map(|(name, _)| *name).collect();
            panic!("no scenario {name:?}; there are {known:?}");
        }
    }
}
