//! Several listening sockets at one address, each with a queue of its own.

use std::io;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpListener;

use super::{backlog, join_port};

/// Opens one more listener at the address of `first`, whose port is [shared](super::share_port).
pub(crate) fn listen_beside(first: &TcpListener) -> io::Result<TcpListener> {
    let listener = bind_beside(first)?;
    start_listening(&listener, first)?;
    Ok(listener)
}

/// Starts to listen like `first`. Does nothing if `listener` listens already.
pub(crate) fn start_listening(listener: &TcpListener, first: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).listen(backlog(first)?)
}

/// Binds one more socket to the address of `first`, as [`listen_beside`] does. The kernel makes no connections for it before
/// [`start_listening`].
pub(crate) fn bind_beside(first: &TcpListener) -> io::Result<TcpListener> {
    let address = first.local_addr()?;
    let model = SockRef::from(first);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(model.reuse_address()?)?;
    join_port(&socket, &model)?;
    if address.is_ipv6() {
        socket.set_only_v6(model.only_v6()?)?;
    }
    // Accepted connections inherit these options from their listener.
    socket.set_tcp_nodelay(model.tcp_nodelay()?)?;
    socket.set_keepalive(model.keepalive()?)?;
    socket.bind(&address.into())?;
    TcpListener::from_std(socket.into())
}
