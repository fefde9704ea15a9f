//! The operations that the benchmarks compare, each prepared for each contender.
//!
//! Four contenders link into one process, so that one run can alternate between them: forkio with the registration table
//! (feature `cponfork`), forkio without it, upstream mio, and the bare system calls.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

#[macro_use]
mod mio_api;
mod system_calls;

pub use system_calls::thread_time;

/// Runs an operation as often as it is told to.
pub type Batch = Box<dyn FnMut(u64) -> io::Result<()>>;

/// How many wakes a [`WakeStorm`](Operation::WakeStorm) has.
const STORM: usize = 1_000;

/// What a [`PingPong`](Operation::PingPong) sends.
const MESSAGE: [u8; 64] = [7; 64];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A listening TCP socket goes in for reading, and out.
    RegisterListener,
    /// A connected TCP socket goes in for reading and writing, and out.
    RegisterStream,
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
    /// A selector is made and dropped.
    NewPoll,
    /// A selector is made, a second handle to it too, as every tokio runtime does, and both are dropped.
    NewPollCloned,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 10] = [
        Operation::RegisterListener,
        Operation::RegisterStream,
        Operation::Reregister,
        Operation::ReregisterChanged,
        Operation::PollNothing,
        Operation::WakePoll,
        Operation::WakeStorm,
        Operation::PingPong,
        Operation::NewPoll,
        Operation::NewPollCloned,
    ];

    /// A name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Operation::RegisterListener => "register and deregister `TcpListener`",
            Operation::RegisterStream => "register and deregister `TcpStream`, read and write",
            Operation::Reregister => "reregister, same interest",
            Operation::ReregisterChanged => "reregister, changed interest",
            Operation::PollNothing => "poll of nothing",
            Operation::WakePoll => "wake to poll",
            Operation::WakeStorm => "1 000 wakes, then poll",
            Operation::PingPong => "TCP ping-pong over one `Poll`",
            Operation::NewPoll => "`Poll::new` and drop",
            Operation::NewPollCloned => "`Poll::new`, `Registry::try_clone` and drop",
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
