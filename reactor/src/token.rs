//! The token of a registration.

/// Identifies the source of an event.
///
/// The caller chooses a token at registration and finds it in the source's events. It may be an index into a slab, or a key
/// of a map. Several sources may share a token. A child forked through the module `fork` gets events with the tokens that
/// its parent chose.
///
/// # Examples
///
#[cfg_attr(all(feature = "os-poll", feature = "net"), doc = "```")]
#[cfg_attr(not(all(feature = "os-poll", feature = "net")), doc = "```ignore")]
/// use forkio_reactor::net::UdpSocket;
/// use forkio_reactor::{Events, Interest, Poll, Token};
///
/// let mut poll = Poll::new()?;
/// let mut sockets = Vec::new();
/// for index in 0..3 {
///     let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
///     poll.registry().register(&mut socket, Token(index), Interest::READABLE)?;
///     sockets.push(socket);
/// }
/// sockets[0].send_to(b"hello", sockets[2].local_addr()?)?;
///
/// let mut events = Events::with_capacity(8);
/// poll.poll(&mut events, None)?;
/// for event in &events {
///     let Token(index) = event.token();
///     assert_eq!(sockets[index].recv(&mut [0; 16])?, 5);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub usize);

impl From<Token> for usize {
    fn from(token: Token) -> usize {
        token.0
    }
}
