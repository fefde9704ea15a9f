//! `SO_REUSEPORT` and `SO_REUSEPORT_LB`, setsockopt(2). Not every system spreads connections over the sockets that share a
//! port.

use std::io;
use std::os::fd::AsFd;

#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
use socket2::SockRef;
use socket2::Socket;
use tokio::net::TcpListener;

/// Checks that other sockets can bind the address of a listener, and get their share of the connections. The listener must have
/// been bound with `SO_REUSEPORT_LB`.
#[cfg(target_os = "freebsd")]
pub(crate) fn share_port(listener: &TcpListener) -> io::Result<()> {
    match SockRef::from(listener).reuse_port_lb()? {
        true => refuse_both_families(listener),
        false => Err(is_bound_without("SO_REUSEPORT_LB (`socket2::Socket::set_reuse_port_lb`)")),
    }
}

/// Checks that other sockets can bind the address of a listener, and get their share of the connections. The listener must have
/// been bound with `SO_REUSEPORT`.
#[cfg(target_os = "dragonfly")]
pub(crate) fn share_port(listener: &TcpListener) -> io::Result<()> {
    match SockRef::from(listener).reuse_port()? {
        true => refuse_both_families(listener),
        false => Err(is_bound_without("SO_REUSEPORT (`tokio::net::TcpSocket::set_reuseport`)")),
    }
}

/// Fails: on this system, one of the listeners that share a port gets all connections.
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly")))]
pub(crate) fn share_port(_: &TcpListener) -> io::Result<()> {
    Err(unsupported(
        "this system does not spread connections over sockets that share a port: use `Distribution::Balanced` or \
         `Distribution::Shared`",
    ))
}

/// Refuses an IPv6 wildcard that takes IPv4 too. The kernel does not add such a socket to the group that it spreads connections
/// over, and returns no error (`in_pcbinslbgrouphash`, `in_pcbinslocalgrphash`).
#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
fn refuse_both_families(listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?.ip();
    if address.is_ipv6() && address.is_unspecified() && !SockRef::from(listener).only_v6()? {
        let text = "this system does not spread connections to an IPv6 wildcard that takes IPv4 too: bind one listener for \
                    IPv4, and one for IPv6 with IPV6_V6ONLY (`socket2::Socket::set_only_v6`)";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
fn is_bound_without(option: &str) -> io::Error {
    let text = format!("the listener is bound without {option}: set the option before you bind it");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// On FreeBSD and DragonFly, sets the option that [`share_port`] requires, before a listener is bound. These systems spread
/// connections only over sockets that were all bound with the option.
pub(crate) fn prepare_to_bind(socket: &Socket) -> io::Result<()> {
    #[cfg(target_os = "freebsd")]
    socket.set_reuse_port_lb(true)?;
    #[cfg(target_os = "dragonfly")]
    socket.set_reuse_port(true)?;
    let _ = socket;
    Ok(())
}

/// Prepares a socket before it is bound to a shared port.
pub(crate) fn join_port(socket: &Socket, _: &Socket) -> io::Result<()> {
    // On FreeBSD, one of the sockets with SO_REUSEPORT gets all connections.
    #[cfg(target_os = "freebsd")]
    return socket.set_reuse_port_lb(true);
    #[cfg(not(target_os = "freebsd"))]
    socket.set_reuse_port(true)
}

/// Returns the number of connections that may wait in the queue of a listener, or -1 if the system does not tell.
pub(crate) fn backlog(listener: &impl AsFd) -> io::Result<i32> {
    #[cfg(target_os = "freebsd")]
    {
        use std::os::fd::AsRawFd;

        let mut limit: libc::c_int = 0;
        let mut size = size_of::<libc::c_int>() as libc::socklen_t;
        let fd = listener.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `size` bytes to `limit`.
        let result = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_LISTENQLIMIT, (&raw mut limit).cast(), &mut size)
        };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(limit) }
    }
    // A negative number asks listen(2) for its maximum.
    #[cfg(not(target_os = "freebsd"))]
    {
        let _ = listener;
        Ok(-1)
    }
}

/// Fails: only Linux has `SO_INCOMING_CPU`.
pub(crate) fn prefer_on_cpu(_: &impl AsFd, _: usize) -> io::Result<()> {
    Err(no_incoming_cpu())
}

/// Fails, like [`prefer_on_cpu`].
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    Err(no_incoming_cpu())
}

pub(crate) fn stay_on_cpu(_: usize) -> io::Result<()> {
    Err(unsupported("forkio keeps processes on a CPU only on Linux: leave out `Prefork::cpus`"))
}

fn no_incoming_cpu() -> io::Error {
    unsupported("this system does not say on which CPU a connection arrives: use another `Distribution`")
}

fn unsupported(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, text)
}
