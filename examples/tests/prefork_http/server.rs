//! The program in its own process group, with the processes that it starts.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::client::{Client, Status};

/// The time limit of each wait.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "timed out after {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The built program, which cargo puts next to the directory of this test.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let program = test.ancestors().nth(2).expect("target/PROFILE").join("examples/prefork-http");
    assert!(program.exists(), "{} is missing: run `cargo build --example prefork-http` first", program.display());
    program
}

/// A process, as `/proc/PID/stat` describes it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    group: u32,
    pub(crate) zombie: bool,
    pub(crate) stopped: bool,
}

/// Reads the state of a process. Returns `None` if the process has ended.
fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The fields follow the name, which is in parentheses and may contain any character.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    Some(Process {
        pid,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        zombie: matches!(state, "Z" | "X"),
        stopped: state == "T",
    })
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(process_id(pid), signal).expect("signalling a process of the server");
}

fn process_id(pid: u32) -> Pid {
    pid.try_into().ok().and_then(Pid::from_raw).expect("a process id")
}

/// A running server, alone in its process group. Kills its remaining processes when dropped.
pub(crate) struct Server {
    program: Child,
    group: u32,
    stdout: BufReader<ChildStdout>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<JoinHandle<()>>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) announcements: Vec<String>,
}

impl Server {
    /// Starts the program on a free port, and waits until it serves.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Server {
        Server::start_as(Command::new(program()).args(["--listen", "127.0.0.1:0"]).args(arguments), 1)
    }

    /// Starts `command`, a server with this many listeners.
    #[track_caller]
    pub(crate) fn start_as(command: &mut Command, listeners: usize) -> Server {
        Server::start_with(command, Stdio::null(), listeners)
    }

    /// Like [`start_as`](Server::start_as), with a descriptor as standard input.
    #[track_caller]
    pub(crate) fn start_with_stdin(command: &mut Command, stdin: OwnedFd, listeners: usize) -> Server {
        Server::start_with(command, stdin.into(), listeners)
    }

    #[track_caller]
    fn start_with(command: &mut Command, stdin: Stdio, listeners: usize) -> Server {
        // A slow machine must not cut off draining connections.
        if command.get_args().all(|argument| argument != "--shutdown-timeout") {
            command.args(["--shutdown-timeout", "60"]);
        }
        let mut program = command
            .env_remove("RUST_LOG")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("starting the program");
        let stdout = BufReader::new(program.stdout.take().expect("piped"));
        let mut stderr_pipe = BufReader::new(program.stderr.take().expect("piped"));
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = Arc::clone(&stderr);
        let stderr_reader = thread::spawn(move || {
            let mut line = String::new();
            while stderr_pipe.read_line(&mut line).is_ok_and(|len| len > 0) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
                line.clear();
            }
        });
        let group = program.id();
        let mut server = Server {
            program,
            group,
            stdout,
            stderr,
            stderr_reader: Some(stderr_reader),
            addresses: Vec::new(),
            announcements: Vec::new(),
        };
        for _ in 0..listeners {
            let mut line = String::new();
            server.stdout.read_line(&mut line).expect("a line on stdout");
            let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split(' ').next());
            let address = address.and_then(|address| address.parse().ok());
            server.addresses.push(address.unwrap_or_else(|| panic!("{line:?} does not announce a listener")));
            server.announcements.push(line);
        }
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address()).expect("connecting to the server")
    }

    /// Connects to each worker. Returns the connections with their statuses, in the order of the worker indices.
    #[track_caller]
    pub(crate) fn connect_to_each(&self, workers: usize) -> Vec<(Client, Status)> {
        let mut clients: Vec<(Client, Status)> = Vec::new();
        until("every worker has accepted a connection", || {
            let mut client = self.connect();
            let status = client.status();
            if clients.iter().all(|(_, seen)| seen.pid != status.pid) {
                clients.push((client, status));
            }
            (clients.len() == workers).then_some(())
        });
        clients.sort_by_key(|(_, status)| status.worker);
        clients
    }

    /// All processes of the group, zombies included.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").expect("/proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(process).filter(|process| process.group == self.group).collect()
    }

    /// The children of a process, in any group, zombies included.
    pub(crate) fn processes_of(&self, parent: u32) -> Vec<Process> {
        let entries = fs::read_dir("/proc").expect("/proc");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(process).filter(|process| process.parent == parent).collect()
    }

    /// The process ids of the supervisor's running children: workers, and the template and the service worker if there are any.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let processes = self.processes().into_iter();
        processes.filter(|process| process.parent == self.pid() && !process.zombie).map(|process| process.pid).collect()
    }

    pub(crate) fn signal(&self, kind: Signal) {
        signal(self.pid(), kind);
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until standard error contains `what`.
    #[track_caller]
    pub(crate) fn until_logged(&self, what: &str) {
        until(what, || self.stderr().contains(what).then_some(()));
    }

    #[track_caller]
    pub(crate) fn until_stopped(&self, pid: u32) {
        let has_stopped = |process: Process| process.pid == pid && process.stopped;
        until("the process has stopped", || self.processes().into_iter().any(has_stopped).then_some(()));
    }

    /// Signals all processes of the group at once.
    pub(crate) fn signal_all(&self, kind: Signal) {
        kill_process_group(process_id(self.group), kind).expect("signalling the server's processes");
    }

    /// How often the supervisor has gone to sleep, which tells how often it was woken.
    pub(crate) fn sleeps_of_parent(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the supervisor's status");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.and_then(|count| count.trim().parse().ok()).expect("a count of context switches")
    }

    #[track_caller]
    pub(crate) fn stdout_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line on stdout");
        line
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.program.try_wait().expect("waiting for the program").is_none()
    }

    /// Waits for the program to end by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the program has ended", || self.program.try_wait().expect("waiting for the program"))
    }

    /// Waits for the end of the program. Checks its exit code, and that it has left no process and printed nothing more
    /// on stdout.
    #[track_caller]
    pub(crate) fn ends_with(mut self, exit_code: i32) {
        let status = self.wait();
        assert_eq!(status.code(), Some(exit_code), "{status}");
        let left = self.processes();
        assert!(left.is_empty(), "the server has left processes behind: {left:?}");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("stdout");
        assert_eq!(rest, "", "stdout has text that the test has not read");
    }

    /// Stops an idle server, which must exit with 0.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        self.ends_with(0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that no process is left.
        let _ = kill_process_group(process_id(self.group), Signal::KILL);
        let _ = self.program.wait();
        // The reader ends when no process holds the pipe.
        if let Some(reader) = self.stderr_reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln!("the server's stderr:\n{}", self.stderr());
        }
    }
}
