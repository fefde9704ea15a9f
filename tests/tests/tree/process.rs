//! A process of the tree. It carries out the driver's commands, and reports its own state.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use forkio_reactor::fork::{self, ForkResult};
use forkio_reactor::{Events, Poll, Token, Waker};
use forkio_tests::{limit, open_descriptors, unplanned, watched_descriptors};

use crate::convert::{event, from_kind, from_policy, interest, to_kind, to_policy};
use crate::memory::{BLOCKS, BYTES};
use crate::message::{Arrival, Baseline, Command, Fd, Kind, Policy, Registration, Reply, Report};
use crate::sources::{Source, is_eventfd, put};

/// The lowest descriptor for a connection to the driver. The sources of the cases take lower ones.
const CONTROL: RawFd = 400;

/// Carries out the commands of the driver whose sockets are in `directory`. Ends when the driver closes the connection or
/// tells the process to exit.
pub(crate) fn run(directory: &Path, tcp_peers: &str) {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let mut process = Process {
        control: Control::connect(directory).expect("connecting to the driver"),
        directory: directory.to_owned(),
        tcp_peers: tcp_peers.to_owned(),
        selectors: Vec::new(),
        slots: Vec::new(),
    };
    let hello = process.control.hello(0);
    process.control.send(&hello);
    while let Some(command) = process.control.receive() {
        let reply = match process.execute(command) {
            Ok(reply) => reply,
            Err(error) => Reply::Failed { kind: format!("{:?}", error.kind()), text: error.to_string() },
        };
        process.control.send(&reply);
    }
}

/// The connection to the driver. Each process has its own.
struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    fn connect(directory: &Path) -> io::Result<Control> {
        let stream = OwnedFd::from(UnixStream::connect(directory.join("control"))?);
        // SAFETY: the result is a new descriptor, or the call failed.
        let stream = unsafe {
            let high = libc::fcntl(stream.as_raw_fd(), libc::F_DUPFD_CLOEXEC, CONTROL);
            if high < 0 {
                return Err(io::Error::last_os_error());
            }
            UnixStream::from_raw_fd(high)
        };
        Ok(Control { stream: BufReader::new(stream) })
    }

    /// The greeting of a new process.
    fn hello(&self, child: usize) -> Reply {
        Reply::Hello { child, pid: std::process::id().cast_signed(), control: self.stream.get_ref().as_raw_fd() }
    }

    /// Receives a command, or `None` if the driver has closed the connection.
    fn receive(&mut self) -> Option<Command> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(1..) => Some(serde_json::from_str(&line).expect("a command")),
            _ => None,
        }
    }

    fn send(&mut self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).expect("a reply");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).expect("answering the driver");
    }
}

pub(crate) struct Process {
    control: Control,
    pub(crate) directory: PathBuf,
    /// The address of the driver's listener.
    pub(crate) tcp_peers: String,
    pub(crate) selectors: Vec<Option<Poll>>,
    pub(crate) slots: Vec<Option<Source>>,
}

impl Process {
    fn execute(&mut self, command: Command) -> io::Result<Reply> {
        match command {
            Command::NewSelector { selector } => {
                let poll = Poll::new()?;
                let fds = vec![poll.as_raw_fd()];
                put(&mut self.selectors, selector, poll);
                return Ok(Reply::Opened { fds, address: String::new() });
            }
            Command::DropSelector { selector } => drop(self.selectors[selector].take()),
            Command::Open { slot, object } => return self.open(slot, object),
            Command::NewWaker { slot, selector, token } => {
                let poll = self.selectors[selector].as_ref().expect("a selector");
                let waker = Waker::new(poll.registry(), Token(token))?;
                let registrations = fork::registrations();
                let own = registrations.iter().filter(|registration| registration.token == Token(token));
                let fds = own.map(|registration| registration.fd).collect();
                put(&mut self.slots, slot, Source::Waker(waker));
                return Ok(Reply::Opened { fds, address: String::new() });
            }
            Command::Duplicate { slot, into } => {
                // SAFETY: the slot's source has the descriptor open.
                let duplicate = unsafe { BorrowedFd::borrow_raw(self.fd(slot)) }.try_clone_to_owned()?;
                let fds = vec![duplicate.as_raw_fd()];
                put(&mut self.slots, into, Source::Bare(duplicate));
                return Ok(Reply::Opened { fds, address: String::new() });
            }
            Command::TakeFd { slot } => {
                let bare = self.slots[slot].take().expect("a source").into_fd();
                self.slots[slot] = Some(Source::Bare(bare));
            }
            Command::Close { slot } => drop(self.slots[slot].take()),
            Command::Register { selector, target, token, wanted, policy } => {
                let registry = self.registry(selector)?;
                let (token, interest) = (Token(token), interest(wanted));
                self.with(target, |source| match policy {
                    Some(policy) => registry.register_with_policy(source, token, interest, to_policy(policy)),
                    None => registry.register(source, token, interest),
                })?;
            }
            Command::Reregister { selector, target, token, wanted } => {
                let registry = self.registry(selector)?;
                self.with(target, |source| registry.reregister(source, Token(token), interest(wanted)))?;
            }
            Command::Deregister { selector, target } => {
                let registry = self.registry(selector)?;
                self.with(target, |source| registry.deregister(source))?;
            }
            Command::SetPolicy { fd, policy } => {
                fork::set_policy(&fd, to_policy(policy))?;
                assert_eq!(fork::policy(&fd), Some(to_policy(policy)), "the policy just set");
            }
            Command::SetDefault { kind, policy } => {
                fork::set_default_policy(to_kind(kind), to_policy(policy));
            }
            Command::Mute { fd } => fork::glue::mute(&fd)?,
            Command::Unmute { fd } => fork::glue::unmute(&fd)?,
            Command::Wake { slot } => match self.slots[slot].as_ref() {
                Some(Source::Waker(waker)) => waker.wake()?,
                _ => panic!("no waker in slot {slot}"),
            },
            Command::Arm { slot, due } => self.arm(slot, due)?,
            Command::Accept { slot } => match self.slots[slot].as_ref() {
                Some(Source::TcpListener(listener)) => drop(listener.accept()?),
                Some(Source::UnixListener(listener)) => drop(listener.accept()?),
                _ => panic!("no listener in slot {slot}"),
            },
            Command::Read { slot, most } => {
                if let Some(Source::Timer(timer)) = self.slots[slot].as_mut() {
                    return Ok(Reply::Bytes(timer.expirations()?.to_ne_bytes().to_vec()));
                }
                let mut bytes = vec![0; most];
                let read = self.file(slot).read(&mut bytes)?;
                bytes.truncate(read);
                return Ok(Reply::Bytes(bytes));
            }
            Command::Write { slot, byte } => {
                let is_counter = matches!(self.slots[slot], Some(Source::Bare(_))) && is_eventfd(self.fd(slot));
                let one = 1_u64.to_ne_bytes();
                let written = self.file(slot).write(if is_counter { &one } else { std::slice::from_ref(&byte) })?;
                assert_eq!(written, if is_counter { 8 } else { 1 }, "bytes written");
            }
            Command::Poll { selector, capacity, millis } => {
                let mut events = Events::with_capacity(capacity);
                let poll = self.selectors[selector].as_mut().expect("a selector");
                poll.poll(&mut events, Some(Duration::from_millis(millis)))?;
                return Ok(Reply::Events(events.iter().map(event).collect()));
            }
            Command::Settle { fd, until } => settle(fd, until)?,
            Command::Report => return Ok(Reply::Report(self.report())),
            Command::PrepareAhead => {
                if let Err(error) = fork::prepare_ahead() {
                    let object = format!("{:?}", error.object());
                    return Ok(Reply::Refused { object, text: error.to_string() });
                }
            }
            Command::Fork { child, unplanned: true } => {
                if unplanned::fork().is_none() {
                    self.control = Control::connect(&self.directory)?;
                    return Ok(self.control.hello(child));
                }
            }
            Command::Fork { child, unplanned: false } => {
                // SAFETY: a second thread, if there is one, only parks. It holds no lock.
                match unsafe { fork::fork() } {
                    Ok(ForkResult::Parent { .. }) => {}
                    Ok(ForkResult::Child) => {
                        self.control = Control::connect(&self.directory)?;
                        return Ok(self.control.hello(child));
                    }
                    Err(error) => {
                        let object = match &error {
                            fork::Error::Prepare(error) => format!("{:?}", error.object()),
                            _ => String::new(),
                        };
                        return Ok(Reply::Refused { object, text: error.to_string() });
                    }
                }
            }
            Command::Exit => {
                self.control.send(&Reply::Done);
                // SAFETY: the call ends the process at once and touches no memory of it.
                unsafe { libc::_exit(0) };
            }
            Command::Reset => return Ok(Reply::Baseline(self.reset())),
        }
        Ok(Reply::Done)
    }

    fn report(&self) -> Report {
        let watched = self.selectors.iter().flatten().map(|poll| {
            let fd = poll.as_raw_fd();
            (fd, watched_descriptors(fd).expect("a list of an epoll instance"))
        });
        let registrations = fork::registrations().into_iter().map(|registration| Registration {
            selector: registration.selector,
            fd: registration.fd,
            token: registration.token.0,
            readable: registration.interest.is_readable(),
            writable: registration.interest.is_writable(),
            kind: registration.kind.map(from_kind),
            policy: from_policy(registration.policy),
            muted: registration.muted,
        });
        Report {
            generation: fork::generation(),
            selectors: fork::glue::selector_count(),
            registrations: registrations.collect(),
            watched: watched.collect(),
            descriptors: open_descriptors(),
            ahead: fork::glue::is_prepared_ahead(),
        }
    }

    /// Drops everything, and waits for all children. Returns the state afterwards.
    fn reset(&mut self) -> Baseline {
        self.slots = Vec::new();
        self.selectors = Vec::new();
        for kind in KINDS {
            fork::set_default_policy(to_kind(kind), to_policy(default_policy(kind)));
        }
        let mut children_failed = Vec::new();
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes the status.
            match unsafe { libc::waitpid(-1, &mut status, 0) } {
                ..0 => break,
                _ if status == 0 => {}
                pid => children_failed.push(format!("process {pid}: status {status}")),
            }
        }
        let resident = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: usize = resident.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        Baseline {
            descriptors: open_descriptors(),
            registrations: fork::registrations().len(),
            selectors: fork::glue::selector_count(),
            children_failed,
            blocks: BLOCKS.load(Ordering::Relaxed).unsigned_abs(),
            bytes: BYTES.load(Ordering::Relaxed).unsigned_abs(),
            resident_kib: pages * 4,
        }
    }
}

/// Waits until a descriptor is readable, has enough unread bytes, or is at its end.
pub(crate) fn settle(fd: Fd, until: Arrival) -> io::Result<()> {
    let start = Instant::now();
    while start.elapsed() < limit() {
        let wanted = match until {
            Arrival::Readable | Arrival::Bytes(_) => libc::POLLIN,
            Arrival::End => libc::POLLRDHUP,
        };
        let mut poll = libc::pollfd { fd, events: wanted, revents: 0 };
        // SAFETY: the kernel writes `revents`.
        if unsafe { libc::poll(&mut poll, 1, 100) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let arrived = match until {
            Arrival::Bytes(bytes) => fork::glue::pending_bytes(&fd)? >= bytes,
            Arrival::Readable | Arrival::End => poll.revents & wanted != 0,
        };
        if arrived {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("no {until:?} at descriptor {fd} within {:?}", limit())))
}

/// The kinds whose defaults a case may change.
pub(crate) const KINDS: [Kind; 7] =
    [Kind::Listener, Kind::Datagram, Kind::Stream, Kind::Pipe, Kind::Pair, Kind::Timer, Kind::Other];

/// The default of a kind at the start of a case.
pub(crate) fn default_policy(kind: Kind) -> Policy {
    if matches!(kind, Kind::Waker | Kind::Timer) { Policy::Renew } else { Policy::Inherit }
}
