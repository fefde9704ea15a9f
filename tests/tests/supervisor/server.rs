//! The server that the scenarios run.

use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use forkio_tests::{Log, children_of, connect_tcp, kill, processes, temporary_path, try_kill, until, wait_until};

/// A running fixture. It belongs to the process group of the scenario, so the harness finds processes that the fixture
/// leaves behind.
pub(crate) struct Server {
    program: Child,
    control: PathBuf,
    address: String,
    log: Log,
}

/// The command that runs the fixture.
pub(crate) fn fixture() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fixture-supervisor"))
}

impl Server {
    /// Starts the fixture with these arguments, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(how: &[&str]) -> Server {
        Server::start_as(&mut fixture(), how)
    }

    /// Starts the fixture with a command that the caller has prepared, and waits until the fixture is ready.
    #[track_caller]
    pub(crate) fn start_as(command: &mut Command, how: &[&str]) -> Server {
        let mut server = Server::begin_as(command, "", how);
        let mut line = String::new();
        let stdout = server.program.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("an announcement");
        server.address = line.trim().to_owned();
        assert!(!server.address.is_empty(), "{}", server.log());
        server
    }

    /// Starts the fixture, with `control` in its control file.
    #[track_caller]
    pub(crate) fn begin(control: &str, how: &[&str]) -> Server {
        Server::begin_as(&mut fixture(), control, how)
    }

    #[track_caller]
    fn begin_as(command: &mut Command, control: &str, how: &[&str]) -> Server {
        let path = temporary_path("control");
        fs::write(&path, control).expect("writing the control file");
        let command = command.arg(&path).args(how).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = command.spawn().expect("starting the server");
        let log = Log::read(program.stderr.take().expect("piped"));
        Server { program, control: path, address: String::new(), log }
    }

    /// Starts the fixture with `stderr` as its standard error, and waits until it is ready. Returns the supervisor, and
    /// the ids of its children.
    #[track_caller]
    pub(crate) fn start_with_log(how: &str, stderr: PipeWriter) -> (Child, Vec<i32>) {
        let path = temporary_path("control");
        fs::write(&path, "").expect("writing the control file");
        let mut program =
            fixture().arg(&path).arg(how).stdout(Stdio::piped()).stderr(stderr).spawn().expect("starting the server");
        let stdout = program.stdout.take().expect("piped");
        assert!(BufReader::new(stdout).read_line(&mut String::new()).expect("an announcement") > 0);
        let children = children_of(program.id().cast_signed());
        (program, children)
    }

    /// The standard error of the server's processes so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Changes the control file in one step, because the server's processes read it at any time.
    pub(crate) fn control(&self, words: &str) {
        let new = temporary_path("new-control");
        fs::write(&new, words).expect("writing the control file");
        fs::rename(&new, &self.control).expect("replacing the control file");
    }

    /// The process id of the supervisor.
    pub(crate) fn supervisor(&self) -> i32 {
        self.program.id().cast_signed()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: i32) {
        kill(self.supervisor(), signal);
    }

    /// Sends a signal to the supervisor, and waits until the log contains a text.
    #[track_caller]
    pub(crate) fn signal_until(&self, signal: i32, what: &str) {
        self.signal(signal);
        self.until_logged(what);
    }

    /// Connects, and sends a line.
    #[track_caller]
    pub(crate) fn say(&self, what: &str) -> TcpStream {
        let mut stream = self.connect();
        // A worker that is killed may have accepted the connection.
        let _is_closed = writeln!(stream, "{what}");
        stream
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> TcpStream {
        connect_tcp(&self.address)
    }

    /// Sends a line. Returns the answer, or `None` if the server closed the connection.
    #[track_caller]
    pub(crate) fn ask(&self, what: &str) -> Option<String> {
        let mut line = String::new();
        BufReader::new(self.say(what)).read_line(&mut line).ok().filter(|length| *length > 0)?;
        Some(line.trim().to_owned())
    }

    /// The process id of the worker that answers.
    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        self.ask("pid").expect("an answer").parse().expect("a process id")
    }

    /// The process id of the template that has forked the worker that answers.
    #[track_caller]
    pub(crate) fn template(&self) -> i32 {
        self.ask("data").expect("an answer").parse().expect("a process id")
    }

    /// Makes a worker ask for its replacement. Returns the worker's process id.
    #[track_caller]
    pub(crate) fn retire(&self) -> i32 {
        self.ask("retire").expect("an answer").parse().expect("a process id")
    }

    /// The children of the supervisor that have not ended.
    pub(crate) fn children(&self) -> Vec<i32> {
        children_of(self.supervisor())
    }

    /// The children of the supervisor except one of them, such as the template.
    pub(crate) fn children_except(&self, pid: i32) -> Vec<i32> {
        self.children().into_iter().filter(|child| *child != pid).collect()
    }

    /// Kills children of the supervisor, unless they have ended, and waits until the supervisor has reaped them. A
    /// server that is stopped earlier would exit with an error, because a worker was killed.
    #[track_caller]
    pub(crate) fn kill_children(&self, pids: &[i32]) {
        for pid in pids {
            let _ = try_kill(*pid, libc::SIGKILL);
        }
        wait_until("the supervisor has reaped the killed processes", || {
            let processes = processes();
            pids.iter().all(|pid| processes.get(pid).is_none_or(|process| process.parent != self.supervisor()))
        });
    }

    #[track_caller]
    pub(crate) fn until_logged(&self, what: &str) {
        self.until_logged_times(what, 1);
    }

    /// Waits until the log contains a text this many times.
    #[track_caller]
    pub(crate) fn until_logged_times(&self, what: &str, times: usize) {
        self.log.wait_for(what, times);
    }

    /// Waits for the end of the server. Returns its exit code and its log.
    #[track_caller]
    pub(crate) fn end(mut self) -> (i32, String) {
        let status = until("the server has ended", || self.program.try_wait().expect("waiting for the server"));
        self.log.wait_for_end();
        (status.code().expect("an exit code"), self.log())
    }

    /// Waits for the end of the server, which must have this exit code. Returns its log.
    #[track_caller]
    pub(crate) fn ends_with(self, exit_code: i32) -> String {
        let (code, log) = self.end();
        assert_eq!(code, exit_code, "{log}");
        log
    }

    /// Stops the server, which must exit with 0.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(libc::SIGTERM);
        self.ends_with(0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Workers end with their supervisor.
        let _has_ended = self.program.kill();
        let _ = self.program.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// Sends a line on a new connection. Returns the answer.
#[cfg(target_os = "linux")]
pub(crate) fn try_ask(address: &str, what: &str) -> std::io::Result<String> {
    let mut stream = forkio_tests::try_connect_tcp(address)?;
    writeln!(stream, "{what}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// The number that follows a word in a line.
#[track_caller]
pub(crate) fn number_after(line: &str, word: &str) -> i32 {
    let rest = line.split(word).nth(1).unwrap_or_else(|| panic!("no {word} in {line}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}
