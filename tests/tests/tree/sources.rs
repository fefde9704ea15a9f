//! The sources of a process.

use std::fs::{self, File};
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::time::Duration;

use forkio_reactor::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use forkio_reactor::unix::{Clock, SourceFd, Timer, pipe};
use forkio_reactor::{Registry, Waker, event};

use crate::message::{Arrival, Fd, Object, Reply, Target};
use crate::process::{Process, settle};

/// The remaining time of a timer that is not due.
const YEAR: Duration = Duration::from_secs(31_536_000);

pub(crate) enum Source {
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
    /// Opens an object, and puts its source or its two sources into slots, from `slot` on.
    pub(crate) fn open(&mut self, slot: usize, object: Object) -> io::Result<Reply> {
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
                let _of_an_earlier_case = fs::remove_file(&path);
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
            fds.push(self.fd(slot + index));
        }
        Ok(Reply::Opened { fds, address })
    }

    pub(crate) fn registry(&self, selector: usize) -> io::Result<Registry> {
        self.selectors[selector].as_ref().expect("a selector").registry().try_clone()
    }

    pub(crate) fn fd(&self, slot: usize) -> Fd {
        self.slots[slot].as_ref().expect("a source").fd()
    }

    /// The descriptor of a source as a `File` that never closes the descriptor.
    pub(crate) fn file(&self, slot: usize) -> ManuallyDrop<File> {
        // SAFETY: the slot's source has the descriptor open, and `ManuallyDrop` never closes it.
        ManuallyDrop::new(unsafe { File::from_raw_fd(self.fd(slot)) })
    }

    /// Calls `act` with a source, or with a bare descriptor.
    pub(crate) fn with<T>(&mut self, target: Target, act: impl FnOnce(&mut dyn event::Source) -> T) -> T {
        match target {
            Target::Fd(fd) => act(&mut SourceFd(&fd)),
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

    pub(crate) fn arm(&mut self, slot: usize, due: bool) -> io::Result<()> {
        if let Some(Source::Timer(timer)) = self.slots[slot].as_mut() {
            let time = if due { Duration::ZERO } else { Clock::Monotonic.now() + YEAR };
            timer.set_at(time, None)?;
            return if due { settle(self.fd(slot), Arrival::Readable) } else { Ok(()) };
        }
        // One nanosecond after the start of the clock is in the past. 0 would disarm the timer.
        let (tv_sec, tv_nsec, flags) =
            if due { (0, 1, libc::TFD_TIMER_ABSTIME) } else { (YEAR.as_secs().cast_signed(), 0, 0) };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::itimerspec { it_interval: never, it_value: libc::timespec { tv_sec, tv_nsec } };
        // SAFETY: the kernel reads `value`.
        if unsafe { libc::timerfd_settime(self.fd(slot), flags, &value, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if due { settle(self.fd(slot), Arrival::Readable) } else { Ok(()) }
    }
}

impl Source {
    fn fd(&self) -> Fd {
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
            Source::Waker(_) => panic!("a waker has no descriptor"),
        }
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
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
            Source::Waker(_) | Source::Timer(_) => panic!("the descriptor of this source cannot be taken"),
        }
    }
}

/// Puts a value at an index that is free.
pub(crate) fn put<T>(list: &mut Vec<Option<T>>, index: usize, value: T) {
    if list.len() <= index {
        list.resize_with(index + 1, || None);
    }
    assert!(list[index].is_none(), "index {index} is not free");
    list[index] = Some(value);
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller has just opened the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn is_eventfd(fd: Fd) -> bool {
    fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|name| name.to_string_lossy() == "anon_inode:[eventfd]")
}
