//! A small HTTP/1.1 client for the tests.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::server::LIMIT;

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }
}

/// The answer to `GET /status`.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) pid: u32,
    pub(crate) ppid: u32,
    pub(crate) worker: u64,
    pub(crate) generation: u64,
    pub(crate) requests: u64,
    pub(crate) connections: Vec<u64>,
    pub(crate) timer_ticks: u64,
    pub(crate) uptime_ms: u64,
    pub(crate) table_entries: u64,
    pub(crate) rss_kib: u64,
    pub(crate) pss_kib: u64,
}

impl Status {
    pub(crate) fn parse(json: &[u8]) -> Status {
        let json: Value = serde_json::from_slice(json).expect("JSON");
        let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {json}"));
        let pid = |name: &str| u32::try_from(number(name)).expect("a process id");
        Status {
            pid: pid("pid"),
            ppid: pid("ppid"),
            worker: number("worker"),
            generation: number("generation"),
            requests: number("requests"),
            connections: json["connections"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect(),
            timer_ticks: number("timer_ticks"),
            uptime_ms: number("uptime_ms"),
            table_entries: number("table_entries"),
            rss_kib: number("rss_kib"),
            pss_kib: number("pss_kib"),
        }
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    pub(crate) fn request(&mut self, path: &str) -> io::Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// Reads one response. The request must not be `HEAD`.
    pub(crate) fn response(&mut self) -> io::Result<Response> {
        let mut response = self.response_head()?;
        let len = response.header("content-length").and_then(|len| len.parse().ok());
        response.body.resize(len.ok_or_else(|| invalid("no content-length"))?, 0);
        self.stream.read_exact(&mut response.body)?;
        Ok(response)
    }

    pub(crate) fn response_head(&mut self) -> io::Result<Response> {
        let line = self.line()?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| invalid(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| invalid(&line))?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None if line.ends_with('\n') => Err(invalid(&line)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request(path)?;
        self.response()
    }

    #[track_caller]
    pub(crate) fn status(&mut self) -> Status {
        let response = self.get("/status").expect("an answer to /status");
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        Status::parse(&response.body)
    }

    /// Whether the server has sent nothing and has not closed the connection.
    pub(crate) fn is_quiet(&self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).expect("a socket");
        let quiet = stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).expect("a socket");
        quiet && self.stream.buffer().is_empty()
    }

    /// Waits until the server closes the connection. Panics if the server sends anything first.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        match self.stream.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("{other:?} instead of the end of the connection"),
        }
    }
}

/// An error about a response that is not valid HTTP.
fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.escape_debug().to_string())
}
