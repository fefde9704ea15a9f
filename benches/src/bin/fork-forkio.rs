//! Forks with forkio's reactor: prepare, fork(2), commit and abort, each timed.

use std::error::Error;
use std::io::{self, Read, Write};
use std::os::unix::net;
use std::time::Duration;

use forked::{Cost, SharedPage, now, spent};
use forkio_reactor::fork::{self, ForkPolicy, SourceKind};
use forkio_reactor::net::{TcpListener, UnixStream};
use forkio_reactor::{Events, Interest, Poll, Token};

const USAGE: &str = "usage: fork-forkio inherit|inherit-ahead|bare|no-fork|sever REGISTRATIONS MEBIBYTES";

/// The token of the listener.
const LISTENER: Token = Token(usize::MAX);

/// Where the child writes what it measured.
const FIRST_INSTRUCTION: usize = 0;
const COMMIT: usize = 1;
const FAULTS: usize = 2;
/// Where the parent says that it has cleared up.
const IS_CLEAR: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mix, registrations, mebibytes] = args.as_slice() else { return Err(USAGE.into()) };
    let policy = match mix.as_str() {
        "inherit" | "inherit-ahead" | "bare" => ForkPolicy::Inherit,
        "no-fork" => ForkPolicy::NoFork,
        "sever" => ForkPolicy::Sever,
        _ => return Err(USAGE.into()),
    };
    forked::raise_file_limit()?;
    forked::fill_memory(mebibytes.parse()?)?;
    let mut program = Program::new(policy, registrations.parse()?)?;
    match mix.as_str() {
        "bare" => forked::serve(|| program.fork_bare())?,
        "inherit-ahead" => forked::serve(|| {
            fork::prepare_ahead().map_err(io::Error::other)?;
            program.fork()
        })?,
        _ => forked::serve(|| program.fork())?,
    }
    Ok(())
}

struct Program {
    poll: Poll,
    events: Events,
    policy: ForkPolicy,
    /// Both ends of each pair, side by side.
    streams: Vec<UnixStream>,
    _listener: TcpListener,
    page: SharedPage,
}

impl Program {
    /// The listener is one of the registrations only where it is the one that is inherited.
    fn new(policy: ForkPolicy, registrations: usize) -> io::Result<Program> {
        fork::set_default_policy(SourceKind::Stream, policy);
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        if policy != ForkPolicy::Inherit {
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
        let _blocked = fork::block_signals();
        self.page.set(IS_CLEAR, 0);
        let begin = spent();
        let prepared = fork::prepare().map_err(io::Error::other)?;
        let prepare = spent() - begin;
        let start = now();
        // SAFETY: this process has one thread.
        let child = unsafe { forked::fork() }?;
        if child == 0 {
            let first_instruction = now();
            forked::end_in_time();
            let faults = forked::faults();
            let begin = spent();
            // SAFETY: this is the child, in which nothing has used a descriptor, and signals are blocked.
            unsafe { prepared.commit() };
            let commit = spent() - begin;
            self.page.set(FAULTS, forked::faults() - faults);
            self.page.set(COMMIT, commit);
            self.page.set(FIRST_INSTRUCTION, first_instruction);
            let works = self.works().unwrap_or(false);
            // It lives on, as a worker does: otherwise its parent may be the one that takes its queue apart.
            while self.page.get(IS_CLEAR) == 0 {
                std::thread::yield_now();
            }
            forked::exit(works);
        }
        let begin = spent();
        prepared.abort();
        let abort = spent() - begin;
        self.page.set(IS_CLEAR, 1);
        forked::wait(child)?;
        let fork = self.page.get(FIRST_INSTRUCTION) - start;
        Ok(Cost { prepare, fork, commit: self.page.get(COMMIT), abort, faults: self.page.get(FAULTS), response: 0 })
    }

    /// fork(2) and nothing else: the child does not use its selector.
    fn fork_bare(&mut self) -> io::Result<Cost> {
        let start = now();
        // SAFETY: this process has one thread.
        let child = unsafe { forked::fork() }?;
        if child == 0 {
            self.page.set(FIRST_INSTRUCTION, now());
            forked::exit(true);
        }
        forked::wait(child)?;
        Ok(Cost { fork: self.page.get(FIRST_INSTRUCTION) - start, ..Cost::default() })
    }

    /// In the child: whether its queue reports what it should.
    fn works(&mut self) -> io::Result<bool> {
        if self.policy != ForkPolicy::Sever {
            self.streams[0].write_all(&[0])?;
        }
        let limit = if self.policy == ForkPolicy::NoFork { Duration::ZERO } else { Duration::from_secs(1) };
        self.poll.poll(&mut self.events, Some(limit))?;
        let mut byte = [0];
        let read = self.streams[1].read(&mut byte)?;
        Ok(match self.policy {
            ForkPolicy::NoFork => self.events.is_empty() && read == 1,
            ForkPolicy::Sever => self.events.iter().any(|event| event.is_read_closed()) && read == 0,
            _ => self.events.iter().any(|event| event.token() == Token(1)) && read == 1,
        })
    }
}
