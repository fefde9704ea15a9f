//! HTTP/1.1 with well-behaved, slow and malformed clients.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use forkio_tests::http::Client;
use forkio_tests::{scenarios, until, wait_until};

use crate::server::{Server, program};
use crate::status::AskStatus;

scenarios!(
    /// Each path has its response, with the right status.
    fn routes() {
        let server = Server::start(&["--workers", "1"]);
        let mut client = server.connect();
        let hello = client.get("/").expect("an answer");
        assert_eq!((hello.status, hello.text()), (200, "Hello, World!"));
        assert_eq!(client.get("/?query").expect("an answer").status, 200);

        for (number, factor) in
            [(0, "0"), (1, "1"), (2, "2"), (91, "7"), (97, "97"), (1_040_399, "1019"), (1_048_575, "3")]
        {
            let entry = client.get(&format!("/table/{number}")).expect("an answer");
            assert_eq!((entry.status, entry.text()), (200, factor), "entry {number}");
        }
        for path in ["/table/1048576", "/table/-1", "/table/x", "/table/", "/table", "/nothing", "//", "/status/"] {
            assert_eq!(client.get(path).expect("an answer").status, 404, "{path}");
        }
        assert_eq!(client.get("/sleep/1").expect("an answer").text(), "slept 1 ms");
        for path in ["/sleep/60001", "/sleep/", "/sleep/-1", "/sleep/99999999999999999999"] {
            assert_eq!(client.get(path).expect("an answer").status, 400, "{path}");
        }

        client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").expect("sending");
        let head = client.response_head().expect("an answer");
        assert_eq!((head.status, head.header("content-length")), (200, Some("13")));
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\na=1").expect("sending");
        let post = client.response().expect("an answer");
        assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
        server.stop();
    }

    /// A connection serves any number of requests, even if the client does not wait for the responses.
    fn keep_alive_and_pipelining() {
        let server = Server::start(&["--workers", "2"]);
        let mut client = server.connect();
        let first = client.status();
        for _ in 0..100 {
            assert_eq!(client.get("/").expect("an answer").text(), "Hello, World!");
        }
        let last = client.status();
        assert_eq!((last.pid, last.requests), (first.pid, first.requests + 101));

        client.send("GET /table/15 HTTP/1.1\r\nHost: test\r\n\r\n".repeat(3)).expect("sending");
        client.send("GET /table/35 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("sending");
        for factor in ["3", "3", "3", "5"] {
            assert_eq!(client.response().expect("an answer").text(), factor);
        }
        client.expect_end();
        server.stop();
    }

    /// A malformed request gets the status 400, and its connection ends.
    fn malformed_request() {
        let server = Server::start(&["--workers", "1"]);
        for request in [
            "nonsense\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: test\r\nContent-Length: many\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\x01",
        ] {
            let mut client = server.connect();
            client.send(request).expect("sending");
            assert_eq!(client.response().expect("an answer").status, 400, "{request:?}");
            client.expect_end();
        }
        assert_eq!(server.connect().status().worker, 0);
        server.stop();
    }

    /// A head that is too long gets the status 431, and its connection ends.
    fn oversized_header() {
        let server = Server::start(&["--workers", "1"]);
        // The head is just above the limit, or far above it, or has too many headers.
        let long = |len| format!("GET / HTTP/1.1\r\nHost: test\r\nLong: {}\r\n\r\n", "x".repeat(len));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(500));
        for request in [long(16 * 1024), long(300 * 1024), many] {
            let mut client = server.connect();
            // The server may close the connection before it has read everything.
            let _ = client.send(&request);
            assert_eq!(client.response().expect("an answer").status, 431);
            client.expect_end();
        }
        let mut client = server.connect();
        client.send(long(15 * 1024)).expect("sending");
        assert_eq!(client.response().expect("an answer").status, 200);
        server.stop();
    }

    /// A client that does not send its request in time is cut off. Other clients are served.
    fn stalled_client_is_timed_out_alone() {
        let server = Server::start(&["--workers", "1", "--header-timeout", "1", "--keep-alive-timeout", "1"]);
        let start = Instant::now();
        let mut stalled: Vec<Client> = ["", "G", "GET / HTTP/1.1\r\nHost: te"]
            .into_iter()
            .map(|part| {
                let mut client = server.connect();
                client.send(part).expect("sending");
                client
            })
            .collect();
        // Sending one byte at a time does not extend the timeout.
        let mut dripping = server.connect();
        dripping.send("GET / HTTP/1.1\r\nDrip: ").expect("sending");

        let mut other = server.connect();
        let mut answered = start;
        // If the machine stalls, this client may be idle for longer than the timeout. The server then cuts it off, too.
        let mut serve = || {
            let asked = Instant::now();
            match other.get("/") {
                Ok(answer) => assert_eq!(answer.status, 200),
                Err(error) => {
                    assert!(answered.elapsed() >= Duration::from_secs(1), "{error}: the client was not idle");
                    other = server.connect();
                }
            }
            answered = asked;
        };
        let ended = until("the dripping client has been cut off", || {
            serve();
            let sent = dripping.send("x");
            (sent.is_err() || !dripping.is_quiet()).then(|| start.elapsed())
        });
        assert!(ended >= Duration::from_millis(900), "the dripping client was cut off after {ended:?} already");
        for client in &mut stalled {
            client.expect_end();
        }
        // The other client has not been idle, so its connection is open.
        serve();
        other.expect_end();
        server.stop();
    }

    /// The server announces and serves several addresses.
    fn several_listeners() {
        let mut command = Command::new(program());
        command.args(["--listen", "127.0.0.1:0", "--listen=127.0.0.1:0", "--workers", "2"]);
        let server = Server::start_as(&mut command, 2);
        assert_ne!(server.addresses[0], server.addresses[1]);
        for (address, line) in server.addresses.iter().zip(&server.announcements) {
            assert_eq!(*line, format!("listening on http://{address} (2 workers)\n"));
            let mut client = Client::connect(*address).expect("connecting");
            assert_eq!(client.get("/").expect("an answer").status, 200);
        }
        server.stop();
    }

    /// A worker that has no free descriptor waits for one, and does not end, spin or flood the log.
    fn out_of_descriptors() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -n 40; exec \"$0\" --listen 127.0.0.1:0 --workers 1 --header-timeout 600"]);
        let server = Server::start_as(command.arg(program()), 1);
        let start = Instant::now();
        let worker = server.workers();
        let mut crowd: Vec<Client> = (0..60).map(|_| server.connect()).collect();
        let complaints = || server.stderr().matches("cannot accept a connection").count();
        wait_until("the worker is out of descriptors", || complaints() >= 3);
        // No client is refused, and connected clients are served.
        assert_eq!(crowd[0].get("/").expect("an answer").status, 200);
        crowd.drain(..50);
        for client in &mut crowd {
            assert_eq!(client.get("/").expect("a connection that waited").status, 200);
        }
        let (complaints, elapsed) = (complaints(), start.elapsed());
        assert!(complaints as u128 <= elapsed.as_millis() / 100 + 2, "{complaints} lines in {elapsed:?}");
        assert_eq!(server.workers(), worker, "the worker was replaced");
        server.stop();
    }

    /// Clients that close their connection early do not disturb the server.
    fn clients_that_hang_up() {
        let server = Server::start(&["--workers", "1"]);
        for request in ["", "GET", "GET /sleep/60000 HTTP/1.1\r\nHost: test\r\n\r\n"] {
            for _ in 0..50 {
                let mut client = server.connect();
                match client.send(request) {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
                }
            }
        }
        server.check_serving();
        // The clients of the `/sleep` requests have hung up, so the server stops without waiting for these requests.
        server.stop();
    }
);
