//! An open-loop load generator: each request has a time at which it is due, whether the server has answered the earlier
//! ones or not.
//!
//! A generator that waits for each answer sends nothing while the server is slow, so its latencies miss most of the
//! delay (coordinated omission). Here the latency of a request counts from the time at which it was due, even if it had
//! to wait for a free connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::process::pin_this_thread;
use crate::servers::{CONNECTIONS, Connections};

/// The token of the timer. Those of the connections are their indices.
const TIMER: Token = Token(usize::MAX);

/// How long answers may take after the last request was due.
const GRACE: Duration = Duration::from_secs(2);

/// Sends `rate` requests per second from these CPUs; returns the latencies in nanoseconds.
pub(crate) fn latencies(
    server: SocketAddr,
    connections: Connections,
    rate: f64,
    duration: Duration,
    cpus: &[usize],
) -> io::Result<Histogram<u64>> {
    // The generator has a thread of its own, because only that thread may be pinned to these CPUs.
    let generator = thread::scope(|scope| {
        let generate = || pin_this_thread(cpus).and_then(|()| open_loop(server, connections, rate, duration));
        scope.spawn(generate).join()
    });
    generator.unwrap_or_else(|_| Err(io::Error::other("the load generator panicked")))
}

fn open_loop(
    server: SocketAddr,
    connections: Connections,
    rate: f64,
    duration: Duration,
) -> io::Result<Histogram<u64>> {
    let total = (rate * duration.as_secs_f64()) as u64;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut latencies = Histogram::new(3).map_err(io::Error::other)?;

    // All responses have the same length.
    let length = exchange(&mut std::net::TcpStream::connect(server)?, connections)?;
    let mut clients: Vec<_> =
        (0..CONNECTIONS).map(|index| Client::new(server, connections, length, Token(index))).collect();
    let mut idle: VecDeque<usize> = (0..CONNECTIONS).collect();
    let timer = periodic_timer(Duration::from_secs_f64(1.0 / rate))?;
    poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;

    let start = Instant::now();
    let due = |request: u64| Duration::from_secs_f64(request as f64 / rate);
    let (mut sent, mut answered) = (0, 0);
    while answered < total {
        let now = start.elapsed();
        while sent < total && due(sent) <= now {
            let Some(client) = idle.pop_front() else { break };
            clients[client].begin(&poll, due(sent))?;
            sent += 1;
        }
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in &events {
            if event.token() == TIMER {
                // A periodic timerfd gives another event only after its expirations have been read.
                rustix::io::read(&timer, &mut [0; 8])?;
                continue;
            }
            let Token(index) = event.token();
            let client = &mut clients[index];
            let was_idle = client.is_idle();
            if let Some(due) = client.advance()? {
                record(&mut latencies, start.elapsed() - due)?;
                answered += 1;
            }
            if !was_idle && client.is_idle() {
                idle.push_back(index);
            }
        }
        if start.elapsed() > duration + GRACE {
            // The latency of unanswered requests is at least this long.
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

fn request(connections: Connections) -> &'static [u8] {
    match connections {
        Connections::Open => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        Connections::Short => b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    }
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
    /// The length of a response, in bytes.
    length: usize,
    token: Token,
    stream: Option<TcpStream>,
    /// The part of the request that has not been sent.
    unsent: &'static [u8],
    /// The time at which the unanswered request was due.
    due: Option<Duration>,
    received: usize,
}

impl Client {
    fn new(server: SocketAddr, connections: Connections, length: usize, token: Token) -> Client {
        Client { server, connections, length, token, stream: None, unsent: &[], due: None, received: 0 }
    }

    /// Whether the client can send another request. A client waits until the server has closed a short connection, as
    /// real clients do. The server then keeps the state that the protocol demands (TIME_WAIT).
    fn is_idle(&self) -> bool {
        self.due.is_none() && (self.connections == Connections::Open || self.stream.is_none())
    }

    fn begin(&mut self, poll: &Poll, due: Duration) -> io::Result<()> {
        self.due = Some(due);
        self.unsent = request(self.connections);
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
                Err(error) if must_wait(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends and receives as much as possible. If the answer is complete now, returns the time at which the request was
    /// due.
    fn advance(&mut self) -> io::Result<Option<Duration>> {
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
                Err(error) if must_wait(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(if self.received >= self.length { self.due.take() } else { None })
    }
}

fn must_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

/// Sends a request and waits for the response; returns its length.
pub(crate) fn exchange(stream: &mut std::net::TcpStream, connections: Connections) -> io::Result<usize> {
    stream.write_all(request(connections))?;
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
