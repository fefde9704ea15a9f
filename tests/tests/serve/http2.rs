//! HTTP/2: how connections end. The client is written by hand, so that it can be slow or vanish.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use forkio_tests::{Program, connect_tcp, scenarios};
use socket2::SockRef;

use crate::ends_before_it_is_killed;
use crate::http::TCP;
use crate::timeouts::{LIMIT, MEDIUM, NEVER, SECOND, start};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// A flag of SETTINGS and PING.
const ACK: u8 = 1;
/// A flag of HEADERS and DATA, with the same bit as [`ACK`].
const END_STREAM: u8 = 1;
/// A flag of HEADERS.
const END_HEADERS: u8 = 4;

/// The field `:method: GET` in HPACK.
const GET: u8 = 0x82;
/// The field `:method: POST` in HPACK.
const POST: u8 = 0x83;

#[derive(Debug)]
struct Client(TcpStream);

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

impl Client {
    /// Connects. The flow control of HTTP/2 never stops the server, but the socket of the client holds little.
    #[track_caller]
    fn connect(address: &str) -> Client {
        let stream = connect_tcp(address);
        SockRef::from(&stream).set_recv_buffer_size(MEDIUM / 8).expect("a small buffer");
        let mut client = Client(stream);
        client.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("writing");
        client.write(SETTINGS, 0, 0, b"\0\x04\x7f\xff\xff\xff").expect("writing");
        client.write(WINDOW_UPDATE, 0, 0, b"\x7f\xff\0\0").expect("writing");
        client
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&[&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat())
    }

    /// Sends the head of the first request.
    #[track_caller]
    fn request(&mut self, method: u8, path: &str, flags: u8) {
        self.request_on(1, method, path, flags);
    }

    #[track_caller]
    fn request_on(&mut self, stream: u8, method: u8, path: &str, flags: u8) {
        let head = [&[method, 0x86, 0x44, path.len() as u8], path.as_bytes(), b"\x41\x04test"].concat();
        self.write(HEADERS, flags | END_HEADERS, stream, &head).expect("writing");
    }

    fn read(&mut self) -> io::Result<Frame> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header)?;
        let [_, high, low, kind, flags, ..] = header;
        let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
        self.0.read_exact(&mut payload)?;
        Ok(Frame { kind, flags, payload })
    }

    /// Acknowledges settings, pings and data. The server may have closed the connection.
    fn answer(&mut self, frame: &Frame) -> io::Result<()> {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, b""),
            PING if frame.flags & ACK == 0 => self.write(PING, ACK, 0, &frame.payload),
            DATA if !frame.payload.is_empty() => {
                self.write(WINDOW_UPDATE, 0, 0, &(frame.payload.len() as u32).to_be_bytes())
            }
            _ => Ok(()),
        }
    }

    /// Reads frames until the server closes the connection. Acknowledges them, if `answers`.
    #[track_caller]
    fn read_all(&mut self, answers: bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.read() {
                Ok(frame) => {
                    if answers {
                        let _ = self.answer(&frame);
                    }
                    frames.push(frame);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no end after {frames:?}"),
                Err(_) => return frames,
            }
        }
    }
}

fn body_length(frames: &[Frame]) -> usize {
    frames.iter().filter(|frame| frame.kind == DATA).map(|frame| frame.payload.len()).sum()
}

scenarios!(
    /// The server sends GOAWAY on an idle connection, and closes the connection, even if the client has vanished.
    fn idle() {
        let (program, address) = start(LIMIT, LIMIT);
        for answers in [true, false] {
            let mut client = Client::connect(&address);
            client.request(GET, "/", END_STREAM);
            let frames = client.read_all(answers);
            assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{frames:?}");
        }
        program.stop();
    }

    /// If a client has vanished, its worker still ends without an error, even if the client made a request after GOAWAY.
    fn vanished_client() {
        let (program, address) = start(NEVER, NEVER);
        let (mut silent, mut late) = (Client::connect(&address), Client::connect(&address));
        for client in [&mut silent, &mut late] {
            client.request(GET, "/", END_STREAM);
            client.read().expect("a frame");
        }
        program.signal(libc::SIGTERM);
        while late.read().expect("a frame").kind != GOAWAY {}
        late.request_on(3, GET, "/", END_STREAM);
        assert_eq!(body_length(&late.read_all(false)), "hello".len());
        silent.read_all(false);
        program.finish_well();
    }

    /// A worker that must end keeps a connection whose stream was handed over (CONNECT), until the shutdown timeout.
    fn handed_over_stream() {
        ends_before_it_is_killed(|| {
            let mut program =
                Program::start("http::server", &[&TCP[..], &["--workers", "1", "--shutdown-timeout", LIMIT]].concat());
            let mut client = Client::connect(&program.line());
            client.write(HEADERS, END_HEADERS, 1, b"\x02\x07CONNECT\x41\x04test").expect("writing");
            client.write(DATA, 0, 1, b"echo").expect("writing");
            while client.read().expect("a frame").kind != DATA {}
            program.signal(libc::SIGTERM);
            client.read_all(true);
            program
        });
    }

    /// No timeout applies to a response for which the client has no room.
    fn stalled_client() {
        let (program, address) = start(LIMIT, LIMIT);
        let mut client = Client::connect(&address);
        client.write(SETTINGS, 0, 0, b"\0\x04\0\0\x04\0").expect("writing");
        client.request(POST, "/after", END_STREAM);
        // The pause is longer than the keep-alive timeout and the header timeout.
        std::thread::sleep(4 * SECOND);
        client.write(WINDOW_UPDATE, 0, 1, &(MEDIUM as u32).to_be_bytes()).expect("writing");
        assert_eq!(body_length(&client.read_all(true)), MEDIUM);
        program.stop();
    }

    /// A worker that must end sends the whole last response, even if the client reads and acknowledges it later than the worker
    /// writes it.
    fn last_response_to_a_slow_client() {
        let (program, address) = start(NEVER, NEVER);
        let mut client = Client::connect(&address);
        client.request(POST, "/after", 0);
        program.signal(libc::SIGTERM);
        loop {
            let frame = client.read().expect("a frame");
            client.answer(&frame).expect("writing");
            if frame.kind == PING {
                break;
            }
        }
        client.write(DATA, END_STREAM, 1, b"").expect("writing");
        // The client is slow: the worker writes the whole response meanwhile.
        std::thread::sleep(SECOND / 3);
        assert_eq!(body_length(&client.read_all(true)), MEDIUM);
        drop(client);
        program.finish_well();
    }
);
