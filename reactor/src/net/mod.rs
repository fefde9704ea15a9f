//! Non-blocking sockets: TCP, UDP and Unix domain.
//!
//! An operation that cannot be done at once fails with [`WouldBlock`](std::io::ErrorKind::WouldBlock): wait for an event,
//! then try again. Every constructor makes the descriptor non-blocking and close-on-exec. The conversions from the standard
//! library's types and from descriptors do not change it: call `set_nonblocking(true)` first.
//!
//! # Datagrams
//!
//! A datagram is received once. The part that does not fit the buffer is lost without an error. So a result equal to the
//! buffer's length may mean a longer datagram.
//!
//! # Fork
//!
//! A descriptor made by these types is open in a forked child too, and both processes share the socket: its queues, its
//! options and its mode. The default policy of the registration depends on the type.

mod tcp_listener;
mod tcp_stream;
mod udp_socket;
mod unix_datagram;
mod unix_listener;
mod unix_stream;

pub use self::tcp_listener::TcpListener;
pub use self::tcp_stream::TcpStream;
pub use self::udp_socket::UdpSocket;
pub use self::unix_datagram::UnixDatagram;
pub use self::unix_listener::UnixListener;
pub use self::unix_stream::UnixStream;

/// Implements the part that the six sockets have in common: [`descriptor_owner`](crate::event::descriptor_owner), `Debug`
/// that prints the standard library's type, and the conversion back to it.
macro_rules! socket {
    ($name:ident, $std:ty, $kind:ident) => {
        crate::event::descriptor_owner!($name, $std, $kind);

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.inner.fmt(f)
            }
        }

        /// The socket keeps its registration and its non-blocking mode.
        impl From<$name> for $std {
            fn from(socket: $name) -> $std {
                socket.inner.into_inner()
            }
        }
    };
}
use socket;
