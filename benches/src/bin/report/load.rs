//! An open-loop load generator: requests come when they are due, whether the server has answered the earlier ones or not.
//!
//! A generator that waits for an answer before it asks again is slowed down by a slow server, and misses what clients
//! would have felt meanwhile (coordinated omission). Here a request has the time at which it is due, and its latency
//! counts from then, also when it had to wait for a free connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Whether a connection lives for more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    StayOpen,
    Short,
}

impl Connections {
    fn request(self) -> &'static [u8] {
        match self {
            Connections::StayOpen => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            Connections::Short => b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        }
    }
}

/// The timer's token; the connections have their numbers.
const TIMER: Token = Token(usize::MAX);

/// How long answers may take after the last request was due.
const GRACE: Duration = Duration::from_secs(2);

/// Latencies in nanoseconds of `rate` requests per second, over at most `number` connections at a time.
pub(crate) fn open_loop(
    server: SocketAddr,
    connections: Connections,
    rate: f64,
    number: usize,
    duration: Duration,
) -> io::Result<Histogram<u64>> {
    let total = (rate * duration.as_secs_f64()) as u64;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut latencies = Histogram::new(3).map_err(io::Error::other)?;

    // They are all alike.
    let length = exchange(&mut std::net::TcpStream::connect(server)?, connections)?;
    let mut clients: Vec<_> =
        (0..number).map(|number| Client::new(server, connections, length, Token(number))).collect();
    let mut idle: VecDeque<usize> = (0..number).collect();
    let timer = periodic_timer(Duration::from_secs_f64(1.0 / rate))?;
    poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;

    let start = Instant::now();
    let due = |request: u64| Duration::from_secs_f64(request as f64 / rate);
    let (mut sent, mut answered) = (0, 0);
    while answered < total {
        let now = start.elapsed();
        while sent < total && due(sent) <= now {
            let Some(number) = idle.pop_front() else { break };
            clients[number].begin(&poll, due(sent))?;
            sent += 1;
        }
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            if event.token() == TIMER {
                // A periodic timer goes on once it has been read.
                rustix::io::read(&timer, &mut [0; 8])?;
                continue;
            }
            let Token(number) = event.token();
            let was_idle = clients[number].is_idle();
            if let Some(due) = clients[number].go_on()? {
                record(&mut latencies, start.elapsed() - due)?;
                answered += 1;
            }
            if !was_idle && clients[number].is_idle() {
                idle.push_back(number);
            }
        }
        if start.elapsed() > duration + GRACE {
            // As bad as it is known to be.
            for unanswered in clients.iter().filter_map(|client| client.due) {
                record(&mut latencies, start.elapsed() - unanswered)?;
            }
            for unsent in sent..total {
                record(&mut latencies, start.elapsed() - due(unsent))?;
            }
            break;
        }
    }
    Ok(latencies)
}

fn record(latencies: &mut Histogram<u64>, latency: Duration) -> io::Result<()> {
    latencies.record(latency.as_nanos() as u64).map_err(io::Error::other)
}

fn periodic_timer(interval: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let interval = Timespec { tv_sec: 0, tv_nsec: interval.subsec_nanos().into() };
    let times = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(timer)
}

struct Client {
    server: SocketAddr,
    connections: Connections,
    /// The length of a response.
    length: usize,
    token: Token,
    stream: Option<TcpStream>,
    /// What is left to be sent.
    unsent: &'static [u8],
    /// When the request was due that is to be answered.
    due: Option<Duration>,
    received: usize,
}

impl Client {
    fn new(server: SocketAddr, connections: Connections, length: usize, token: Token) -> Client {
        Client { server, connections, length, token, stream: None, unsent: &[], due: None, received: 0 }
    }

    /// May be given another request. A short connection is to be closed by the server, which then has what the protocol
    /// leaves behind (TIME_WAIT), as in life.
    fn is_idle(&self) -> bool {
        self.due.is_none() && (self.connections == Connections::StayOpen || self.stream.is_none())
    }

    fn begin(&mut self, poll: &Poll, due: Duration) -> io::Result<()> {
        self.due = Some(due);
        self.unsent = self.connections.request();
        self.received = 0;
        if self.stream.is_some() {
            return self.send();
        }
        let mut stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.unsent.is_empty() {
            match stream.write(self.unsent) {
                Ok(count) => self.unsent = &self.unsent[count..],
                Err(error) if is_early(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends and receives what can be. When the request was due, if the answer is complete now.
    fn go_on(&mut self) -> io::Result<Option<Duration>> {
        self.send()?;
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let mut buffer = [0; 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) if self.received >= self.length && self.connections == Connections::Short => {
                    self.stream = None;
                    break;
                }
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received += count,
                Err(error) if is_early(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(if self.received >= self.length { self.due.take() } else { None })
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

/// Sends a request and waits for the response, whose length it returns.
pub(crate) fn exchange(stream: &mut std::net::TcpStream, connections: Connections) -> io::Result<usize> {
    stream.write_all(connections.request())?;
    let mut response = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        response.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&response);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            if !head.starts_with("HTTP/1.1 200 ") {
                return Err(io::Error::other(format!("the server answered {head:?}")));
            }
            let mut headers = head.lines().filter_map(|line| line.split_once(':'));
            let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return Ok(response.len());
            }
        }
    }
}
