//! Opens sockets, non-blocking and close-on-exec. Where the system can, the call that opens a descriptor sets both modes.

use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
#[cfg(target_os = "android")]
use std::os::android::net::SocketAddrExt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{self, UnixListener, UnixStream};

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use crate::sys::syscall;

/// The standard library's value; the system caps it (`/proc/sys/net/core/somaxconn` on Linux).
const TCP_BACKLOG: i32 = 128;

/// The standard library's value: the system's limit.
const UNIX_BACKLOG: i32 =
    if cfg!(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd", target_vendor = "apple")) {
        -1
    } else {
        libc::SOMAXCONN
    };

pub(crate) fn tcp_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(Domain::for_address(address), Type::STREAM)?;
    // A restarted server must not wait for its predecessor's connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

pub(crate) fn tcp_accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = accept(listener)?;
    // If this is not an internet address, the listener was made from a descriptor of another kind.
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((stream.into(), address))
}

pub(crate) fn unix_listen(address: &net::SocketAddr) -> io::Result<UnixListener> {
    let socket = bind(&unix_address(address)?, Type::STREAM)?;
    socket.listen(UNIX_BACKLOG)?;
    Ok(socket.into())
}

pub(crate) fn unix_accept(listener: &UnixListener) -> io::Result<(UnixStream, net::SocketAddr)> {
    let (stream, address) = accept(listener)?;
    let stream = UnixStream::from(stream);
    // A path may fill `sun_path` to the last byte: the standard library reads such an address, but does not make one.
    let address = std_unix_address(&address).map_or_else(|| stream.peer_addr(), Ok)?;
    Ok((stream, address))
}

/// Opens a socket in non-blocking mode. `Socket::new` sets close-on-exec and, on Apple systems, `SO_NOSIGPIPE`.
pub(crate) fn open(domain: Domain, kind: Type) -> io::Result<Socket> {
    #[cfg(not(target_vendor = "apple"))]
    let kind = kind.nonblocking();
    let socket = Socket::new(domain, kind, None)?;
    #[cfg(target_vendor = "apple")]
    socket.set_nonblocking(true)?;
    Ok(socket)
}

pub(crate) fn bind(address: &SockAddr, kind: Type) -> io::Result<Socket> {
    let socket = open(address.domain(), kind)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Begins to connect a new stream socket.
pub(crate) fn connect(address: &SockAddr) -> io::Result<Socket> {
    let socket = open(address.domain(), Type::STREAM)?;
    match socket.connect(address) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Accepts a connection, non-blocking and close-on-exec. Returns it with the peer's address.
fn accept(listener: &impl AsRawFd) -> io::Result<(OwnedFd, SockAddr)> {
    let accept = |address: *mut SockAddrStorage, length| {
        #[cfg(not(target_vendor = "apple"))]
        let fd =
            syscall!(accept4(listener.as_raw_fd(), address.cast(), length, libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK))?;
        // Apple systems have no accept4(2).
        #[cfg(target_vendor = "apple")]
        let fd = syscall!(accept(listener.as_raw_fd(), address.cast(), length))?;
        // SAFETY: the kernel has just given us this descriptor, and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        #[cfg(target_vendor = "apple")]
        rustix::io::ioctl_fioclex(&fd)?;
        // The stream inherits this mode only from a listener that is in non-blocking mode itself.
        #[cfg(target_vendor = "apple")]
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(fd)
    };
    // SAFETY: on success the kernel has written an address to the storage and its length to `length`.
    unsafe { SockAddr::try_init(accept) }
}

pub(crate) fn unix_address(address: &net::SocketAddr) -> io::Result<SockAddr> {
    if let Some(path) = address.as_pathname() {
        return SockAddr::unix(path);
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = address.as_abstract_name() {
        return SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat()));
    }
    SockAddr::unix("")
}

/// Converts an address to the standard library's type. `None` for a path that the standard library considers too long.
fn std_unix_address(address: &SockAddr) -> Option<net::SocketAddr> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = address.as_abstract_namespace() {
        return net::SocketAddr::from_abstract_name(name).ok();
    }
    let path = address.as_pathname().map_or(OsStr::new(""), |path| path.as_os_str());
    net::SocketAddr::from_pathname(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_addresses_round_trip() {
        let named = net::SocketAddr::from_pathname("./some/path").unwrap();
        let unnamed = net::SocketAddr::from_pathname("").unwrap();
        assert!(unnamed.is_unnamed());
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let abstracts =
            [&b""[..], b"forkio", b"\0\0", &[b'x'; 107]].map(|name| net::SocketAddr::from_abstract_name(name).unwrap());
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let abstracts: [net::SocketAddr; 0] = [];
        for address in [named, unnamed].iter().chain(&abstracts) {
            let back = std_unix_address(&unix_address(address).unwrap()).unwrap();
            assert_eq!(format!("{back:?}"), format!("{address:?}"));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peers_with_names() {
        let name = format!("forkio-peers-{}", std::process::id());
        let listener = unix_listen(&net::SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let to = unix_address(&listener.local_addr().unwrap()).unwrap();
        let accepted_from = |client: &Socket| {
            client.connect(&to).unwrap();
            unix_accept(&listener).unwrap().1
        };

        let client = open(Domain::UNIX, Type::STREAM).unwrap();
        let address = net::SocketAddr::from_abstract_name(name.clone() + "-client").unwrap();
        client.bind(&unix_address(&address).unwrap()).unwrap();
        assert_eq!(accepted_from(&client).as_abstract_name(), address.as_abstract_name());

        // A path may take all of `sun_path`, which leaves no room for the terminator.
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut path = directory.join("p").into_os_string().into_encoded_bytes();
        let mut raw = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
        path.resize(raw.sun_path.len(), b'p');
        for (to, from) in raw.sun_path.iter_mut().zip(&path) {
            *to = *from as libc::c_char;
        }
        let client = open(Domain::UNIX, Type::STREAM).unwrap();
        let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        syscall!(bind(client.as_raw_fd(), (&raw const raw).cast(), length)).unwrap();
        assert_eq!(accepted_from(&client).as_pathname(), Some(OsStr::from_bytes(&path).as_ref()));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
