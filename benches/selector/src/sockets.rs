//! Sockets and other descriptors that the operations need, the same for all contenders.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};

pub(crate) fn listener() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Makes a UDP socket without an address, because binding it would cost more than the measured operation.
pub(crate) fn udp_socket() -> io::Result<UdpSocket> {
    Ok(Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), None)?.into())
}

pub(crate) fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nonblocking(true)?;
        end.set_nodelay(true)?;
    }
    Ok((near, far))
}

/// Makes a connection that ends with a reset when it is dropped. An orderly end would occupy the connection's port for a minute.
pub(crate) fn client(server: SocketAddr) -> io::Result<TcpStream> {
    let client = TcpStream::connect(server)?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    Ok(client)
}

/// Makes `number` stream ends. Both ends of each pair are next to each other.
pub(crate) fn stream_pairs(number: usize) -> io::Result<Vec<UnixStream>> {
    let mut streams = Vec::with_capacity(number);
    while streams.len() < number {
        let (near, far) = UnixStream::pair()?;
        for end in [near, far] {
            end.set_nonblocking(true)?;
            streams.push(end);
        }
    }
    Ok(streams)
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd(2) takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds 1 to an eventfd.
pub(crate) fn signal(eventfd: i32) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: the kernel reads the eight bytes of `one`.
    let written = unsafe { libc::write(eventfd, (&raw const one).cast(), size_of::<u64>()) };
    if written == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raises the soft limit of open files to the hard one.
pub fn raise_file_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}
