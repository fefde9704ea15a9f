//! An HTTP/1.1 client. The address of a server is `IP:PORT`, or `unix:` and a path.

use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;

use crate::limits::limit;
use crate::process::{read_to_end, try_connect_tcp};

/// A client's end of a connection.
pub trait Stream: Read + Write + Debug {}

impl<S: Read + Write + Debug> Stream for S {}

/// Connects to a server. Reads fail after the [`limit()`].
pub fn try_connect(address: &str) -> io::Result<Box<dyn Stream>> {
    let Some(path) = address.strip_prefix("unix:") else { return Ok(Box::new(try_connect_tcp(address)?)) };
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(limit()))?;
    Ok(Box::new(stream))
}

/// Connects to a server.
#[track_caller]
pub fn connect(address: &str) -> Box<dyn Stream> {
    try_connect(address).expect("connecting")
}

/// Connects, and sends a request after which the server closes the connection.
pub fn send(address: &str, method: &str, path: &str) -> io::Result<Box<dyn Stream>> {
    let mut stream = try_connect(address)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Sends a GET request after which the server closes the connection.
#[track_caller]
pub fn request(address: &str, path: &str) -> Box<dyn Stream> {
    send(address, "GET", path).expect("sending a request")
}

/// Reads a response up to the end of the connection. Its status must be 200. Returns the body.
#[track_caller]
pub fn body(stream: impl Read) -> String {
    let response = read_to_end(stream);
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response:?}");
    response.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// Sends a GET request. The status of the response must be 200. Returns the body.
#[track_caller]
pub fn get(address: &str, path: &str) -> String {
    body(request(address, path))
}

/// Sends a request and reads the response.
///
/// # Errors
///
/// Those of the system, and an error if the connection ends before the response is complete.
pub fn exchange(address: &str, method: &str, path: &str) -> io::Result<Response> {
    Response::read(&mut BufReader::new(send(address, method, path)?))
}

/// Reads up to the first `end`, and not beyond.
#[track_caller]
pub fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut response = Vec::new();
    while !response.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a response");
        response.push(byte[0]);
    }
    String::from_utf8_lossy(&response).into_owned()
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Reads a response with a `Content-Length`. The request must not be `HEAD`.
    ///
    /// # Errors
    ///
    /// Those of the stream, and an error if the response is not valid or not complete.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Response> {
        let mut response = Response::read_head(stream)?;
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        response.body.resize(length.ok_or_else(|| invalid("no content-length"))?, 0);
        stream.read_exact(&mut response.body)?;
        Ok(response)
    }

    /// Reads status and headers.
    ///
    /// # Errors
    ///
    /// Those of the stream, and an error if the head is not valid or not complete.
    pub fn read_head(stream: &mut impl BufRead) -> io::Result<Response> {
        let line = read_line(stream)?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| invalid(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(stream)?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| invalid(&line))?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Returns the value of a header, if the response has it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the server says that it closes the connection.
    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// Returns the body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None if line.ends_with('\n') => Err(invalid(&line)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Makes an error about a response that is not valid HTTP.
fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.escape_debug().to_string())
}

/// A client that keeps its connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to a server.
    pub fn connect(address: impl ToSocketAddrs) -> io::Result<Client> {
        let stream = try_connect_tcp(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(limit()))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Sends any bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a GET request.
    pub fn request(&mut self, path: &str) -> io::Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// Reads a response. The request must not be `HEAD`.
    pub fn response(&mut self) -> io::Result<Response> {
        Response::read(&mut self.stream)
    }

    /// Reads status and headers of a response.
    pub fn response_head(&mut self) -> io::Result<Response> {
        Response::read_head(&mut self.stream)
    }

    /// Sends a GET request and reads the response.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request(path)?;
        self.response()
    }

    /// Sends a GET request and reads the response. Unless `keeps`, the request asks the server to close the connection.
    ///
    /// # Errors
    ///
    /// Those of the system, and of [`Response::read`]. Also an error if the status is not 200.
    pub fn ask(&mut self, path: &str, keeps: bool) -> io::Result<Response> {
        let connection = if keeps { "keep-alive" } else { "close" };
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n"))?;
        let response = self.response()?;
        if response.status == 200 { Ok(response) } else { Err(io::Error::other(format!("{response:?}"))) }
    }

    /// Whether there is nothing to read, and the server has not closed the connection.
    pub fn is_quiet(&self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).expect("a socket");
        let quiet = stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).expect("a socket");
        quiet && self.stream.buffer().is_empty()
    }

    /// Waits until the server closes the connection. Panics if the server sends anything first.
    #[track_caller]
    pub fn expect_end(&mut self) {
        match self.stream.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("{other:?} instead of the end of the connection"),
        }
    }
}
