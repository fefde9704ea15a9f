//! Gives a case to a tree of processes and to the model, and compares the results.

mod case;
mod choice;
mod operations;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use forkio_tests::{Program, limit};

use self::case::Case;
use crate::message::{Baseline, Command, Fd, Reply};
use crate::model::Model;
use crate::operation::Operation;

/// The most processes at a time.
const PROCESSES: usize = 5;
/// The most selectors of a process.
const SELECTORS: usize = 3;
/// The most sources of a process.
const SOURCES: usize = 14;
/// The most bytes, datagrams or connections that wait in one file, so that no buffer is ever full.
const WAITING: usize = 6;

/// The result of a step. The error says what is wrong, in a sentence.
type Outcome<T = ()> = Result<T, String>;

/// The kind of the first process of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    OneThread,
    TwoThreads,
    /// Children of unplanned forks reconcile at once.
    Handlers,
}

impl Root {
    pub(crate) const ALL: [Root; 3] = [Root::OneThread, Root::TwoThreads, Root::Handlers];

    /// The name, as an argument of a program.
    fn name(self) -> &'static str {
        match self {
            Root::OneThread => "one-thread",
            Root::TwoThreads => "two-threads",
            Root::Handlers => "handlers",
        }
    }
}

impl FromStr for Root {
    type Err = String;

    fn from_str(name: &str) -> Result<Root, String> {
        Root::ALL.into_iter().find(|root| root.name() == name).ok_or_else(|| format!("{name:?} is not a kind of tree"))
    }
}

/// A tree of processes.
#[derive(Debug)]
pub(crate) struct Driver {
    kind: Root,
    program: Program,
    directory: Directory,
    control: UnixListener,
    tcp: TcpListener,
    unix: UnixListener,
    udp: UdpSocket,
    root: Link,
    /// The processes that have been made since the last case, except the root. The root has not waited for them yet.
    children: Vec<i32>,
    baseline: Baseline,
    prepared_forks: usize,
}

/// A directory for sockets, removed on drop.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// The connection to a process.
#[derive(Debug)]
struct Link {
    stream: BufReader<UnixStream>,
    pid: i32,
    control: Fd,
}

impl Link {
    fn ask(&mut self, command: &Command) -> Outcome<Reply> {
        let mut line = serde_json::to_vec(command).map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| format!("process {} has ended: {error}", self.pid))?;
        self.answer()
    }

    fn answer(&mut self) -> Outcome<Reply> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(1..) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Ok(0) => Err(format!("process {} has ended", self.pid)),
            Err(error) => Err(format!("process {} does not answer: {error}", self.pid)),
        }
    }
}

/// The driver's side of a file in the tree: the peer of a connection, or the address of another socket.
#[derive(Debug)]
enum Outside {
    Tcp(TcpStream),
    Unix(UnixStream),
    TcpListener(String),
    UnixListener(String),
    Udp(String),
}

impl Outside {
    /// Receives a byte, or `None` at the end.
    fn receive(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let read = match self {
            Outside::Tcp(stream) => stream.read(&mut byte),
            Outside::Unix(stream) => stream.read(&mut byte),
            _ => return Ok(None),
        };
        match read {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(byte[0])),
            // The other end was closed with unread bytes.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Outside::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Outside::Unix(stream) => stream.set_nonblocking(nonblocking),
            _ => Ok(()),
        }
    }
}

impl Driver {
    /// Starts a tree of one process.
    pub(crate) fn start(kind: Root) -> Outcome<Driver> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("forkio-tree-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = Directory(std::env::temp_dir().join(name));
        let failed = |error: io::Error| format!("starting the tree: {error}");
        fs::create_dir(&directory.0).map_err(failed)?;
        let control = UnixListener::bind(directory.0.join("control")).map_err(failed)?;
        control.set_nonblocking(true).map_err(failed)?;
        let unix = UnixListener::bind(directory.0.join("peers")).map_err(failed)?;
        // Only this driver uses the address. Another program might connect to a port of 127.0.0.1.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = (Ipv4Addr::new(127, 64, high, low), 0);
        let tcp = TcpListener::bind(address).map_err(failed)?;
        let udp = UdpSocket::bind(address).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?.to_string();
        let program = Program::start("random::root", &[kind.name(), &directory.0.to_string_lossy(), &address]);
        let (_, mut root) = hello(&control)?;
        let baseline = reset(&mut root)?;
        let (children, prepared_forks) = (Vec::new(), 0);
        Ok(Driver { kind, program, directory, control, tcp, unix, udp, root, children, baseline, prepared_forks })
    }

    /// How many forks were prepared in advance.
    pub(crate) fn prepared_forks(&self) -> usize {
        self.prepared_forks
    }

    pub(crate) fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Runs a case. The error says what is wrong, and which steps led to it. After an error, the tree must not be used again.
    pub(crate) fn run(&mut self, operations: &[Operation]) -> Outcome {
        let mut case = Case {
            driver: self,
            model: Model::new(),
            children: BTreeMap::new(),
            outside: Vec::new(),
            ended: BTreeSet::new(),
            ahead: BTreeMap::new(),
            prepared: BTreeSet::new(),
            unaware: BTreeSet::new(),
            aware: BTreeSet::new(),
            clients: Vec::new(),
            steps: Vec::new(),
            counter: 0,
        };
        let result = case.run(operations);
        let steps = case.steps;
        result.map_err(|error| {
            let mut text = String::new();
            for step in steps {
                let _infallible = writeln!(text, "  {step}");
            }
            let _infallible = write!(text, "{error}");
            text
        })
    }

    pub(crate) fn stop(self) -> Outcome {
        drop(self.root);
        let (status, output) = self.program.finish();
        drop(self.directory);
        if status.success() { Ok(()) } else { Err(format!("the root: {status}\n{output}")) }
    }

    /// Kills all processes. Returns their standard error.
    pub(crate) fn kill(self) -> String {
        for pid in self.children {
            // SAFETY: no memory is involved. The root has not waited for the child, so the id is still the child's.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        self.program.kill()
    }
}

/// Waits for the greeting of a new process. Returns the process's number, and the connection to it.
fn hello(control: &UnixListener) -> Outcome<(usize, Link)> {
    let start = Instant::now();
    let stream = loop {
        match control.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < limit() => {
                std::thread::sleep(Duration::from_micros(50));
            }
            Err(error) => return Err(format!("no greeting from a new process: {error}")),
        }
    };
    stream.set_read_timeout(Some(limit())).map_err(|error| error.to_string())?;
    let mut link = Link { stream: BufReader::new(stream), pid: 0, control: 0 };
    match link.answer()? {
        Reply::Hello { child, pid, control } => Ok((child, Link { pid, control, ..link })),
        other => Err(format!("{other:?} instead of a greeting")),
    }
}

/// Makes the root drop everything. Returns the state of the root afterwards.
fn reset(root: &mut Link) -> Outcome<Baseline> {
    match root.ask(&Command::Reset)? {
        Reply::Baseline(baseline) => Ok(baseline),
        other => Err(format!("{other:?} instead of a baseline")),
    }
}
