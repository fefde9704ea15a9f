//! The server that the scenarios run.

use std::fs;
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use forkio_tests::{kill, limit, processes, wait_until};

/// A running fixture. It belongs to the process group of the scenario, so the harness finds processes that the fixture
/// leaves behind.
pub(crate) struct Server {
    program: Child,
    control: PathBuf,
    address: String,
    stderr: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// The command that runs the fixture.
pub(crate) fn fixture() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fixture-supervisor"))
}

/// A path in the temporary directory that only this scenario uses.
pub(crate) fn own_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("forkio-supervisor-{}-{name}", std::process::id()))
}

impl Server {
    /// Starts the fixture with these arguments, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(how: &[&str]) -> Server {
        Server::start_as(&mut fixture(), how)
    }

    /// Starts the fixture with a command that has an environment of its own, and waits until it is ready.
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
        let path = own_path("control");
        fs::write(&path, control).expect("writing the control file");
        let command = command.arg(&path).args(how).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = command.spawn().expect("starting the server");
        let mut pipe = program.stderr.take().expect("piped");
        let stderr = Arc::new(Mutex::new(String::new()));
        let log = Arc::clone(&stderr);
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Server { program, control: path, address: String::new(), stderr, reader }
    }

    /// Starts the fixture with another standard error, and waits until it is ready. Returns it with its children.
    #[track_caller]
    pub(crate) fn start_with_log(how: &str, stderr: PipeWriter) -> (Child, Vec<i32>) {
        let path = own_path("control");
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
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the control file in one step, because the server's processes read it at any time.
    pub(crate) fn control(&self, words: &str) {
        let new = own_path("new-control");
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
        let stream = TcpStream::connect(&self.address).expect("connecting");
        stream.set_read_timeout(Some(limit())).expect("a limit");
        stream
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

    /// The children of the supervisor that have not ended.
    pub(crate) fn children(&self) -> Vec<i32> {
        children_of(self.supervisor())
    }

    /// Kills children of the supervisor, and waits until it has reaped them. A stop before that would fail, because of a worker
    /// that was killed.
    #[track_caller]
    pub(crate) fn kill_children(&self, pids: &[i32]) {
        for pid in pids {
            kill(*pid, libc::SIGKILL);
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
        wait_until(&format!("{what:?} is logged"), || self.log().matches(what).count() >= times);
    }

    /// Waits for the end of the server. Returns its exit code and its log.
    #[track_caller]
    pub(crate) fn end(mut self) -> (i32, String) {
        let mut status = None;
        wait_until("the server has ended", || {
            status = self.program.try_wait().expect("waiting for the server");
            status.is_some()
        });
        // The log ends once every process that holds the pipe has ended.
        wait_until("the whole log is read", || self.reader.is_finished());
        let log = self.log();
        (status.and_then(|status| status.code()).expect("an exit code"), log)
    }

    /// Stops the server, which must exit with 0.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(libc::SIGTERM);
        let (code, log) = self.end();
        assert_eq!(code, 0, "{log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Workers end with their supervisor.
        let _has_ended = self.program.kill();
        let _ = self.program.wait();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// Sends a line on a new connection. Returns the answer.
pub(crate) fn try_ask(address: &str, what: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit()))?;
    writeln!(stream, "{what}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// The children of a process that have not ended.
fn children_of(parent: i32) -> Vec<i32> {
    let children = processes().into_values().filter(|child| child.parent == parent && !child.has_ended());
    children.map(|child| child.pid).collect()
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) {
    let _is_gone = fs::remove_file(path);
}

/// The number that follows a word in a line.
#[track_caller]
pub(crate) fn number_after(line: &str, word: &str) -> i32 {
    let rest = line.split(word).nth(1).unwrap_or_else(|| panic!("no {word} in {line}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}
