//! How long a client may take, and how long its connection may be idle.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use clap::Parser;
use forkio::{Server, ServerOptions};
use forkio_tests::http::{self, Stream, connect, read_until, try_connect};
use forkio_tests::{Program, arguments, read_to_end, scenarios, wait_until};
use futures_util::StreamExt;
use futures_util::stream;

use crate::http::exit;

/// A limit that the scenarios reach, in seconds: long enough for a machine that stalls.
pub(crate) const LIMIT: &str = "1";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A limit that no scenario reaches, in seconds.
pub(crate) const NEVER: &str = "600";

/// How many bytes of bodies the worker has read.
static UPLOADED: AtomicUsize = AtomicUsize::new(0);

/// Few enough bytes for the two sockets of a connection together, but too many for a client's socket with a small buffer.
pub(crate) const MEDIUM: usize = 512 * 1024;

/// More bytes than the two sockets of a connection hold together.
const LARGE: usize = 32 * 1024 * 1024;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    server: ServerOptions,
}

/// A body that sends nothing for twice the limit, between its first byte and its second.
fn slow_body() -> Body {
    let second = stream::once(async {
        tokio::time::sleep(2 * SECOND).await;
        "b"
    });
    Body::from_stream(stream::iter(["a"]).chain(second).map(Ok::<_, Infallible>))
}

/// Answers at once, and then reads the body.
async fn answer_early(body: Body) -> &'static str {
    tokio::spawn(async {
        let mut parts = body.into_data_stream();
        while let Some(Ok(part)) = parts.next().await {
            UPLOADED.fetch_add(part.len(), Ordering::Relaxed);
        }
    });
    "accepted"
}

pub(crate) fn start(keep_alive_timeout: &str, header_timeout: &str) -> (Program, String) {
    // After the keep-alive timeout, a worker still serves a request that arrives within the idle grace. That would hide a
    // timeout that comes too early.
    let options = ["--keep-alive-timeout", keep_alive_timeout, "--header-timeout", header_timeout, "--idle-grace", "0"];
    Program::start_announced("timeouts::server", &options)
}

#[track_caller]
fn send_get(stream: &mut impl Write, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sending a request");
}

/// Sends a request that the server answers with `hello`.
#[track_caller]
fn get_hello(stream: &mut impl Stream) {
    send_get(stream, "/");
    read_until(stream, "hello");
}

/// Waits until the server has closed the connection. Fails if the server sends something first.
#[track_caller]
fn read_end(stream: &mut impl Read) {
    assert_eq!(read_to_end(stream), "");
}

scenarios!(
    /// A server with one worker and the options on the command line.
    #[program]
    fn server() {
        let options = Options::parse_from([String::new()].into_iter().chain(arguments()));
        let app = Router::new()
            .route("/", get(async || "hello"))
            .route("/slow", get(async || slow_body()))
            .route("/large", get(async || vec![b'x'; LARGE]))
            .route("/upload", post(answer_early))
            .route("/after", post(async |_: Bytes| vec![b'x'; MEDIUM]))
            .route("/uploaded", get(async || UPLOADED.load(Ordering::Relaxed).to_string()));
        let server = Server::new().options(options.server).bind("127.0.0.1:0").workers(1);
        exit(server.on_ready(|addresses| println!("{}", addresses[0])).serve(|_| app).run())
    }

    /// A connection that is idle for the keep-alive timeout is closed, but not before.
    fn idle_http1() {
        let (program, address) = start(LIMIT, NEVER);
        let mut stream = connect(&address);
        let mut last = Instant::now();
        for _ in 0..3 {
            last = Instant::now();
            get_hello(&mut stream);
        }
        read_end(&mut stream);
        assert!(last.elapsed() >= SECOND);
        program.stop();
    }

    /// The header timeout cuts off a client that sends only a part of a head, in its first request or in a later one.
    /// An idle connection has the keep-alive timeout.
    fn partial_heads() {
        let (program, address) = start(NEVER, LIMIT);
        let (mut idle, mut later) = (connect(&address), connect(&address));
        for stream in [&mut idle, &mut later] {
            get_hello(stream);
        }
        write!(idle, "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n").expect("sending a head");
        read_until(&mut idle, "accepted");
        idle.write_all(b"a body").expect("sending a body");
        for connected in [Some(later), None] {
            let mut stream = connected.unwrap_or_else(|| connect(&address));
            let sent = Instant::now();
            stream.write_all(b"GET / HTTP/1.1\r\nHos").expect("sending");
            read_end(&mut stream);
            assert!(sent.elapsed() >= SECOND / 2, "after {:?}", sent.elapsed());
        }
        get_hello(&mut idle);
        drop(idle);
        program.stop();
    }

    /// A connection is idle after a request without a body, even if the request before had one.
    fn idle_after_a_body() {
        let (program, address) = start(NEVER, LIMIT);
        let (mut known, mut chunked) = (connect(&address), connect(&address));
        let head = "POST /upload HTTP/1.1\r\nHost: localhost\r\n";
        write!(known, "{head}Content-Length: 1000\r\n\r\n{:1000}", "").expect("sending a request");
        write!(chunked, "{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello").expect("sending a part of a request");
        read_until(&mut chunked, "accepted");
        chunked.write_all(b"\r\n0\r\n\r\n").expect("sending the rest");
        read_until(&mut known, "accepted");
        for stream in [&mut known, &mut chunked] {
            get_hello(stream);
        }
        // This is longer than the header timeout.
        std::thread::sleep(2 * SECOND);
        for stream in [&mut known, &mut chunked] {
            get_hello(stream);
        }
        program.stop();
    }

    /// The header timeout also applies if the first part of a head arrives together with the previous request, or
    /// during the response to that request.
    fn partial_heads_in_a_pipeline() {
        let (program, address) = start(NEVER, LIMIT);
        let mut together = connect(&address);
        together.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHos").expect("sending");
        let mut meanwhile = connect(&address);
        send_get(&mut meanwhile, "/slow");
        read_until(&mut meanwhile, "1\r\na\r\n");
        meanwhile.write_all(b"GET / HTTP/1.1\r\nHos").expect("sending");
        read_until(&mut together, "hello");
        read_until(&mut meanwhile, "1\r\nb\r\n0\r\n\r\n");
        read_end(&mut together);
        read_end(&mut meanwhile);
        program.stop();
    }

    /// Neither timeout applies to a response under way, whether its body or its client is slow. The client may have sent its next
    /// request already, or a part of it.
    fn slow_responses() {
        let (program, address) = start(LIMIT, LIMIT);
        let (mut large, mut slow, mut pipelined) = (connect(&address), connect(&address), connect(&address));
        send_get(&mut large, "/large");
        large.read_exact(&mut [0]).expect("a response");
        send_get(&mut large, "/");
        send_get(&mut slow, "/slow");
        send_get(&mut pipelined, "/slow");
        for stream in [&mut slow, &mut pipelined] {
            read_until(stream, "1\r\na\r\n");
        }
        pipelined.write_all(b"GET / HTTP/1.1\r\nHos").expect("sending");
        for stream in [&mut slow, &mut pipelined] {
            read_until(stream, "1\r\nb\r\n0\r\n\r\n");
        }
        let mut response = Vec::new();
        large.read_to_end(&mut response).expect("the end of the stream");
        assert!(response.len() > LARGE && response.ends_with(b"hello"), "{} bytes", response.len());
        read_end(&mut slow);
        program.stop();
    }

    /// A response that began before its worker was told to end does not say that the connection ends. The client may
    /// then send one more request within the grace time.
    fn request_after_a_slow_response() {
        let options = ["--keep-alive-timeout", NEVER, "--idle-grace", LIMIT, "--shutdown-timeout", NEVER];
        let (program, address) = Program::start_announced("timeouts::server", &options);
        let mut stream = connect(&address);
        send_get(&mut stream, "/slow");
        read_until(&mut stream, "1\r\na\r\n");
        program.signal(libc::SIGTERM);
        // The rest comes after the grace time.
        read_until(&mut stream, "1\r\nb\r\n0\r\n\r\n");
        send_get(&mut stream, "/");
        let response = read_to_end(&mut stream);
        assert!(response.contains("connection: close\r\n") && response.ends_with("hello"), "{response:?}");
        program.finish_well();
    }

    /// A client may send the body of its request after the response, for longer than the timeouts.
    fn upload_after_the_response() {
        let (program, address) = start(LIMIT, LIMIT);
        let mut upload = connect(&address);
        write!(upload, "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n")
            .expect("sending a head");
        read_until(&mut upload, "accepted");
        for _ in 0..6 {
            std::thread::sleep(SECOND / 3);
            upload.write_all(b"x").expect("sending a byte");
        }
        wait_until("the worker has read the body", || http::get(&address, "/uploaded") == "6");
        program.stop();
    }

    /// A server without limits: an `Instant` cannot hold the sum of a time and these durations.
    #[program]
    fn unlimited() {
        let server = Server::new().bind("127.0.0.1:0").workers(1).shutdown_timeout(Duration::MAX);
        let server = server.header_timeout(Duration::MAX).keep_alive_timeout(Duration::MAX).idle_grace(Duration::MAX);
        let app = Router::new().route("/", get(async || "hello"));
        exit(server.on_ready(|addresses| println!("{}", addresses[0])).serve(|_| app).run())
    }

    /// Without limits, a worker that must end waits for the next request of each connection.
    fn no_limits() {
        let (program, address) = Program::start_announced("timeouts::unlimited", &[]);
        let (mut fresh, mut idle) = (connect(&address), connect(&address));
        get_hello(&mut idle);
        program.signal(libc::SIGTERM);
        wait_until("the server accepts no more", || try_connect(&address).is_err());
        for stream in [&mut fresh, &mut idle] {
            get_hello(stream);
        }
        program.finish_well();
    }

    /// The keep-alive timeout zero turns keep-alive off.
    fn no_keep_alive() {
        let (program, address) = start("0", NEVER);
        let mut stream = connect(&address);
        send_get(&mut stream, "/");
        let response = read_to_end(&mut stream);
        assert!(response.contains("connection: close\r\n"), "{response}");
        program.stop();
    }
);
