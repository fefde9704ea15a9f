//! A process of the tree: does what the driver says, and reports what it sees.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use forkio_reactor::fork::{self, ForkError, ForkPolicy, ForkResult, SourceKind};
use forkio_reactor::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use forkio_reactor::unix::{Clock, SourceFd, Timer, pipe};
use forkio_reactor::{Events, Interest, Poll, Token, Waker};

use super::message::{
    Arrival, Command, Event, Fd, Kind, Look, Object, Policy, Readiness, Registration, Reply, Rest, Target, Wanted,
};
use crate::{LIMIT, foreign, open_descriptors, watched_descriptors};

/// Memory blocks in use, kept by the fixture's allocator.
pub static BLOCKS: AtomicIsize = AtomicIsize::new(0);
/// Bytes in use, kept by the fixture's allocator.
pub static BYTES: AtomicIsize = AtomicIsize::new(0);

/// Where connections to the driver are kept: out of the way of the numbers that a case uses again and again.
const CONTROL: RawFd = 400;

/// When timers that are not due are.
const YEAR: Duration = Duration::from_secs(31_536_000);

/// Obeys the driver whose sockets are in `directory` until it hangs up or says to exit.
pub fn obey(directory: &Path, tcp_peers: &str) {
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

/// The connection to the driver: each process has its own.
struct Control {
    stream: BufReader<StdUnixStream>,
}

impl Control {
    fn connect(directory: &Path) -> io::Result<Control> {
        let stream = OwnedFd::from(StdUnixStream::connect(directory.join("control"))?);
        // SAFETY: the result is a new descriptor, or the call failed.
        let stream = unsafe {
            let high = libc::fcntl(stream.as_raw_fd(), libc::F_DUPFD_CLOEXEC, CONTROL);
            if high < 0 {
                return Err(io::Error::last_os_error());
            }
            StdUnixStream::from_raw_fd(high)
        };
        Ok(Control { stream: BufReader::new(stream) })
    }

    /// The first words of a process.
    fn hello(&self, child: usize) -> Reply {
        Reply::Hello { child, pid: std::process::id().cast_signed(), control: self.stream.get_ref().as_raw_fd() }
    }

    /// `None`: the driver is gone.
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

struct Process {
    control: Control,
    directory: PathBuf,
    tcp_peers: String,
    selectors: Vec<Option<Poll>>,
    slots: Vec<Option<Source>>,
}

enum Source {
    TcpListener(TcpListener),
    UnixListener(UnixListener),
    TcpStream(TcpStream),
    UnixStream(UnixStream),
    Udp(UdpSocket),
    Datagram(UnixDatagram),
    Sender(pipe::Sender),
    Receiver(pipe::Receiver),
    Waker(Waker),
    Timer(Timer),
    Bare(OwnedFd),
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
                // SAFETY: the slot's source has it open.
                let duplicate =
                    unsafe { std::os::fd::BorrowedFd::borrow_raw(self.number(slot)) }.try_clone_to_owned()?;
                let fds = vec![duplicate.as_raw_fd()];
                put(&mut self.slots, into, Source::Bare(duplicate));
                return Ok(Reply::Opened { fds, address: String::new() });
            }
            Command::GiveAway { slot } => {
                let bare = self.slots[slot].take().expect("a source").give_away();
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
            Command::Mute { fd } => fork::mute(&fd)?,
            Command::Unmute { fd } => fork::unmute(&fd)?,
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
                let is_counter = matches!(self.slots[slot], Some(Source::Bare(_))) && is_eventfd(self.number(slot));
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
            Command::Look => return Ok(Reply::Seen(self.look())),
            Command::PrepareAhead => {
                if let Err(error) = fork::prepare_ahead() {
                    let object = format!("{:?}", error.object());
                    return Ok(Reply::Refused { object, text: error.to_string() });
                }
            }
            Command::Fork { child, foreign: true } => {
                if foreign::fork().is_none() {
                    self.control = Control::connect(&self.directory)?;
                    return Ok(self.control.hello(child));
                }
            }
            Command::Fork { child, foreign: false } => {
                // SAFETY: a second thread, where there is one, only waits for its end: it holds no lock.
                match unsafe { fork::fork() } {
                    Ok(ForkResult::Parent { .. }) => {}
                    Ok(ForkResult::Child) => {
                        self.control = Control::connect(&self.directory)?;
                        return Ok(self.control.hello(child));
                    }
                    Err(error) => {
                        let object = match &error {
                            ForkError::Prepare(error) => format!("{:?}", error.object()),
                            _ => String::new(),
                        };
                        return Ok(Reply::Refused { object, text: error.to_string() });
                    }
                }
            }
            Command::Exit => {
                self.control.send(&Reply::Done);
                // SAFETY: ends the process at once. No destructors, as after a crash.
                unsafe { libc::_exit(0) };
            }
            Command::Rest => return Ok(Reply::AtRest(self.rest())),
        }
        Ok(Reply::Done)
    }

    fn open(&mut self, slot: usize, object: Object) -> io::Result<Reply> {
        let mut any: SocketAddr = self.tcp_peers.parse().expect("an address");
        any.set_port(0);
        let mut address = String::new();
        let sources = match object {
            Object::TcpListener => {
                let listener = TcpListener::bind(any)?;
                address = listener.local_addr()?.to_string();
                vec![Source::TcpListener(listener)]
            }
            Object::UnixListener => {
                let path = self.directory.join(format!("listener-{}-{slot}", std::process::id()));
                // From a case before this one.
                let _none = fs::remove_file(&path);
                let listener = StdUnixListener::bind(&path)?;
                listener.set_nonblocking(true)?;
                address = path.to_string_lossy().into_owned();
                vec![Source::UnixListener(UnixListener::from_std(listener))]
            }
            Object::TcpStream => {
                let stream = std::net::TcpStream::connect(&self.tcp_peers)?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                vec![Source::TcpStream(TcpStream::from_std(stream))]
            }
            Object::UnixStream => {
                let stream = StdUnixStream::connect(self.directory.join("peers"))?;
                stream.set_nonblocking(true)?;
                vec![Source::UnixStream(UnixStream::from_std(stream))]
            }
            Object::Udp => {
                let socket = UdpSocket::bind(any)?;
                address = socket.local_addr()?.to_string();
                vec![Source::Udp(socket)]
            }
            Object::StreamPair => {
                let (a, b) = UnixStream::pair()?;
                vec![Source::UnixStream(a), Source::UnixStream(b)]
            }
            Object::DatagramPair => {
                let (a, b) = UnixDatagram::pair()?;
                vec![Source::Datagram(a), Source::Datagram(b)]
            }
            Object::Pipe => {
                let (sender, receiver) = pipe::new()?;
                vec![Source::Sender(sender), Source::Receiver(receiver)]
            }
            Object::Eventfd => {
                // SAFETY: no memory is involved, and the result is a new descriptor or an error.
                vec![Source::Bare(owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?)]
            }
            Object::Timer => vec![Source::Timer(Timer::new(Clock::Monotonic)?)],
            Object::Timerfd => {
                let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
                // SAFETY: as for the eventfd.
                vec![Source::Bare(owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?)]
            }
        };
        let mut fds = Vec::new();
        for (index, source) in sources.into_iter().enumerate() {
            put(&mut self.slots, slot + index, source);
            fds.push(self.number(slot + index));
        }
        Ok(Reply::Opened { fds, address })
    }

    fn registry(&self, selector: usize) -> io::Result<forkio_reactor::Registry> {
        self.selectors[selector].as_ref().expect("a selector").registry().try_clone()
    }

    fn number(&self, slot: usize) -> Fd {
        self.slots[slot].as_ref().expect("a source").number()
    }

    /// The slot's descriptor as a file, which does not close it.
    fn file(&self, slot: usize) -> ManuallyDrop<File> {
        // SAFETY: open, as the slot's source has it, and not closed here.
        ManuallyDrop::new(unsafe { File::from_raw_fd(self.number(slot)) })
    }

    fn with<T>(&mut self, target: Target, act: impl FnOnce(&mut dyn forkio_reactor::event::Source) -> T) -> T {
        match target {
            Target::Number(fd) => act(&mut SourceFd(&fd)),
            Target::Source(slot) => match self.slots[slot].as_mut().expect("a source") {
                Source::TcpListener(source) => act(source),
                Source::UnixListener(source) => act(source),
                Source::TcpStream(source) => act(source),
                Source::UnixStream(source) => act(source),
                Source::Udp(source) => act(source),
                Source::Datagram(source) => act(source),
                Source::Sender(source) => act(source),
                Source::Receiver(source) => act(source),
                Source::Timer(source) => act(source),
                Source::Bare(fd) => act(&mut SourceFd(&fd.as_raw_fd())),
                Source::Waker(_) => panic!("wakers register themselves"),
            },
        }
    }

    fn arm(&mut self, slot: usize, due: bool) -> io::Result<()> {
        if let Some(Source::Timer(timer)) = self.slots[slot].as_mut() {
            let time = if due { Duration::ZERO } else { Clock::Monotonic.now() + YEAR };
            timer.set_at(time, None)?;
            return if due { settle(self.number(slot), Arrival::Readable) } else { Ok(()) };
        }
        // A deadline of one nanosecond after the start of the clock has passed; one of 0 would disarm.
        let (tv_sec, tv_nsec, flags) =
            if due { (0, 1, libc::TFD_TIMER_ABSTIME) } else { (YEAR.as_secs().cast_signed(), 0, 0) };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::itimerspec { it_interval: never, it_value: libc::timespec { tv_sec, tv_nsec } };
        // SAFETY: the kernel reads `value`.
        if unsafe { libc::timerfd_settime(self.number(slot), flags, &value, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if due { settle(self.number(slot), Arrival::Readable) } else { Ok(()) }
    }

    fn look(&self) -> Look {
        let watched = self.selectors.iter().flatten().map(|poll| {
            let number = poll.as_raw_fd();
            (number, watched_descriptors(number).expect("an epoll lists them"))
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
        Look {
            generation: fork::generation(),
            selectors: fork::selectors(),
            registrations: registrations.collect(),
            watched: watched.collect(),
            descriptors: open_descriptors(),
            ahead: fork::is_prepared_ahead(),
        }
    }

    fn rest(&mut self) -> Rest {
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
        Rest {
            descriptors: open_descriptors(),
            registrations: fork::registrations().len(),
            selectors: fork::selectors(),
            children_failed,
            blocks: BLOCKS.load(Ordering::Relaxed).unsigned_abs(),
            bytes: BYTES.load(Ordering::Relaxed).unsigned_abs(),
            resident_kib: pages * 4,
        }
    }
}

impl Source {
    fn number(&self) -> Fd {
        match self {
            Source::TcpListener(source) => source.as_raw_fd(),
            Source::UnixListener(source) => source.as_raw_fd(),
            Source::TcpStream(source) => source.as_raw_fd(),
            Source::UnixStream(source) => source.as_raw_fd(),
            Source::Udp(source) => source.as_raw_fd(),
            Source::Datagram(source) => source.as_raw_fd(),
            Source::Sender(source) => source.as_raw_fd(),
            Source::Receiver(source) => source.as_raw_fd(),
            Source::Timer(source) => source.as_raw_fd(),
            Source::Bare(source) => source.as_raw_fd(),
            Source::Waker(_) => panic!("a waker's number is its own affair"),
        }
    }

    fn give_away(self) -> OwnedFd {
        match self {
            Source::TcpListener(source) => source.into(),
            Source::UnixListener(source) => source.into(),
            Source::TcpStream(source) => source.into(),
            Source::UnixStream(source) => source.into(),
            Source::Udp(source) => source.into(),
            Source::Datagram(source) => source.into(),
            Source::Sender(source) => source.into(),
            Source::Receiver(source) => source.into(),
            Source::Bare(source) => source,
            Source::Waker(_) | Source::Timer(_) => panic!("it cannot be given away"),
        }
    }
}

/// The kinds whose defaults a case may change.
pub const KINDS: [Kind; 7] =
    [Kind::Listener, Kind::Datagram, Kind::Stream, Kind::Pipe, Kind::Pair, Kind::Timer, Kind::Other];

/// What a kind's default is to begin with.
pub fn default_policy(kind: Kind) -> Policy {
    if matches!(kind, Kind::Waker | Kind::Timer) { Policy::Renew } else { Policy::Inherit }
}

fn put<T>(list: &mut Vec<Option<T>>, index: usize, value: T) {
    if list.len() <= index {
        list.resize_with(index + 1, || None);
    }
    assert!(list[index].is_none(), "place {index} is taken");
    list[index] = Some(value);
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn is_eventfd(fd: Fd) -> bool {
    fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|name| name.to_string_lossy() == "anon_inode:[eventfd]")
}

/// What the loopback network has not delivered yet is on its way; sleeping is left to the kernel where it can.
fn settle(fd: Fd, until: Arrival) -> io::Result<()> {
    let start = std::time::Instant::now();
    while start.elapsed() < LIMIT {
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
            Arrival::Bytes(bytes) => fork::pending_bytes(&fd)? >= bytes,
            Arrival::Readable | Arrival::End => poll.revents & wanted != 0,
        };
        if arrived {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("waited {LIMIT:?} in vain for {until:?} at descriptor {fd}")))
}

fn event(event: &forkio_reactor::event::Event) -> Event {
    let readiness = Readiness {
        readable: event.is_readable(),
        writable: event.is_writable(),
        read_closed: event.is_read_closed(),
        write_closed: event.is_write_closed(),
        error: event.is_error(),
    };
    Event { token: event.token().0, readiness }
}

fn interest(wanted: Wanted) -> Interest {
    match wanted {
        Wanted::Readable => Interest::READABLE,
        Wanted::Writable => Interest::WRITABLE,
        Wanted::Both => Interest::READABLE | Interest::WRITABLE,
    }
}

fn to_policy(policy: Policy) -> ForkPolicy {
    match policy {
        Policy::Inherit => ForkPolicy::Inherit,
        Policy::NoFork => ForkPolicy::NoFork,
        Policy::Sever => ForkPolicy::Sever,
        Policy::Renew => ForkPolicy::Renew,
    }
}

fn from_policy(policy: ForkPolicy) -> Policy {
    match policy {
        ForkPolicy::Inherit => Policy::Inherit,
        ForkPolicy::NoFork => Policy::NoFork,
        ForkPolicy::Sever => Policy::Sever,
        ForkPolicy::Renew => Policy::Renew,
    }
}

fn to_kind(kind: Kind) -> SourceKind {
    match kind {
        Kind::Listener => SourceKind::Listener,
        Kind::Datagram => SourceKind::Datagram,
        Kind::Stream => SourceKind::Stream,
        Kind::Pipe => SourceKind::Pipe,
        Kind::Pair => SourceKind::Pair,
        Kind::Waker => SourceKind::Waker,
        Kind::Queue => SourceKind::Queue,
        Kind::Timer => SourceKind::Timer,
        Kind::Other => SourceKind::Other,
    }
}

fn from_kind(kind: SourceKind) -> Kind {
    match kind {
        SourceKind::Listener => Kind::Listener,
        SourceKind::Datagram => Kind::Datagram,
        SourceKind::Stream => Kind::Stream,
        SourceKind::Pipe => Kind::Pipe,
        SourceKind::Pair => Kind::Pair,
        SourceKind::Waker => Kind::Waker,
        SourceKind::Queue => Kind::Queue,
        SourceKind::Timer => Kind::Timer,
        _ => Kind::Other,
    }
}
