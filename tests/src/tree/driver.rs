//! Gives a case to a tree of processes and to the model, and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::message::{Arrival, Command, Event, Fd, Kind, Object, Policy, Reply, Rest, Target, Wanted};
use super::model::{Expected, File, Fork, Form, Model, Pid, Polled, SelectorId, Slot, SlotId, Sort};
use super::operation::{Act, Operation};
use crate::{Fixture, LIMIT};

/// More processes than this at a time find nothing more.
const PROCESSES: usize = 5;
const SELECTORS: usize = 3;
const SOURCES: usize = 14;
/// How much may wait in one file, so that none is ever full.
const WAITING: usize = 6;

/// What is wrong, in a sentence.
type Outcome<T = ()> = Result<T, String>;

/// What a tree's first process is like, and so are all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// It has one thread.
    Alone,
    /// The first one has a second thread.
    WithThread,
    /// Forks by others are prepared too.
    WithHandlers,
}

impl Root {
    /// All there are.
    pub const ALL: [Root; 3] = [Root::Alone, Root::WithThread, Root::WithHandlers];

    /// As the fixture's first argument.
    pub fn role(self) -> &'static str {
        match self {
            Root::Alone => "root",
            Root::WithThread => "root-with-thread",
            Root::WithHandlers => "root-with-handlers",
        }
    }
}

/// A tree, from its first process on.
#[derive(Debug)]
pub struct Driver {
    kind: Root,
    fixture: Fixture,
    directory: Directory,
    control: UnixListener,
    tcp: TcpListener,
    unix: UnixListener,
    udp: UdpSocket,
    root: Link,
    /// What the root has at rest.
    at_rest: Rest,
    forks_ahead: usize,
}

/// A directory for sockets, gone with the driver.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// A process, as the driver talks to it.
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
        self.stream.get_mut().write_all(&line).map_err(|error| format!("process {} is gone: {error}", self.pid))?;
        self.answer()
    }

    fn answer(&mut self) -> Outcome<Reply> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(1..) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Ok(0) => Err(format!("process {} is gone", self.pid)),
            Err(error) => Err(format!("process {} does not answer: {error}", self.pid)),
        }
    }
}

/// What the driver has of a file in the tree.
#[derive(Debug)]
enum Outside {
    Tcp(TcpStream),
    Unix(UnixStream),
    TcpListener(String),
    UnixListener(String),
    Udp(String),
}

impl Outside {
    /// A byte; `None`: the end.
    fn receive(&mut self) -> std::io::Result<Option<u8>> {
        let mut byte = [0];
        let read = match self {
            Outside::Tcp(stream) => stream.read(&mut byte),
            Outside::Unix(stream) => stream.read(&mut byte),
            _ => return Ok(None),
        };
        match read {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(byte[0])),
            // Closed with something unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> std::io::Result<()> {
        match self {
            Outside::Tcp(stream) => stream.set_nonblocking(nonblocking),
            Outside::Unix(stream) => stream.set_nonblocking(nonblocking),
            _ => Ok(()),
        }
    }
}

impl Driver {
    /// Starts a tree of one process.
    ///
    /// # Errors
    ///
    /// What could not be done.
    pub fn start(program: &Path, kind: Root) -> Outcome<Driver> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("forkio-tree-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = Directory(std::env::temp_dir().join(name));
        let failed = |error: std::io::Error| format!("starting the tree: {error}");
        fs::create_dir(&directory.0).map_err(failed)?;
        let control = UnixListener::bind(directory.0.join("control")).map_err(failed)?;
        control.set_nonblocking(true).map_err(failed)?;
        let unix = UnixListener::bind(directory.0.join("peers")).map_err(failed)?;
        // An address of its own, which no other program connects to because it takes a port for one that it knew.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = (std::net::Ipv4Addr::new(127, 64, high, low), 0);
        let tcp = TcpListener::bind(address).map_err(failed)?;
        let udp = UdpSocket::bind(address).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?.to_string();
        let program = program.to_string_lossy();
        let fixture = Fixture::start(&program, &[kind.role(), &directory.0.to_string_lossy(), &address]);
        let (_, mut root) = hello(&control)?;
        let at_rest = rest(&mut root)?;
        Ok(Driver { kind, fixture, directory, control, tcp, unix, udp, root, at_rest, forks_ahead: 0 })
    }

    /// How many forks have followed a plan that was made ahead.
    pub fn forks_ahead(&self) -> usize {
        self.forks_ahead
    }

    /// What the root has when nothing is open.
    pub fn at_rest(&self) -> &Rest {
        &self.at_rest
    }

    /// Runs a case.
    ///
    /// # Errors
    ///
    /// What is wrong, and the steps that led to it. The tree is of no use then.
    pub fn run(&mut self, operations: &[Operation]) -> Outcome {
        let mut case = Case {
            driver: self,
            model: Model::new(),
            children: BTreeMap::new(),
            outside: Vec::new(),
            ended: BTreeSet::new(),
            ahead: BTreeMap::new(),
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

    /// Ends the tree.
    ///
    /// # Errors
    ///
    /// The root has not ended well.
    pub fn stop(self) -> Outcome {
        drop(self.root);
        let (status, output) = self.fixture.finish();
        drop(self.directory);
        if status.success() { Ok(()) } else { Err(format!("the root: {status}\n{output}")) }
    }

    /// What the processes have written, once they are ended by force.
    pub fn wreck(self) -> String {
        let Driver { fixture, root, .. } = self;
        drop(root);
        fixture.wreck()
    }
}

/// The greeting of a process that was just made.
fn hello(control: &UnixListener) -> Outcome<(usize, Link)> {
    let start = Instant::now();
    let stream = loop {
        match control.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < LIMIT => {
                std::thread::sleep(Duration::from_micros(50));
            }
            Err(error) => return Err(format!("a new process does not come forward: {error}")),
        }
    };
    stream.set_read_timeout(Some(LIMIT)).map_err(|error| error.to_string())?;
    let mut link = Link { stream: BufReader::new(stream), pid: 0, control: 0 };
    match link.answer()? {
        Reply::Hello { child, pid, control } => Ok((child, Link { pid, control, ..link })),
        other => Err(format!("{other:?} in place of a greeting")),
    }
}

fn rest(root: &mut Link) -> Outcome<Rest> {
    match root.ask(&Command::Rest)? {
        Reply::AtRest(rest) => Ok(rest),
        other => Err(format!("{other:?} in place of what is left")),
    }
}

/// A case under way.
struct Case<'a> {
    driver: &'a mut Driver,
    model: Model,
    /// All living processes but the root.
    children: BTreeMap<Pid, Link>,
    outside: Vec<Outside>,
    /// Connections whose end the driver has seen.
    ended: BTreeSet<usize>,
    /// Whether a process must have, or must not have, something prepared for its next fork.
    ahead: BTreeMap<Pid, bool>,
    /// Connections to listeners.
    clients: Vec<Outside>,
    steps: Vec<String>,
    /// Tokens, places and bytes: all are used once.
    counter: usize,
}

impl Case<'_> {
    fn run(&mut self, operations: &[Operation]) -> Outcome {
        // Something to begin with.
        self.new_selector(0)?;
        self.new_waker(0, 0)?;
        for operation in operations {
            let living: Vec<Pid> = self.model.processes.keys().copied().collect();
            let pid = living[usize::from(operation.process) % living.len()];
            self.act(pid, &operation.act)?;
        }
        self.touch_all()?;
        self.end()
    }

    fn act(&mut self, pid: Pid, act: &Act) -> Outcome {
        if act.may_change_plans() {
            self.ahead.remove(&pid);
        }
        match act {
            Act::NewSelector => self.new_selector(pid),
            Act::DropSelector { selector } => {
                let Some(selector) = self.selector(pid, *selector) else { return Ok(()) };
                self.tell(pid, &Command::DropSelector { selector })?;
                self.model.drop_selector(pid, selector);
                Ok(())
            }
            Act::Open { object } => self.open(pid, *object),
            Act::NewWaker { selector } => match self.selector(pid, *selector) {
                Some(selector) => self.new_waker(pid, selector),
                None => Ok(()),
            },
            Act::Duplicate { source, of_pair } => {
                // What is done to a timer by another number a fork does not know of.
                let is_fit = |slot: Slot, file: &File| !slot.is_timer() && (!of_pair || file.is_stream_end());
                let slot = self.source(pid, *source, is_fit);
                let Some(slot) = slot.filter(|_| self.has_room(pid)) else { return Ok(()) };
                let into = self.next();
                let fds = self.opened(pid, &Command::Duplicate { slot, into })?.0;
                self.model.duplicate(pid, slot, into, fds[0]);
                Ok(())
            }
            Act::GiveAway { source } => {
                let Some(slot) = self.source(pid, *source, |slot, _| !slot.is_timer()) else { return Ok(()) };
                self.tell(pid, &Command::GiveAway { slot })?;
                self.model.give_away(pid, slot);
                Ok(())
            }
            Act::Close { source } => self.close(pid, *source),
            Act::Register { selector, source, any, by_number, wanted, policy } => {
                let Some((selector, slot)) = self.both(pid, *selector, *source, (!any).then_some(false)) else {
                    return Ok(());
                };
                let (target, own, fd) = self.target(pid, slot, *by_number);
                let (token, wanted) = (self.next(), self.possible(pid, slot, *wanted));
                let command = Command::Register { selector, target, token, wanted, policy: *policy };
                let result = self.attempt(pid, &command)?;
                let expected = self.model.register(pid, selector, fd, own, token, wanted, *policy);
                self.compare(result, expected)
            }
            Act::Reregister { selector, source, any, by_number, wanted } => {
                let Some((selector, slot)) = self.both(pid, *selector, *source, (!any).then_some(true)) else {
                    return Ok(());
                };
                let (target, own, fd) = self.target(pid, slot, *by_number);
                let (token, wanted) = (self.next(), self.possible(pid, slot, *wanted));
                let result = self.attempt(pid, &Command::Reregister { selector, target, token, wanted })?;
                let expected = self.model.reregister(pid, selector, fd, own, token, wanted);
                self.compare(result, expected)
            }
            Act::Deregister { selector, source, any, by_number } => {
                let Some((selector, slot)) = self.both(pid, *selector, *source, (!any).then_some(true)) else {
                    return Ok(());
                };
                let (target, own, fd) = self.target(pid, slot, *by_number);
                let result = self.attempt(pid, &Command::Deregister { selector, target })?;
                let expected = self.model.deregister(pid, selector, fd, own);
                self.compare(result, expected)
            }
            Act::SetPolicy { source, any, policy } => match self.sound(pid, *source, *any) {
                Some(fd) => self.set_policy(pid, fd, *policy),
                None => Ok(()),
            },
            Act::RenewPair { source } => {
                let is_fit = |slot: Slot, file: &File| file.is_stream_end() && self.is_registered(pid, slot.fd);
                let slot = self.source(pid, *source, is_fit);
                match slot.map(|slot| self.model.process(pid).slots[&slot].fd) {
                    Some(fd) => self.set_policy(pid, fd, Policy::Renew),
                    None => Ok(()),
                }
            }
            Act::SetDefault { kind, policy } => {
                self.tell(pid, &Command::SetDefault { kind: *kind, policy: *policy })?;
                self.model.set_default(pid, *kind, *policy);
                Ok(())
            }
            Act::Mute { source, any } => {
                let Some(fd) = self.sound(pid, *source, *any) else { return Ok(()) };
                let result = self.attempt(pid, &Command::Mute { fd })?;
                let expected = self.model.mute(pid, fd);
                self.compare(result, expected)
            }
            Act::Unmute { source } => {
                let is_muted = |fd| self.model.process(pid).is_muted(fd) && !self.model.process(pid).is_stale(fd);
                let slot = self.source(pid, *source, |slot, _| is_muted(slot.fd));
                let Some(fd) = slot.map(|slot| self.model.process(pid).slots[&slot].fd) else { return Ok(()) };
                let result = self.attempt(pid, &Command::Unmute { fd })?;
                let expected = self.model.unmute(pid, fd);
                self.compare(result, expected)
            }
            Act::Wake { source } => {
                let wakers =
                    self.model.process(pid).slots.iter().filter(|(_, slot)| matches!(slot.form, Form::Waker(_)));
                match pick(wakers.map(|(id, _)| *id).collect(), *source) {
                    Some(slot) => self.wake(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Arm { source, due } => {
                let Some(slot) = self.source(pid, *source, |_, file| file.sort == Sort::Timerfd) else { return Ok(()) };
                self.tell(pid, &Command::Arm { slot, due: *due })?;
                self.model.arm(pid, slot, *due);
                Ok(())
            }
            Act::Accept { source } => {
                let is_listener = |slot: Slot, _: &File| matches!(slot.form, Form::Typed { kind: Kind::Listener, .. });
                match self.source(pid, *source, is_listener) {
                    Some(slot) => self.accept(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Read { source, most } => {
                let is_readable = |_: Slot, file: &File| {
                    !matches!(file.sort, Sort::TcpListener { .. } | Sort::UnixListener { .. } | Sort::PipeWriter { .. })
                };
                match self.source(pid, *source, is_readable) {
                    Some(slot) => self.read(pid, slot, (*most).into()),
                    None => Ok(()),
                }
            }
            Act::Write { source } => match self.source(pid, *source, |_, file| self.model.has_room(file, WAITING)) {
                Some(slot) => self.write(pid, slot),
                None => Ok(()),
            },
            Act::Send { source } => {
                let is_reachable = |_: Slot, file: &File| file.outside().is_some() && file.incoming.len() < WAITING;
                match self.source(pid, *source, is_reachable).filter(|slot| !self.model.is_shut(pid, *slot)) {
                    Some(slot) => self.send(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Shut { source } => {
                let is_stream =
                    |_: Slot, file: &File| matches!(file.sort, Sort::TcpStream { .. } | Sort::UnixStream { .. });
                match self.source(pid, *source, is_stream).filter(|slot| !self.model.is_shut(pid, *slot)) {
                    Some(slot) => self.shut(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Poll { selector, capacity } => match self.selector(pid, *selector) {
                Some(selector) => self.poll(pid, selector, (*capacity).into()),
                None => Ok(()),
            },
            Act::Look => self.look(pid),
            Act::PrepareAhead => self.prepare_ahead(pid),
            Act::Fork { foreign } => self.fork(pid, *foreign),
            Act::Exit if pid != 0 => self.exit(pid),
            Act::Exit => Ok(()),
        }
    }

    fn new_selector(&mut self, pid: Pid) -> Outcome {
        if self.model.process(pid).selectors.len() < SELECTORS {
            let selector = self.next();
            let fds = self.opened(pid, &Command::NewSelector { selector })?.0;
            self.model.new_selector(pid, selector, fds[0]);
        }
        Ok(())
    }

    fn new_waker(&mut self, pid: Pid, selector: SelectorId) -> Outcome {
        if self.has_room(pid) {
            let (slot, token) = (self.next(), self.next());
            let fds = self.opened(pid, &Command::NewWaker { slot, selector, token })?.0;
            let [fd] = fds[..] else { return Err(format!("the waker is registered {} times", fds.len())) };
            self.model.new_waker(pid, slot, selector, fd, token);
        }
        Ok(())
    }

    fn open(&mut self, pid: Pid, object: Object) -> Outcome {
        if !self.has_room(pid) {
            return Ok(());
        }
        let slot = self.next();
        // For the second one of a pair.
        let _second = self.next();
        let (fds, address) = self.opened(pid, &Command::Open { slot, object })?;
        let outside = self.outside.len();
        let typed = |kind| Form::Typed { kind, with: None };
        let (form, sort) = match object {
            Object::TcpListener => {
                self.outside.push(Outside::TcpListener(address));
                (typed(Kind::Listener), Sort::TcpListener { outside })
            }
            Object::UnixListener => {
                self.outside.push(Outside::UnixListener(address));
                (typed(Kind::Listener), Sort::UnixListener { outside })
            }
            Object::Udp => {
                self.outside.push(Outside::Udp(address));
                (typed(Kind::Datagram), Sort::Udp { outside })
            }
            Object::TcpStream => {
                let (stream, _) = self.driver.tcp.accept().map_err(|error| error.to_string())?;
                // Each byte is to be a segment of its own.
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                stream.set_read_timeout(Some(LIMIT)).map_err(|error| error.to_string())?;
                self.outside.push(Outside::Tcp(stream));
                (typed(Kind::Stream), Sort::TcpStream { outside })
            }
            Object::UnixStream => {
                let (stream, _) = self.driver.unix.accept().map_err(|error| error.to_string())?;
                stream.set_read_timeout(Some(LIMIT)).map_err(|error| error.to_string())?;
                self.outside.push(Outside::Unix(stream));
                (typed(Kind::Stream), Sort::UnixStream { outside })
            }
            Object::StreamPair => {
                self.model.open_two(pid, slot, [fds[0], fds[1]], Kind::Pair, |_, other| Sort::StreamEnd { other });
                return Ok(());
            }
            Object::DatagramPair => {
                self.model.open_two(pid, slot, [fds[0], fds[1]], Kind::Pair, |_, other| Sort::DatagramEnd { other });
                return Ok(());
            }
            Object::Pipe => {
                self.model.open_two(pid, slot, [fds[0], fds[1]], Kind::Pair, |end, other| match end {
                    0 => Sort::PipeWriter { other },
                    _ => Sort::PipeReader { other },
                });
                return Ok(());
            }
            Object::Eventfd => (Form::Bare, Sort::Eventfd),
            Object::Timerfd => (Form::Bare, Sort::Timerfd),
            Object::Timer => (typed(Kind::Timer), Sort::Timerfd),
        };
        self.model.open(pid, slot, fds[0], form, sort);
        Ok(())
    }

    fn close(&mut self, pid: Pid, source: u8) -> Outcome {
        let ids = self.model.process(pid).slots.keys().copied().collect();
        let Some(slot) = pick(ids, source) else { return Ok(()) };
        if self.model.process(pid).must_deregister(self.model.process(pid).slots[&slot].fd, &self.model.files) {
            return Ok(());
        }
        self.tell(pid, &Command::Close { slot })?;
        let ended = self.model.close(pid, slot);
        self.see_ends(ended)
    }

    fn set_policy(&mut self, pid: Pid, fd: Fd, policy: Policy) -> Outcome {
        let result = self.attempt(pid, &Command::SetPolicy { fd, policy })?;
        let expected = self.model.set_policy(pid, fd, policy);
        self.compare(result, expected)
    }

    fn wake(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        self.tell(pid, &Command::Wake { slot })?;
        self.model.wake(pid, slot);
        Ok(())
    }

    fn accept(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let is_network = self.model.file(pid, slot).is_network();
        let expected = self.model.accept(pid, slot);
        let result = self.attempt_until(pid, &Command::Accept { slot }, is_network && expected.is_ok())?;
        self.compare(result.map(|_| ()), expected)
    }

    fn read(&mut self, pid: Pid, slot: SlotId, most: usize) -> Outcome {
        let file = self.model.file(pid, slot);
        let is_counter = matches!(file.sort, Sort::Eventfd | Sort::Timerfd);
        let is_late = file.is_late();
        let most = if is_counter { 8 } else { most };
        let expected = self.model.read(pid, slot, most);
        let result = self.attempt_until(pid, &Command::Read { slot, most }, is_late && expected.is_ok())?;
        let result = match result {
            Ok(Reply::Bytes(bytes)) => Ok(bytes),
            Ok(other) => return Err(format!("{other:?} in place of bytes")),
            Err(kind) => Err(kind),
        };
        self.compare(result, expected)
    }

    fn write(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let byte = self.next_byte();
        let result = self.attempt(pid, &Command::Write { slot, byte })?;
        let expected = self.model.write(pid, slot, byte);
        self.compare(result, expected.map(|_| ()))?;
        if let Ok(Some(outside)) = expected {
            match self.outside[outside].receive() {
                Ok(Some(received)) if received == byte => {}
                other => return Err(format!("{other:?} came out of a connection that got {byte}")),
            }
        }
        Ok(())
    }

    /// What is outside sends a byte, or connects.
    fn send(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let byte = self.next_byte();
        let file = self.model.file(pid, slot);
        let Some(outside) = file.outside() else { return Ok(()) };
        let before = file.incoming.len();
        let arrival = match file.sort {
            Sort::TcpStream { .. } => Some(Arrival::Bytes(before + 1)),
            Sort::TcpListener { .. } | Sort::Udp { .. } if before == 0 => Some(Arrival::Readable),
            _ => None,
        };
        let fd = self.model.process(pid).slots[&slot].fd;
        self.steps.push(format!("outside: send {byte} to descriptor {fd} of process {pid}"));
        let sent = match &mut self.outside[outside] {
            Outside::Tcp(stream) => stream.write_all(&[byte]),
            Outside::Unix(stream) => stream.write_all(&[byte]),
            Outside::Udp(address) => self.driver.udp.send_to(&[byte], &*address).map(|_| ()),
            Outside::TcpListener(address) => {
                TcpStream::connect(&*address).map(|stream| self.clients.push(Outside::Tcp(stream)))
            }
            Outside::UnixListener(path) => {
                UnixStream::connect(path).map(|stream| self.clients.push(Outside::Unix(stream)))
            }
        };
        sent.map_err(|error| format!("sending: {error}"))?;
        self.model.send(pid, slot, byte);
        match arrival {
            Some(until) => self.tell(pid, &Command::Settle { fd, until }),
            None => Ok(()),
        }
    }

    fn shut(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let file = self.model.file(pid, slot);
        let (Some(outside), is_network) = (file.outside(), file.is_network()) else { return Ok(()) };
        let fd = self.model.process(pid).slots[&slot].fd;
        self.steps.push(format!("outside: shut the peer of descriptor {fd} of process {pid}"));
        let shut = match &self.outside[outside] {
            Outside::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Outside::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            _ => Ok(()),
        };
        shut.map_err(|error| format!("shutting: {error}"))?;
        self.model.shut(pid, slot);
        if is_network { self.tell(pid, &Command::Settle { fd, until: Arrival::End }) } else { Ok(()) }
    }

    fn poll(&mut self, pid: Pid, selector: SelectorId, capacity: usize) -> Outcome {
        let start = Instant::now();
        let mut millis = 0;
        loop {
            let command = Command::Poll { selector, capacity, millis };
            let events: Vec<Event> = match self.ask(pid, &command)? {
                Reply::Events(events) => events,
                other => return Err(format!("{other:?} in place of events")),
            };
            match self.model.poll(pid, selector, capacity, &events)? {
                Polled::Well => return Ok(()),
                Polled::Late(tokens) if start.elapsed() > LIMIT => {
                    return Err(format!("waited {LIMIT:?} in vain for events of tokens {tokens:?}"));
                }
                Polled::Late(_) => millis = 100,
            }
        }
    }

    fn look(&mut self, pid: Pid) -> Outcome {
        let seen = match self.ask(pid, &Command::Look)? {
            Reply::Seen(seen) => seen,
            other => return Err(format!("{other:?} in place of what it sees")),
        };
        let process = self.model.process(pid);
        if (seen.generation, seen.selectors) != (process.generation, process.selectors.len()) {
            return Err(format!(
                "generation {} and {} selectors where {} and {} are due",
                seen.generation,
                seen.selectors,
                process.generation,
                process.selectors.len()
            ));
        }
        self.model.check_registrations(pid, &seen.registrations)?;
        for (id, selector) in &process.selectors {
            let due = self.model.watched(pid, *id);
            match seen.watched.iter().find(|(fd, _)| *fd == selector.fd) {
                Some((_, watched)) if *watched == due => {}
                other => return Err(format!("the kernel watches {other:?} where {due:?} are due")),
            }
        }
        if self.ahead.get(&pid).is_some_and(|ahead| *ahead != seen.ahead) {
            return Err(format!("something is prepared ahead: {}, where it is to be otherwise", seen.ahead));
        }
        // The standard ones, and what whoever started the tests has left open.
        let mut due: BTreeSet<Fd> = self.driver.at_rest.descriptors.iter().copied().collect();
        if let Some(child) = self.children.get(&pid) {
            due.remove(&self.driver.root.control);
            due.insert(child.control);
        }
        due.append(&mut process.descriptors());
        let open: BTreeSet<Fd> = seen.descriptors.into_iter().collect();
        if open == due || (seen.ahead && open.is_superset(&due)) {
            Ok(())
        } else {
            Err(format!("{open:?} are open where {due:?} are due"))
        }
    }

    fn prepare_ahead(&mut self, pid: Pid) -> Outcome {
        let is_done = match (self.ask(pid, &Command::PrepareAhead)?, self.model.clone().fork(pid, self.counter)) {
            // What would be refused may not be looked at before the fork.
            (Reply::Done, _) => true,
            (Reply::Refused { .. }, Fork::Refused(_)) => false,
            (reply, expected) => return Err(format!("{reply:?} where {expected:?} is due")),
        };
        self.ahead.insert(pid, is_done);
        self.look(pid)
    }

    fn fork(&mut self, pid: Pid, foreign: bool) -> Outcome {
        if self.model.processes.len() == PROCESSES {
            return Ok(());
        }
        let child = self.next();
        let before = self.model.clone();
        let expected = self.model.fork(pid, child);
        let was_ahead = if self.model.process(pid).selectors.is_empty() {
            // There was nothing to prepare, and a fork by others does not look.
            self.ahead.remove(&pid)
        } else {
            self.ahead.insert(pid, false)
        };
        self.driver.forks_ahead += usize::from(was_ahead == Some(true));
        self.ahead.insert(child, false);
        // A fork by others is not refused: its child does without selectors, which is another story.
        let foreign = foreign && self.driver.kind == Root::WithHandlers && expected == Fork::Made;
        match (self.ask(pid, &Command::Fork { child, foreign })?, expected) {
            (Reply::Done, Fork::Made) => {
                let (greeting, link) = hello(&self.driver.control)?;
                if greeting != child {
                    return Err(format!("process {greeting} comes forward where {child} was made"));
                }
                self.children.insert(child, link);
                self.look(child)?;
            }
            (Reply::Refused { object, .. }, Fork::Refused(fds)) => {
                if !fds.iter().any(|fd| [format!("Pair({fd})"), format!("Timer({fd})")].contains(&object)) {
                    return Err(format!("refused for {object}, where the descriptors {fds:?} cannot be renewed"));
                }
                // Nothing has changed.
                self.model = before;
            }
            (reply, expected) => return Err(format!("{reply:?} where {expected:?} is due")),
        }
        self.look(pid)
    }

    fn exit(&mut self, pid: Pid) -> Outcome {
        self.tell(pid, &Command::Exit)?;
        let link = self.children.remove(&pid).expect("a child");
        // Its descriptors are closed once it is a zombie.
        let start = Instant::now();
        while !crate::has_ended(link.pid) {
            if start.elapsed() > LIMIT {
                return Err(format!("process {pid} does not end"));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let ended = self.model.exit(pid);
        self.see_ends(ended)
    }

    /// Connections that nobody in the tree has open: their peers see the end.
    fn see_ends(&mut self, ended: Vec<usize>) -> Outcome {
        for outside in ended {
            self.steps.push(format!("outside: connection {outside} is at its end"));
            match self.outside[outside].receive() {
                Ok(None) => self.ended.insert(outside),
                other => return Err(format!("{other:?} where the end of the connection is due")),
            };
        }
        Ok(())
    }

    /// Does something to all that can be waited for, so that whoever does not get its event is found.
    fn touch_all(&mut self) -> Outcome {
        let slots: Vec<(Pid, SlotId)> = self
            .model
            .processes
            .iter()
            .flat_map(|(pid, process)| process.slots.keys().map(|slot| (*pid, *slot)))
            .collect();
        for (pid, slot) in slots {
            let file = self.model.file(pid, slot);
            match self.model.process(pid).slots[&slot].form {
                Form::Waker(_) => self.wake(pid, slot)?,
                _ if self.model.is_shut(pid, slot) || file.incoming.len() >= WAITING => {}
                _ if file.outside().is_some() => self.send(pid, slot)?,
                _ if self.model.has_room(file, WAITING) => self.write(pid, slot)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Looks at everything, ends all processes but the root, and looks at what that has left.
    fn end(&mut self) -> Outcome {
        let pids: Vec<Pid> = self.model.processes.keys().copied().collect();
        for pid in &pids {
            for selector in self.model.process(*pid).selectors.keys().copied().collect::<Vec<_>>() {
                self.poll(*pid, selector, 64)?;
            }
            self.look(*pid)?;
        }
        // In the order in which they were made, and the other way round.
        let children = pids.iter().copied().filter(|pid| *pid != 0);
        let children: Vec<Pid> =
            if self.counter.is_multiple_of(2) { children.collect() } else { children.rev().collect() };
        for pid in children {
            self.exit(pid)?;
        }
        self.look(0)?;
        for (index, outside) in self.outside.iter_mut().enumerate() {
            if matches!(outside, Outside::Tcp(_) | Outside::Unix(_)) && !self.ended.contains(&index) {
                outside.set_nonblocking(true).map_err(|error| error.to_string())?;
                match outside.receive() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => return Err(format!("{other:?} from connection {index}, which is open and idle")),
                }
            }
        }
        let left = rest(&mut self.driver.root)?;
        let at_rest = &self.driver.at_rest;
        if (left.registrations, left.selectors) != (0, 0)
            || left.descriptors != at_rest.descriptors
            || !left.children_failed.is_empty()
        {
            return Err(format!("left behind: {left:?}; before the case it was {at_rest:?}"));
        }
        self.driver.at_rest = left;
        Ok(())
    }

    fn ask(&mut self, pid: Pid, command: &Command) -> Outcome<Reply> {
        let link = match pid {
            0 => &mut self.driver.root,
            _ => self.children.get_mut(&pid).expect("a child"),
        };
        let reply = link.ask(command);
        let said = reply.as_ref().map_or_else(Clone::clone, |reply| format!("{reply:?}"));
        self.steps.push(format!("process {pid}: {command:?} -> {said}"));
        reply
    }

    /// For what cannot fail.
    fn tell(&mut self, pid: Pid, command: &Command) -> Outcome {
        match self.ask(pid, command)? {
            Reply::Done => Ok(()),
            other => Err(format!("{other:?} where nothing can fail")),
        }
    }

    fn opened(&mut self, pid: Pid, command: &Command) -> Outcome<(Vec<Fd>, String)> {
        match self.ask(pid, command)? {
            Reply::Opened { fds, address } => Ok((fds, address)),
            other => Err(format!("{other:?} where nothing can fail")),
        }
    }

    /// For what may fail: with which [`ErrorKind`], by name.
    fn attempt(&mut self, pid: Pid, command: &Command) -> Outcome<Result<(), String>> {
        Ok(self.attempt_until(pid, command, false)?.map(|_| ()))
    }

    /// Again and again, if `late`, while the network has not delivered yet.
    fn attempt_until(&mut self, pid: Pid, command: &Command, late: bool) -> Outcome<Result<Reply, String>> {
        let start = Instant::now();
        loop {
            match self.ask(pid, command)? {
                Reply::Failed { kind, .. } if late && kind == "WouldBlock" && start.elapsed() < LIMIT => {
                    self.steps.pop();
                    std::thread::sleep(Duration::from_micros(200));
                }
                Reply::Failed { kind, .. } => return Ok(Err(kind)),
                reply => return Ok(Ok(reply)),
            }
        }
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&self, result: Result<T, String>, expected: Expected<T>) -> Outcome {
        let expected = expected.map_err(|kind| format!("{kind:?}"));
        if result == expected { Ok(()) } else { Err(format!("{result:?} where {expected:?} is due")) }
    }

    fn next(&mut self) -> usize {
        self.counter += 1;
        self.counter - 1
    }

    fn next_byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn has_room(&self, pid: Pid) -> bool {
        self.model.process(pid).slots.len() < SOURCES
    }

    fn selector(&self, pid: Pid, index: u8) -> Option<SelectorId> {
        pick(self.model.process(pid).selectors.keys().copied().collect(), index)
    }

    /// One of the sources that are no wakers and fulfil `condition`.
    fn source(&self, pid: Pid, index: u8, condition: impl Fn(Slot, &File) -> bool) -> Option<SlotId> {
        let slots = self.model.process(pid).slots.iter();
        let fitting = slots
            .filter(|(id, slot)| !matches!(slot.form, Form::Waker(_)) && condition(**slot, self.model.file(pid, **id)));
        pick(fitting.map(|(id, _)| *id).collect(), index)
    }

    /// A selector, and a source that is registered there or not, as asked.
    fn both(&self, pid: Pid, selector: u8, source: u8, registered: Option<bool>) -> Option<(SelectorId, SlotId)> {
        let selector = self.selector(pid, selector)?;
        let process = self.model.process(pid);
        let slot = self.source(pid, source, |slot, _| {
            // Where a muted number stands, registering may find it taken or not.
            !process.is_muted_number(slot.fd)
                && registered.is_none_or(|registered| process.is_registered(selector, slot.fd) == registered)
        });
        Some((selector, slot?))
    }

    fn is_registered(&self, pid: Pid, fd: Fd) -> bool {
        let process = self.model.process(pid);
        process.selectors.keys().any(|selector| process.is_registered(*selector, fd)) && !process.is_stale(fd)
    }

    /// The number of a source that is registered. One that was closed and taken again while registered is not among them,
    /// because what is said of it then is said of either.
    fn sound(&self, pid: Pid, index: u8, any: bool) -> Option<Fd> {
        let is_sound = |fd| self.is_registered(pid, fd) || (any && !self.model.process(pid).is_stale(fd));
        let slot = self.source(pid, index, |slot, _| is_sound(slot.fd))?;
        Some(self.model.process(pid).slots[&slot].fd)
    }

    fn target(&self, pid: Pid, slot: SlotId, by_number: bool) -> (Target, Option<SlotId>, Fd) {
        let fd = self.model.process(pid).slots[&slot].fd;
        if by_number { (Target::Number(fd), None, fd) } else { (Target::Source(slot), Some(slot), fd) }
    }

    /// When a datagram socket can be written depends on more than is modelled.
    fn possible(&self, pid: Pid, slot: SlotId, wanted: Wanted) -> Wanted {
        match self.model.file(pid, slot).sort {
            Sort::DatagramEnd { .. } => Wanted::Readable,
            _ => wanted,
        }
    }
}

fn pick<T: Copy>(from: Vec<T>, index: u8) -> Option<T> {
    if from.is_empty() { None } else { Some(from[usize::from(index) % from.len()]) }
}
