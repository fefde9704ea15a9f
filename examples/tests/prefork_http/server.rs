//! The program in its own process group, with the processes that it starts.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use forkio_tests::http::Client;
use forkio_tests::{Log, Process, announced_address, children_of, example, kill, processes, until, wait_until};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::status::{AskStatus, Status};

/// Options for scenarios that also run with threads: workers with several threads behave like workers with one.
pub(crate) const WITHOUT_AND_WITH_THREADS: [&[&str]; 2] = [&[], &["--worker-threads", "2"]];

#[track_caller]
pub(crate) fn program() -> PathBuf {
    example("prefork-http")
}

#[track_caller]
pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(pid, signal.as_raw());
}

/// A running server, alone in its process group. Kills its remaining processes when dropped.
pub(crate) struct Server {
    program: Child,
    stdout: BufReader<ChildStdout>,
    stderr: Log,
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
        let stderr = Log::read(program.stderr.take().expect("piped"));
        let mut server = Server { program, stdout, stderr, addresses: Vec::new(), announcements: Vec::new() };
        for _ in 0..listeners {
            let line = server.stdout_line();
            server
                .addresses
                .push(announced_address(&line).unwrap_or_else(|| panic!("{line:?} does not announce a listener")));
            server.announcements.push(line);
        }
        server
    }

    pub(crate) fn pid(&self) -> i32 {
        self.program.id() as i32
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
        wait_until("every worker has accepted a connection", || {
            let mut client = self.connect();
            let status = client.status();
            if clients.iter().all(|(_, seen)| seen.pid != status.pid) {
                clients.push((client, status));
            }
            clients.len() == workers
        });
        clients.sort_by_key(|(_, status)| status.worker);
        clients
    }

    /// Checks that a new client is served.
    #[track_caller]
    pub(crate) fn check_serving(&self) {
        assert_eq!(self.connect().get("/").expect("an answer").status, 200);
    }

    /// Opens a connection and sends a request that takes `milliseconds`. Returns the connection and its worker's process id.
    #[track_caller]
    pub(crate) fn busy(&self, milliseconds: u64) -> (Client, i32) {
        let mut client = self.connect();
        let pid = client.status().pid;
        client.request(&format!("/sleep/{milliseconds}")).expect("sending");
        (client, pid)
    }

    /// Returns all processes of the group, zombies included.
    pub(crate) fn processes(&self) -> Vec<Process> {
        processes().into_values().filter(|process| process.group == self.pid()).collect()
    }

    /// Waits until all processes have ended. A process that is not a child of this scenario may stay a zombie.
    #[track_caller]
    pub(crate) fn until_all_have_ended(&self) {
        wait_until("all processes have ended", || self.processes().iter().all(Process::has_ended));
    }

    /// Returns the process ids of the supervisor's running children: the workers, the template and the service worker.
    pub(crate) fn workers(&self) -> Vec<i32> {
        children_of(self.pid())
    }

    /// Waits until a worker has ended, and this many other workers run.
    #[track_caller]
    pub(crate) fn until_replaced(&self, pid: i32, workers: usize) {
        wait_until("the worker has been replaced", || {
            let pids = self.workers();
            pids.len() == workers && !pids.contains(&pid)
        });
    }

    pub(crate) fn signal(&self, kind: Signal) {
        signal(self.pid(), kind);
    }

    /// Sends a signal to the supervisor, and waits until standard error contains `what`.
    #[track_caller]
    pub(crate) fn signal_until(&self, kind: Signal, what: &str) {
        self.signal(kind);
        self.until_logged(what);
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until standard error contains `what`.
    #[track_caller]
    pub(crate) fn until_logged(&self, what: &str) {
        self.until_logged_times(what, 1);
    }

    /// Waits until standard error contains `what` this many times.
    #[track_caller]
    pub(crate) fn until_logged_times(&self, what: &str, times: usize) {
        self.stderr.wait_for(what, times);
    }

    /// Signals all processes of the group at once.
    pub(crate) fn signal_all(&self, kind: Signal) {
        kill(-self.pid(), kind.as_raw());
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
        let _ = kill_process_group(Pid::from_child(&self.program), Signal::KILL);
        let _ = self.program.wait();
        if std::thread::panicking() {
            eprintln!("the server's stderr:\n{}", self.stderr());
        }
    }
}
