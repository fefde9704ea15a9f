//! Implements [`Library`](crate::library::Library) for crates that have mio's API.

macro_rules! mio_like {
    ($library:ident, $mio:ident) => {
        struct $library;

        impl $crate::library::Library for $library {
            type Poll = $mio::Poll;
            type Registry = $mio::Registry;
            type Events = $mio::Events;
            type Waker = $mio::Waker;
            type TcpListener = $mio::net::TcpListener;
            type TcpStream = $mio::net::TcpStream;
            type UdpSocket = $mio::net::UdpSocket;
            type UnixStream = $mio::net::UnixStream;

            #[inline]
            fn new_poll() -> std::io::Result<$mio::Poll> {
                $mio::Poll::new()
            }

            #[inline]
            fn registry(poll: &$mio::Poll) -> &$mio::Registry {
                poll.registry()
            }

            #[inline]
            fn try_clone(registry: &$mio::Registry) -> std::io::Result<$mio::Registry> {
                registry.try_clone()
            }

            fn events() -> $mio::Events {
                $mio::Events::with_capacity(64)
            }

            #[inline]
            fn poll(
                poll: &mut $mio::Poll,
                events: &mut $mio::Events,
                limit: Option<std::time::Duration>,
            ) -> std::io::Result<()> {
                poll.poll(events, limit)
            }

            #[inline]
            fn is_empty(events: &$mio::Events) -> bool {
                events.is_empty()
            }

            #[inline]
            fn has(events: &$mio::Events, token: usize) -> bool {
                events.iter().any(|event| event.token() == $mio::Token(token))
            }

            fn waker(registry: &$mio::Registry) -> std::io::Result<$mio::Waker> {
                $mio::Waker::new(registry, $mio::Token(0))
            }

            #[inline]
            fn wake(waker: &$mio::Waker) -> std::io::Result<()> {
                waker.wake()
            }

            #[inline]
            fn tcp_listener(listener: std::net::TcpListener) -> $mio::net::TcpListener {
                $mio::net::TcpListener::from_std(listener)
            }

            #[inline]
            fn tcp_stream(stream: std::net::TcpStream) -> $mio::net::TcpStream {
                $mio::net::TcpStream::from_std(stream)
            }

            #[inline]
            fn udp_socket(socket: std::net::UdpSocket) -> $mio::net::UdpSocket {
                $mio::net::UdpSocket::from_std(socket)
            }

            #[inline]
            fn unix_stream(stream: std::os::unix::net::UnixStream) -> $mio::net::UnixStream {
                $mio::net::UnixStream::from_std(stream)
            }

            #[inline]
            fn accept(listener: &$mio::net::TcpListener) -> std::io::Result<$mio::net::TcpStream> {
                let (stream, address) = listener.accept()?;
                std::hint::black_box(address);
                Ok(stream)
            }

            #[inline]
            fn register_fd(registry: &$mio::Registry, fd: std::os::fd::RawFd, token: usize) -> std::io::Result<()> {
                registry.register(&mut $mio::unix::SourceFd(&fd), $mio::Token(token), $mio::Interest::READABLE)
            }

            #[inline]
            fn deregister_fd(registry: &$mio::Registry, fd: std::os::fd::RawFd) -> std::io::Result<()> {
                registry.deregister(&mut $mio::unix::SourceFd(&fd))
            }
        }

        impl $library {
            #[inline]
            fn interest(interest: $crate::library::Interest) -> $mio::Interest {
                match interest {
                    $crate::library::Interest::Read => $mio::Interest::READABLE,
                    $crate::library::Interest::ReadWrite => $mio::Interest::READABLE | $mio::Interest::WRITABLE,
                }
            }
        }

        impl<S: $mio::event::Source> $crate::library::Register<S> for $mio::Registry {
            #[inline]
            fn add(&self, source: &mut S, token: usize, interest: $crate::library::Interest) -> std::io::Result<()> {
                self.register(source, $mio::Token(token), $library::interest(interest))
            }

            #[inline]
            fn change(&self, source: &mut S, token: usize, interest: $crate::library::Interest) -> std::io::Result<()> {
                self.reregister(source, $mio::Token(token), $library::interest(interest))
            }

            #[inline]
            fn remove(&self, source: &mut S) -> std::io::Result<()> {
                self.deregister(source)
            }
        }
    };
}
