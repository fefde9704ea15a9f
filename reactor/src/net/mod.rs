//! Non-blocking sockets: TCP, UDP and Unix domain.
//!
//! An operation that cannot be done at once fails with [`WouldBlock`](std::io::ErrorKind::WouldBlock): wait for an event,
//! then try again. Every constructor makes the descriptor non-blocking and close-on-exec. The conversions from the standard
//! library's types and from descriptors do not change the mode: call `set_nonblocking(true)` first.
//!
//! # Datagrams
//!
//! A datagram is received once. The part that does not fit into the buffer is lost without an error. If the result is the
//! length of the buffer, the datagram may have been longer.
//!
//! # Fork
//!
//! The descriptors of these types stay open in a forked child, and both processes share the socket: its queues, its options
//! and its mode. The default policy of a registration depends on the type: see `fork::default_policy`.

mod tcp;
mod udp;
mod unix;

pub use self::tcp::{TcpListener, TcpStream};
pub use self::udp::UdpSocket;
pub use self::unix::{UnixDatagram, UnixListener, UnixStream};

/// Implements methods that call the method of the same name of `inner`.
macro_rules! forward {
    ($name:ident: $($(#[$doc:meta])* fn $method:ident($($arg:ident: $type:ty),*) -> $result:ty;)+) => {
        impl $name {$(
            $(#[$doc])*
            pub fn $method(&self, $($arg: $type),*) -> std::io::Result<$result> {
                self.inner.$method($($arg),*)
            }
        )+}
    };
}

/// Implements the setter and the getter of a socket option, which call the methods of `inner`.
macro_rules! option {
    ($name:ident: $set:ident, $get:ident, $type:ty, $meaning:literal) => {
        crate::net::forward! { $name:
            #[doc = concat!("Sets ", $meaning)]
            ///
            /// # Errors
            ///
            /// Those of `setsockopt(2)`.
            fn $set(value: $type) -> ();

            #[doc = concat!("Returns ", $meaning)]
            ///
            /// # Errors
            ///
            /// Those of `getsockopt(2)`.
            fn $get() -> $type;
        }
    };
    // Several types have this option.
    ($name:ident: ttl) => {
        crate::net::option!($name: set_ttl, ttl, u32,
            "the time to live (`IP_TTL`) of the packets that the socket sends, in hops.");
    };
}

/// Calls [`descriptor_owner`](crate::io_source::descriptor_owner), and implements the methods that all sockets have.
macro_rules! socket {
    ($name:ident, $std:ty, $kind:ident, $address:ty) => {
        crate::io_source::descriptor_owner!($name, $std, $kind);

        impl $name {
            /// Takes over a socket of the standard library, without changing its mode.
            pub fn from_std(socket: $std) -> $name {
                $name { inner: IoSource::new(socket, SourceKind::$kind) }
            }
        }

        crate::net::forward! { $name:
            /// Returns the address of this socket. A Unix domain socket has no name unless it was bound to one.
            ///
            /// # Errors
            ///
            /// Those of `getsockname(2)`.
            fn local_addr() -> $address;

            /// Takes the pending error (`SO_ERROR`) off the socket, such as that of a failed connection attempt.
            ///
            /// # Errors
            ///
            /// Those of `getsockopt(2)`.
            fn take_error() -> Option<std::io::Error>;
        }

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

/// Implements the part that the sockets with a peer have in common.
macro_rules! peer {
    ($name:ident, $address:ty) => {
        crate::net::forward! { $name:
            /// Returns the address of the connected peer. A Unix domain socket has no name unless it was bound to one.
            ///
            /// # Errors
            ///
            /// Those of `getpeername(2)`: [`NotConnected`](std::io::ErrorKind::NotConnected).
            fn peer_addr() -> $address;
        }
    };
}

/// Implements the methods that both kinds of datagram sockets have.
macro_rules! datagram {
    ($name:ident, $address:ty) => {
        crate::net::forward! { $name:
            /// Sends a datagram to the connected peer; returns its length.
            ///
            /// # Errors
            ///
            /// Those of `send(2)`: an error if the socket has no peer; [`WouldBlock`](std::io::ErrorKind::WouldBlock) if there
            /// is no room in the socket, or in the queue of a Unix domain receiver;
            /// [`ConnectionRefused`](std::io::ErrorKind::ConnectionRefused) if an earlier UDP datagram found no receiver, or if
            /// the Unix domain receiver is closed.
            fn send(buf: &[u8]) -> usize;

            /// Receives a datagram; returns its length, or the buffer's if that is less.
            ///
            /// # Errors
            ///
            /// Those of `recv(2)`: [`WouldBlock`](std::io::ErrorKind::WouldBlock), and on a connected UDP socket
            /// [`ConnectionRefused`](std::io::ErrorKind::ConnectionRefused) if an earlier datagram found no receiver.
            fn recv(buf: &mut [u8]) -> usize;

            /// Receives a datagram; returns its length, or the buffer's if that is less, and the sender's address.
            ///
            /// # Errors
            ///
            /// Those of `recvfrom(2)`: [`WouldBlock`](std::io::ErrorKind::WouldBlock).
            fn recv_from(buf: &mut [u8]) -> (usize, $address);
        }
    };
}

/// Implements `shutdown`.
macro_rules! shutdown {
    ($name:ident) => {
        crate::net::forward! { $name:
            /// Shuts down the receiving half, the sending half or both, for every process that has the socket.
            ///
            /// # Errors
            ///
            /// Those of `shutdown(2)`: [`NotConnected`](std::io::ErrorKind::NotConnected) without a peer.
            fn shutdown(how: std::net::Shutdown) -> ();
        }
    };
}

use {datagram, forward, option, peer, shutdown, socket};
