//! Makes planned forks of a process that polls with upstream mio, as tokio without the patch does, and times each step.

use std::error::Error;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net;
use std::process::ExitCode;
use std::time::Duration;

use fork_benches::{Streams, adopt, measure, set_policy};
use fork_protocol::{self as protocol, Cost, SharedPage};
use mio::net::{UnixDatagram, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};

const USAGE: &str = "usage: adopted REGISTRATIONS MEMORY";

/// The tokens of tokio's waker and signal pipe.
const WAKER: Token = Token(0);
const SIGNAL_PIPE: Token = Token(1);
/// The tokens of the sockets begin here.
const FIRST: usize = 2;

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [registrations, memory] = args else { return Err(USAGE.into()) };
    protocol::raise_file_limit()?;
    protocol::fill_memory(memory)?;
    let mut program = Program::new(registrations.parse()?)?;
    protocol::serve(|| program.fork())?;
    Ok(())
}

struct Program {
    poll: Poll,
    events: Events,
    /// Both ends of each pair, next to each other.
    sockets: Vec<UnixDatagram>,
    /// The other objects of a tokio runtime.
    _runtime: (Registry, Waker, UnixStream),
    page: SharedPage,
}

impl Program {
    fn new(registrations: usize) -> io::Result<Program> {
        set_policy(Streams::Inherited);
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let (receiver, sender) = net::UnixStream::pair()?;
        [&receiver, &sender].into_iter().try_for_each(|end| end.set_nonblocking(true))?;
        let mut registered = UnixStream::from_std(receiver.try_clone()?);
        poll.registry().register(&mut registered, SIGNAL_PIPE, Interest::READABLE)?;
        // Leak both ends, because tokio never closes those of its signal pipe.
        let _ = (receiver.into_raw_fd(), sender.into_raw_fd());
        let mut sockets = Vec::with_capacity(registrations);
        while sockets.len() < registrations {
            let (near, far) = UnixDatagram::pair()?;
            for mut socket in [near, far] {
                poll.registry().register(&mut socket, Token(FIRST + sockets.len()), Interest::READABLE)?;
                sockets.push(socket);
            }
        }
        adopt(&registered.as_raw_fd())?;
        let runtime = (poll.registry().try_clone()?, waker, registered);
        Ok(Program { poll, events: Events::with_capacity(16), sockets, _runtime: runtime, page: SharedPage::new()? })
    }

    fn fork(&mut self) -> io::Result<Cost> {
        measure(self, |program| &program.page, Program::works)
    }

    /// Whether the child's queue reports an event in addition to the wake that each child gets.
    fn works(&mut self) -> io::Result<bool> {
        self.sockets[0].send(&[0])?;
        let mut tokens = Vec::new();
        while !tokens.contains(&Token(FIRST + 1)) {
            self.poll.poll(&mut self.events, Some(Duration::from_secs(1)))?;
            if self.events.is_empty() {
                return Ok(false);
            }
            tokens.extend(self.events.iter().map(|event| event.token()));
        }
        Ok(tokens.contains(&WAKER) && self.sockets[1].recv(&mut [0])? == 1)
    }
}
