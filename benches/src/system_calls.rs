//! The operations with nothing but their system calls: what no library can go below. Also the clock.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLRDHUP, c_int, epoll_event};

use crate::storm::Storm;
use crate::{Batch, MESSAGE, Operation, STORM, STRIDE};

/// Those of mio's `READABLE`.
const READABLE: c_int = EPOLLET | EPOLLIN | EPOLLRDHUP;
const BOTH: c_int = READABLE | EPOLLOUT;

pub(crate) fn prepare(operation: Operation) -> io::Result<Batch> {
    let epoll = Epoll::new()?;
    let mut events = [epoll_event { events: 0, u64: 0 }; 64];
    Ok(match operation {
        Operation::RegisterListener => {
            let listener = crate::listener()?;
            Box::new(move |times| {
                for _ in 0..times {
                    epoll.control(EPOLL_CTL_ADD, &listener, READABLE, 1)?;
                    epoll.control(EPOLL_CTL_DEL, &listener, 0, 0)?;
                }
                Ok(())
            })
        }
        Operation::RegisterStream => {
            let (near, far) = crate::connection()?;
            Box::new(move |times| {
                let _connected = &far;
                for _ in 0..times {
                    epoll.control(EPOLL_CTL_ADD, &near, BOTH, 1)?;
                    epoll.control(EPOLL_CTL_DEL, &near, 0, 0)?;
                }
                Ok(())
            })
        }
        Operation::RegisterFd => {
            let eventfd = eventfd()?;
            Box::new(move |times| {
                for _ in 0..times {
                    epoll.control(EPOLL_CTL_ADD, &eventfd, READABLE, 1)?;
                    epoll.control(EPOLL_CTL_DEL, &eventfd, 0, 0)?;
                }
                Ok(())
            })
        }
        Operation::Reregister | Operation::ReregisterChanged => {
            let (near, far) = crate::connection()?;
            epoll.control(EPOLL_CTL_ADD, &near, READABLE, 1)?;
            let other = if operation == Operation::Reregister { READABLE } else { BOTH };
            Box::new(move |times| {
                let _connected = &far;
                let mut interests = (READABLE, other);
                for _ in 0..times {
                    interests = (interests.1, interests.0);
                    epoll.control(EPOLL_CTL_MOD, &near, interests.0, 1)?;
                }
                Ok(())
            })
        }
        Operation::PollNothing => {
            let eventfd = eventfd()?;
            epoll.control(EPOLL_CTL_ADD, &eventfd, READABLE, 0)?;
            Box::new(move |times| {
                let _idle = &eventfd;
                for _ in 0..times {
                    epoll.wait(&mut events, 0)?;
                }
                Ok(())
            })
        }
        Operation::WakePoll | Operation::WakeStorm => {
            let eventfd = eventfd()?;
            epoll.control(EPOLL_CTL_ADD, &eventfd, READABLE, 0)?;
            let wakes = if operation == Operation::WakePoll { 1 } else { STORM };
            Box::new(move |times| {
                for _ in 0..times {
                    for _ in 0..wakes {
                        wake(&eventfd)?;
                    }
                    epoll.wait(&mut events, -1)?;
                }
                Ok(())
            })
        }
        Operation::PingPong => {
            let (near, far) = crate::connection()?;
            let mut ends = [near, far];
            for (number, end) in (0..).zip(&ends) {
                epoll.control(EPOLL_CTL_ADD, end, READABLE, number)?;
            }
            Box::new(move |times| {
                for _ in 0..times {
                    for (from, to) in [(0, 1), (1, 0)] {
                        let mut message = MESSAGE;
                        ends[from].write_all(&message)?;
                        loop {
                            let count = epoll.wait(&mut events, -1)?;
                            if events[..count].iter().any(|event| event.u64 == to as u64) {
                                break;
                            }
                        }
                        ends[to].read_exact(&mut message)?;
                    }
                }
                Ok(())
            })
        }
        Operation::IdleStreams => {
            let mut streams = crate::idle_streams()?;
            for (number, stream) in (0..).zip(&streams) {
                epoll.control(EPOLL_CTL_ADD, stream, BOTH, number)?;
            }
            // All can be written to.
            while epoll.wait(&mut events, 0)? != 0 {}
            let mut next = 0;
            Box::new(move |times| {
                for _ in 0..times {
                    next = (next + STRIDE) % streams.len();
                    let mut message = MESSAGE;
                    streams[next ^ 1].write_all(&message)?;
                    loop {
                        let count = epoll.wait(&mut events, -1)?;
                        if events[..count].iter().any(|event| event.u64 == next as u64) {
                            break;
                        }
                    }
                    streams[next].read_exact(&mut message)?;
                }
                Ok(())
            })
        }
        Operation::AcceptChurn => {
            let listener = crate::listener()?;
            let address = listener.local_addr()?;
            epoll.control(EPOLL_CTL_ADD, &listener, READABLE, 0)?;
            Box::new(move |times| {
                for _ in 0..times {
                    let client = crate::client(address)?;
                    epoll.wait(&mut events, -1)?;
                    let mut stream = accept(&listener)?;
                    match accept(&listener) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        other => return other.map(|_| ()),
                    }
                    epoll.control(EPOLL_CTL_ADD, &stream, BOTH, 1)?;
                    drop(client);
                    epoll.wait(&mut events, -1)?;
                    match stream.read(&mut [0]) {
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                        other => return other.map(|_| ()),
                    }
                    epoll.control(EPOLL_CTL_DEL, &stream, 0, 0)?;
                }
                Ok(())
            })
        }
        Operation::NewPoll => Box::new(|times| {
            for _ in 0..times {
                Epoll::new()?;
            }
            Ok(())
        }),
        Operation::NewPollCloned => Box::new(|times| {
            for _ in 0..times {
                let epoll = Epoll::new()?;
                epoll.0.try_clone()?;
            }
            Ok(())
        }),
        Operation::WakeStormThreads => {
            let eventfd = Arc::new(eventfd()?);
            epoll.control(EPOLL_CTL_ADD, &eventfd, READABLE, 0)?;
            let storm = Storm::new(move || wake(&eventfd))?;
            Box::new(move |times| {
                for _ in 0..times {
                    storm.turn()?;
                    epoll.wait(&mut events, -1)?;
                }
                Ok(())
            })
        }
    })
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, operation: c_int, fd: &impl AsRawFd, events: c_int, data: u64) -> io::Result<()> {
        let mut event = epoll_event { events: events.cast_unsigned(), u64: data };
        // SAFETY: the kernel reads `event`.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    fn wait(&self, events: &mut [epoll_event; 64], timeout: c_int) -> io::Result<usize> {
        // SAFETY: the kernel writes at most 64 events to `events`.
        let count = check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 64, timeout) })?;
        Ok(count as usize)
    }
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// accept4(2) with the address of the peer, which mio's `accept` returns.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::uninit();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let address = address.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes of `address`.
    let fd = check(unsafe { libc::accept4(listener.as_raw_fd(), address, &mut length, flags) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    Ok(unsafe { TcpStream::from_raw_fd(fd) })
}

fn wake(eventfd: &OwnedFd) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: the kernel reads the eight bytes of `one`.
    let written = unsafe { libc::write(eventfd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    if written == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The processor time that this process has used.
///
/// None of the operations sleeps, so this is what they take, without the time slices of other processes.
///
/// # Errors
///
/// Those of `clock_gettime(2)`; none is expected.
pub fn processor_time() -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes `time`.
    check(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) })?;
    Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))
}
