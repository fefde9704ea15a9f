//! The bare system calls as a [`Library`]. Another library can be faster only if it makes fewer system calls.

use std::io;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, c_int, epoll_event};

use crate::library::{Interest, Library, Register};
use crate::sockets;

const CAPACITY: usize = 64;

pub(crate) struct SystemCalls;

pub(crate) struct Epoll(OwnedFd);

/// The events of the last epoll_wait(2).
pub(crate) struct Events {
    room: [epoll_event; CAPACITY],
    count: usize,
}

impl Library for SystemCalls {
    type Poll = Epoll;
    type Registry = Epoll;
    type Events = Events;
    type Waker = OwnedFd;
    type TcpListener = TcpListener;
    type TcpStream = TcpStream;
    type UdpSocket = UdpSocket;
    type UnixStream = UnixStream;

    #[inline]
    fn new_poll() -> io::Result<Epoll> {
        // SAFETY: epoll_create1(2) takes no pointer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just returned this descriptor, so nothing else owns it.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    #[inline]
    fn registry(poll: &Epoll) -> &Epoll {
        poll
    }

    #[inline]
    fn try_clone(registry: &Epoll) -> io::Result<Epoll> {
        registry.0.try_clone().map(Epoll)
    }

    fn events() -> Events {
        Events { room: [epoll_event { events: 0, u64: 0 }; CAPACITY], count: 0 }
    }

    #[inline]
    fn poll(poll: &mut Epoll, events: &mut Events, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.map_or(-1, |limit| limit.as_millis() as c_int);
        let room = events.room.as_mut_ptr();
        // SAFETY: the kernel writes at most `CAPACITY` events to `room`, which has that many.
        let count = check(unsafe { libc::epoll_wait(poll.0.as_raw_fd(), room, CAPACITY as c_int, limit) })?;
        events.count = count as usize;
        Ok(())
    }

    #[inline]
    fn is_empty(events: &Events) -> bool {
        events.count == 0
    }

    #[inline]
    fn has(events: &Events, token: usize) -> bool {
        events.room[..events.count].iter().any(|event| event.u64 == token as u64)
    }

    fn waker(registry: &Epoll) -> io::Result<OwnedFd> {
        let eventfd = sockets::eventfd()?;
        registry.control(EPOLL_CTL_ADD, eventfd.as_raw_fd(), READ, 0)?;
        Ok(eventfd)
    }

    #[inline]
    fn wake(waker: &OwnedFd) -> io::Result<()> {
        sockets::signal(waker.as_raw_fd())
    }

    fn tcp_listener(listener: TcpListener) -> TcpListener {
        listener
    }

    fn tcp_stream(stream: TcpStream) -> TcpStream {
        stream
    }

    fn udp_socket(socket: UdpSocket) -> UdpSocket {
        socket
    }

    fn unix_stream(stream: UnixStream) -> UnixStream {
        stream
    }

    #[inline]
    fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
        let mut address = MaybeUninit::<libc::sockaddr_storage>::uninit();
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let address = address.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most `length` bytes to `address`, which has that many.
        let fd = check(unsafe { libc::accept4(listener.as_raw_fd(), address, &mut length, flags) })?;
        // SAFETY: the kernel has just returned this descriptor, so nothing else owns it.
        Ok(unsafe { TcpStream::from_raw_fd(fd) })
    }

    #[inline]
    fn register_fd(registry: &Epoll, fd: RawFd, token: usize) -> io::Result<()> {
        registry.control(EPOLL_CTL_ADD, fd, READ, token)
    }

    #[inline]
    fn deregister_fd(registry: &Epoll, fd: RawFd) -> io::Result<()> {
        registry.control(EPOLL_CTL_DEL, fd, 0, 0)
    }
}

impl<S: AsRawFd> Register<S> for Epoll {
    #[inline]
    fn add(&self, source: &mut S, token: usize, interest: Interest) -> io::Result<()> {
        self.control(EPOLL_CTL_ADD, source.as_raw_fd(), flags(interest), token)
    }

    #[inline]
    fn change(&self, source: &mut S, token: usize, interest: Interest) -> io::Result<()> {
        self.control(EPOLL_CTL_MOD, source.as_raw_fd(), flags(interest), token)
    }

    #[inline]
    fn remove(&self, source: &mut S) -> io::Result<()> {
        self.control(EPOLL_CTL_DEL, source.as_raw_fd(), 0, 0)
    }
}

impl Epoll {
    #[inline]
    fn control(&self, operation: c_int, fd: RawFd, flags: c_int, token: usize) -> io::Result<()> {
        let mut event = epoll_event { events: flags.cast_unsigned(), u64: token as u64 };
        // SAFETY: the kernel reads `event`.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) })?;
        Ok(())
    }
}

/// The flags of mio's `READABLE`.
const READ: c_int = EPOLLET | EPOLLIN | EPOLLRDHUP;

#[inline]
fn flags(interest: Interest) -> c_int {
    match interest {
        Interest::Read => READ,
        Interest::ReadWrite => READ | EPOLLOUT,
    }
}

#[inline]
fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
