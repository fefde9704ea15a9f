//! Makes planned forks with forkio's selector, and times each step.

use std::error::Error;
use std::io::{self, Read, Write};
use std::os::unix::net;
use std::process::ExitCode;
use std::time::Duration;

use fork_benches::{FIRST_INSTRUCTION, Streams, measure, prepare_ahead, set_policy};
use fork_protocol::{self as protocol, Cost, SharedPage, now};
use forkio_reactor::net::{TcpListener, UnixStream};
use forkio_reactor::{Events, Interest, Poll, Token};

const USAGE: &str = "usage: planned inherit|inherit-ahead|no-fork|sever|bare REGISTRATIONS MEMORY";

const LISTENER: Token = Token(usize::MAX);

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [mode, registrations, memory] = args else { return Err(USAGE.into()) };
    let streams = match *mode {
        "inherit" | "inherit-ahead" | "bare" => Streams::Inherited,
        "no-fork" => Streams::NoFork,
        "sever" => Streams::Severed,
        _ => return Err(USAGE.into()),
    };
    protocol::raise_file_limit()?;
    protocol::fill_memory(memory)?;
    let mut program = Program::new(streams, registrations.parse()?)?;
    match *mode {
        "bare" => protocol::serve(|| program.fork_bare())?,
        "inherit-ahead" => protocol::serve(|| {
            prepare_ahead()?;
            program.fork()
        })?,
        _ => protocol::serve(|| program.fork())?,
    }
    Ok(())
}

struct Program {
    poll: Poll,
    events: Events,
    policy: Streams,
    /// Both ends of each pair, next to each other.
    streams: Vec<UnixStream>,
    _listener: TcpListener,
    page: SharedPage,
}

impl Program {
    /// Makes a selector and registers the streams. Also registers a listener if nothing else is inherited.
    fn new(policy: Streams, registrations: usize) -> io::Result<Program> {
        set_policy(policy);
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        if policy != Streams::Inherited {
            poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        }
        let mut streams = Vec::with_capacity(registrations);
        while streams.len() < registrations {
            let (near, far) = net::UnixStream::pair()?;
            for end in [near, far] {
                end.set_nonblocking(true)?;
                let mut stream = UnixStream::from_std(end);
                poll.registry().register(&mut stream, Token(streams.len()), Interest::READABLE)?;
                streams.push(stream);
            }
        }
        let events = Events::with_capacity(16);
        Ok(Program { poll, events, policy, streams, _listener: listener, page: SharedPage::new()? })
    }

    fn fork(&mut self) -> io::Result<Cost> {
        measure(self, |program| &program.page, Program::works)
    }

    /// Calls fork(2) and nothing else; the child does not use its selector.
    fn fork_bare(&mut self) -> io::Result<Cost> {
        let start = now();
        // SAFETY: this process has one thread.
        let child = unsafe { protocol::fork() }?;
        if child == 0 {
            self.page.set(FIRST_INSTRUCTION, now());
            protocol::exit(true);
        }
        protocol::wait(child)?;
        Ok(Cost { fork: Some(self.page.get(FIRST_INSTRUCTION) - start), ..Cost::default() })
    }

    /// Whether the child's queue reports the events that the policy allows.
    fn works(&mut self) -> io::Result<bool> {
        if self.policy != Streams::Severed {
            self.streams[0].write_all(&[0])?;
        }
        let limit = if self.policy == Streams::NoFork { Duration::ZERO } else { Duration::from_secs(1) };
        self.poll.poll(&mut self.events, Some(limit))?;
        let mut byte = [0];
        let read = self.streams[1].read(&mut byte)?;
        Ok(match self.policy {
            Streams::Inherited => self.events.iter().any(|event| event.token() == Token(1)) && read == 1,
            Streams::NoFork => self.events.is_empty() && read == 1,
            Streams::Severed => self.events.iter().any(|event| event.is_read_closed()) && read == 0,
        })
    }
}
