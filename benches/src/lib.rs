//! The operations that the benchmarks compare, each prepared for each contender.
//!
//! Four contenders link into one process, so that one run can alternate between them: forkio with the registration table
//! (feature `cponfork`), forkio without it, upstream mio, and the bare system calls.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::SockRef;

#[macro_use]
mod mio_api;
pub mod instructions;
pub mod rounds;
mod storm;
mod system_calls;

pub use system_calls::processor_time;

/// Runs an operation as often as it is told to.
pub type Batch = Box<dyn FnMut(u64) -> io::Result<()>>;

/// How many wakes a [`WakeStorm`](Operation::WakeStorm) has.
const STORM: usize = 1_000;

/// How many threads wake in a [`WakeStormThreads`](Operation::WakeStormThreads).
const STORM_THREADS: usize = 4;

/// How many streams are registered for [`IdleStreams`](Operation::IdleStreams).
const STREAMS: usize = 10_000;

/// How far the next stream that becomes ready is from the last: far enough that no cache line helps.
const STRIDE: usize = 7_919;

/// What a [`PingPong`](Operation::PingPong) sends.
const MESSAGE: [u8; 64] = [7; 64];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A listening TCP socket goes in for reading, and out.
    RegisterListener,
    /// A connected TCP socket goes in for reading and writing, and out.
    RegisterStream,
    /// An eventfd, a descriptor that something else owns, goes in for reading, and out.
    RegisterFd,
    /// A registered, idle TCP socket is registered anew as it was.
    Reregister,
    /// As [`Reregister`](Operation::Reregister), but for reading and for reading and writing in turn.
    ReregisterChanged,
    /// A poll that may not wait, of a selector with an idle waker.
    PollNothing,
    /// A wake, and the poll that returns it.
    WakePoll,
    /// A thousand wakes, and the poll that returns them.
    WakeStorm,
    /// A message there and back over TCP, both ends in one selector: two writes, two polls, two reads.
    PingPong,
    /// One of ten thousand registered streams, each time another one, gets a message: a write, a poll, a read.
    IdleStreams,
    /// A client connects, is accepted and registered, goes away, is noticed and closed.
    AcceptChurn,
    /// A selector is made and dropped.
    NewPoll,
    /// A selector is made, a second handle to it too, as every tokio runtime does, and both are dropped.
    NewPollCloned,
    /// Four threads that wake a thousand times each, and the poll that returns it.
    WakeStormThreads,
}

impl Operation {
    /// All of them. The one that starts threads is the last: a process that has had one pays for some atomic operations.
    pub const ALL: [Operation; 14] = [
        Operation::RegisterListener,
        Operation::RegisterStream,
        Operation::RegisterFd,
        Operation::Reregister,
        Operation::ReregisterChanged,
        Operation::PollNothing,
        Operation::WakePoll,
        Operation::WakeStorm,
        Operation::PingPong,
        Operation::IdleStreams,
        Operation::AcceptChurn,
        Operation::NewPoll,
        Operation::NewPollCloned,
        Operation::WakeStormThreads,
    ];

    /// A name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Operation::RegisterListener => "register and deregister `TcpListener`",
            Operation::RegisterStream => "register and deregister `TcpStream`, read and write",
            Operation::RegisterFd => "register and deregister an eventfd by `SourceFd`",
            Operation::Reregister => "reregister, same interest",
            Operation::ReregisterChanged => "reregister, changed interest",
            Operation::PollNothing => "poll of nothing",
            Operation::WakePoll => "wake to poll",
            Operation::WakeStorm => "1 000 wakes, then poll",
            Operation::PingPong => "TCP ping-pong over one `Poll`",
            Operation::IdleStreams => "one of 10 000 idle streams gets a message",
            Operation::AcceptChurn => "connect, accept, register, notice the end, close",
            Operation::NewPoll => "`Poll::new` and drop",
            Operation::NewPollCloned => "`Poll::new`, `Registry::try_clone` and drop",
            Operation::WakeStormThreads => "4 threads, 1 000 wakes each, then poll",
        }
    }

    /// Whether what it needs is too much to have once for each contender at the same time.
    pub fn is_large(self) -> bool {
        self == Operation::IdleStreams
    }

    /// How often to do it for a count of its instructions.
    pub fn times_to_count(self) -> u64 {
        match self {
            Operation::WakeStorm | Operation::WakeStormThreads => 20,
            _ => 500,
        }
    }
}

/// One way to do the operations.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// A name for tables.
    pub name: &'static str,
    /// Makes what the operation needs: sockets, a selector, registrations.
    pub prepare: fn(Operation) -> io::Result<Batch>,
}

/// forkio with its registration table.
pub const FORKIO: Contender = Contender { name: "forkio", prepare: forkio::prepare };

/// forkio without `cponfork`.
pub const PLAIN: Contender = Contender { name: "forkio without `cponfork`", prepare: plain::prepare };

/// Upstream mio.
pub const MIO: Contender = Contender { name: "mio", prepare: upstream::prepare };

/// The system calls alone.
pub const LIBC: Contender = Contender { name: "libc", prepare: system_calls::prepare };

mod forkio {
    mio_contender!(forkio_reactor);
}

mod plain {
    mio_contender!(forkio_plain);
}

mod upstream {
    mio_contender!(mio);
}

fn listener() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn eventfd() -> io::Result<OwnedFd> {
    system_calls::eventfd()
}

/// Both ends of each of the connections of [`IdleStreams`](Operation::IdleStreams): neighbours are connected.
fn idle_streams() -> io::Result<Vec<UnixStream>> {
    let mut streams = Vec::with_capacity(STREAMS);
    while streams.len() < STREAMS {
        let (near, far) = UnixStream::pair()?;
        for end in [near, far] {
            end.set_nonblocking(true)?;
            streams.push(end);
        }
    }
    Ok(streams)
}

/// A connection that ends with a reset when it is dropped: one that ends in order occupies its port for a minute.
fn client(server: SocketAddr) -> io::Result<TcpStream> {
    let client = TcpStream::connect(server)?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    Ok(client)
}

/// Both ends of a TCP connection.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nonblocking(true)?;
        end.set_nodelay(true)?;
    }
    Ok((near, far))
}
