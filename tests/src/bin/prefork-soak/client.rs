//! Clients, each of which sends one request after the other.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::{IDLE_GRACE, LIMIT, Soak};

/// The address of a listener.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Address, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Address::Unix(path.into())),
            None => text.parse().map(Address::Tcp),
        }
    }
}

pub(crate) trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

impl Address {
    pub(crate) fn connect(&self) -> io::Result<BufReader<Box<dyn Stream>>> {
        let stream: Box<dyn Stream> = match self {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, LIMIT)?;
                let _ = stream.set_nodelay(true);
                stream.set_read_timeout(Some(LIMIT))?;
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(LIMIT))?;
                Box::new(stream)
            }
        };
        Ok(BufReader::new(stream))
    }
}

/// The answer to a request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Whether the server closes the connection.
    pub(crate) closes: bool,
}

pub(crate) fn request(
    stream: &mut BufReader<Box<dyn Stream>>,
    method: &str,
    path: &str,
    keeps: bool,
) -> io::Result<Answer> {
    let connection = if keeps { "keep-alive" } else { "close" };
    write!(stream.get_mut(), "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n")?;
    let (mut status, mut length, mut closes, mut line) = (None, 0, false, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(rest) = header.strip_prefix("http/1.1 ") {
            status = rest.split(' ').next().and_then(|code| code.parse().ok());
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().map_err(io::Error::other)?;
        }
        closes |= header == "connection: close";
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned(), closes })
}

/// Sends requests for the id of the worker until the soak ends.
pub(crate) fn client(soak: &Soak, address: &Address, keeps: bool) {
    while !soak.stop.load(Ordering::Relaxed) {
        let connected = Instant::now();
        let mut stream = match address.connect() {
            Ok(stream) => stream,
            // The queue of a Unix socket is full: unlike TCP, the kernel does not let the client wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                soak.fail(format!("cannot connect: {error}"));
                continue;
            }
        };
        let (mut worker, mut answered) = (None, connected);
        loop {
            match request(&mut stream, "GET", "/pid", keeps) {
                Ok(answer) if answer.status == 200 => {
                    soak.requests.fetch_add(1, Ordering::Relaxed);
                    (worker, answered) = (answer.body.parse().ok(), Instant::now());
                    if answer.closes || !keeps || soak.stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok(answer) => {
                    soak.fail(format!("the status of an answer is {}", answer.status));
                    break;
                }
                // On a busy machine, this client may have been so slow that the server has closed an idle connection.
                Err(_) if worker.is_some() && answered.elapsed() > IDLE_GRACE => {
                    soak.on_idle.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => {
                    soak.lost(worker, connected, &error);
                    break;
                }
            }
            // Leaves processor time to the server.
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Reads the status page in all its forms, and retires workers over the control socket.
pub(crate) fn operator(soak: &Soak, page: &Address, control: &Address, workers: usize) {
    let ask = |address: &Address, method, path: &str| request(&mut address.connect()?, method, path, false);
    for round in 0.. {
        for path in ["/status", "/status.json", "/metrics", "/healthz", "/readyz"] {
            if soak.stop.load(Ordering::Relaxed) {
                return;
            }
            match ask(page, "GET", path) {
                Ok(answer) if answer.status == 200 || path == "/readyz" => {
                    soak.pages.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) => soak.fail(format!("the status of {path} is {}", answer.status)),
                // The service worker may have been killed.
                Err(_) => {
                    soak.pages_lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        // The worker may not be ready, and the answer may be lost with the service worker.
        let _ = ask(control, "POST", &format!("/control/retire?worker={}&wait=no", round % workers));
    }
}
