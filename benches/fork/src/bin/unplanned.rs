//! Forks with plain fork(2). The child reconciles its selector when it first polls, and that poll is timed.

use std::error::Error;
use std::io::{self, Read, Write};
use std::os::unix::net;
use std::process::ExitCode;
use std::time::Duration;

use fork_protocol::{self as protocol, Cost, SharedPage, now, spent};
use forkio_reactor::net::UnixStream;
use forkio_reactor::{Events, Interest, Poll, Token};

const USAGE: &str = "usage: unplanned REGISTRATIONS MEMORY";

/// The indices of the child's figures in the shared page.
const FIRST_INSTRUCTION: usize = 0;
const FIRST_POLL: usize = 1;
const FAULTS: usize = 2;

/// How long to wait for an event that must come.
const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [registrations, memory] = args else { return Err(USAGE.into()) };
    protocol::raise_file_limit()?;
    protocol::fill_memory(memory)?;
    let mut program = Program::new(registrations.parse()?)?;
    Ok(protocol::serve(|| program.fork())?)
}

struct Program {
    poll: Poll,
    events: Events,
    /// Both ends of each pair, next to each other.
    streams: Vec<UnixStream>,
    page: SharedPage,
}

impl Program {
    fn new(registrations: usize) -> io::Result<Program> {
        let poll = Poll::new()?;
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
        Ok(Program { poll, events: Events::with_capacity(16), streams, page: SharedPage::new()? })
    }

    fn fork(&mut self) -> io::Result<Cost> {
        let start = now();
        // SAFETY: this process has one thread.
        let child = unsafe { protocol::fork() }?;
        if child == 0 {
            let first_instruction = now();
            protocol::end_in_time();
            let faults = protocol::faults();
            let begin = spent();
            let polled = self.poll.poll(&mut self.events, Some(Duration::ZERO));
            let first_poll = spent() - begin;
            self.page.set(FAULTS, protocol::faults() - faults);
            self.page.set(FIRST_POLL, first_poll);
            self.page.set(FIRST_INSTRUCTION, first_instruction);
            let works = polled.and_then(|()| self.gets_an_event()).unwrap_or(false);
            // The child's changes must not reach the parent's queue. The parent checks that below.
            let deregistered = self.poll.registry().deregister(&mut self.streams[1]);
            protocol::exit(works && deregistered.is_ok());
        }
        protocol::wait(child)?;
        // The child's byte has made an event in the parent's queue too.
        while !self.is_idle()? {}
        if !self.gets_an_event()? {
            return Err(io::Error::other("the child of a plain fork shared its parent's queue, and did not reconcile"));
        }
        Ok(Cost {
            fork: Some(self.page.get(FIRST_INSTRUCTION) - start),
            commit: Some(self.page.get(FIRST_POLL)),
            faults: Some(self.page.get(FAULTS)),
            ..Cost::default()
        })
    }

    fn is_idle(&mut self) -> io::Result<bool> {
        self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
        Ok(self.events.is_empty())
    }

    /// Sends a byte from one stream to its neighbour; returns whether this process's queue reports it.
    fn gets_an_event(&mut self) -> io::Result<bool> {
        self.streams[0].write_all(&[0])?;
        self.poll.poll(&mut self.events, LIMIT)?;
        let is_reported = self.events.iter().any(|event| event.token() == Token(1));
        Ok(self.streams[1].read(&mut [0])? == 1 && is_reported)
    }
}
