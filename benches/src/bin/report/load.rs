//! An open-loop load generator: requests come when they are due, whether the server has answered the earlier ones or not.
//!
//! A generator that waits for an answer before it asks again is slowed down by a slow server, and misses what clients
//! would have felt meanwhile (coordinated omission). Here a request has the time at which it is due, and its latency
//! counts from then, also when it had to wait for a free connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The timer's token; the connections have their numbers.
const TIMER: Token = Token(usize::MAX);

/// How long answers may take after the last request was due.
const GRACE: Duration = Duration::from_secs(2);

/// Latencies in nanoseconds of `rate` requests per second, over connections that stay open.
pub(crate) fn open_loop(
    server: SocketAddr,
    rate: f64,
    connections: usize,
    duration: Duration,
) -> io::Result<Histogram<u64>> {
    let total = (rate * duration.as_secs_f64()) as u64;
    let interval = Duration::from_secs_f64(1.0 / rate);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut latencies = Histogram::new(3).map_err(io::Error::other)?;

    let mut clients = Vec::with_capacity(connections);
    let mut idle = VecDeque::with_capacity(connections);
    for number in 0..connections {
        let mut client = Client::connect(server)?;
        poll.registry().register(&mut client.stream, Token(number), Interest::READABLE)?;
        clients.push(client);
        idle.push_back(number);
    }
    let timer = periodic_timer(interval)?;
    poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;

    let start = Instant::now();
    let due = |request: u64| Duration::from_secs_f64(request as f64 / rate);
    let (mut sent, mut answered) = (0, 0);
    while answered < total {
        let now = start.elapsed();
        while sent < total && due(sent) <= now {
            let Some(number) = idle.pop_front() else { break };
            clients[number].send(due(sent))?;
            sent += 1;
        }
        poll.poll(&mut events, Some(Duration::from_millis(100)))?;
        for event in events.iter().filter(|event| event.token() != TIMER) {
            let Token(number) = event.token();
            if let Some(due) = clients[number].receive()? {
                record(&mut latencies, start.elapsed() - due)?;
                answered += 1;
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

fn periodic_timer(interval: Duration) -> io::Result<std::os::fd::OwnedFd> {
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let interval = Timespec { tv_sec: 0, tv_nsec: interval.subsec_nanos().into() };
    let times = Itimerspec { it_interval: interval, it_value: interval };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(timer)
}

struct Client {
    stream: TcpStream,
    /// When the request that is being answered was due.
    due: Option<Duration>,
    received: usize,
    /// The length of a response: they are all alike.
    length: usize,
}

impl Client {
    fn connect(server: SocketAddr) -> io::Result<Client> {
        let mut stream = std::net::TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let length = exchange(&mut stream)?;
        stream.set_nonblocking(true)?;
        Ok(Client { stream: TcpStream::from_std(stream), due: None, received: 0, length })
    }

    fn send(&mut self, due: Duration) -> io::Result<()> {
        self.due = Some(due);
        self.stream.write_all(REQUEST)
    }

    /// When the request was due that has been answered now.
    fn receive(&mut self) -> io::Result<Option<Duration>> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.received < self.length {
            return Ok(None);
        }
        self.received = 0;
        Ok(self.due.take())
    }
}

/// Sends a request and waits for the response, whose length it returns.
pub(crate) fn exchange(stream: &mut std::net::TcpStream) -> io::Result<usize> {
    stream.write_all(REQUEST)?;
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
