//! The crate on systems without `fork(2)`. On Linux, `--cfg forkio_without_fork` builds the same crate.
#![cfg(all(forkio_without_fork, feature = "http"))]

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use forkio::{ProcessRuntime, RuntimeError, ServeError, Server};
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::runtime::Builder;

/// Held by each test that runs a server. SIGINT stops all servers of this process.
static SERVER: Mutex<()> = Mutex::new(());

#[test]
fn a_server_finishes_the_requests_in_flight_when_it_stops() {
    let _alone = SERVER.lock();
    let (ready, address) = mpsc::channel();
    let server = thread::spawn(move || {
        Server::new()
            .bind("127.0.0.1:0")
            .worker_threads(2)
            .shutdown_timeout(Duration::from_secs(60))
            // An `Instant` cannot hold the sum of a time and these durations.
            .header_timeout(Duration::MAX)
            .keep_alive_timeout(Duration::MAX)
            .on_ready(move |addresses| ready.send(addresses[0].to_string()).unwrap())
            .load(|| async { Ok::<_, io::Error>("loaded") })
            .serve(|loaded: &str, worker| {
                let text = format!("{loaded} by {}", worker.index());
                service_fn(move |_: Request<_>| {
                    let text = text.clone();
                    async { Ok::<_, Infallible>(Response::new(text)) }
                })
            })
            .try_run()
    });
    let mut connection = TcpStream::connect(address.recv().unwrap()).unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut head = [0; 15];
    connection.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    // The server began to handle SIGINT before it called `on_ready`, so the signal does not end the test.
    interrupt_this_process();
    let mut rest = String::new();
    connection.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("loaded by 0"), "{rest}");
    server.join().unwrap().unwrap();
}

/// A connection ends if its first request takes longer than the header timeout, or if it is idle for the keep-alive timeout.
#[test]
fn a_server_does_not_wait_for_requests_forever() {
    let _alone = SERVER.lock();
    const NEVER: Duration = Duration::from_secs(600);
    for (header_timeout, keep_alive_timeout, request) in [
        (Duration::from_millis(500), NEVER, "GET / HT"),
        (NEVER, Duration::from_millis(500), "GET / HTTP/1.1\r\nhost: test\r\n\r\n"),
        (NEVER, Duration::ZERO, "GET / HTTP/1.1\r\nhost: test\r\n\r\n"),
    ] {
        let (ready, address) = mpsc::channel();
        thread::spawn(move || {
            Server::new()
                .bind("127.0.0.1:0")
                .header_timeout(header_timeout)
                .keep_alive_timeout(keep_alive_timeout)
                .on_ready(move |addresses| ready.send(addresses[0].to_string()).unwrap())
                .serve(|_| service_fn(|_: Request<_>| async { Ok::<_, Infallible>(Response::new("hello".to_owned())) }))
                .try_run()
        });
        let mut connection = TcpStream::connect(address.recv().unwrap()).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        connection.read_to_string(&mut response).unwrap();
        assert_eq!(response.ends_with("hello"), request.ends_with("\r\n\r\n"), "{response:?}");
    }
}

/// A connection whose request takes too long is cut off at the shutdown timeout.
#[test]
fn a_server_says_how_many_connections_it_cut_off() {
    let _alone = SERVER.lock();
    let (ready, address) = mpsc::channel();
    let (begin, begun) = mpsc::channel();
    let server = thread::spawn(move || {
        let answer = move |_: Request<_>| {
            begin.send(()).unwrap();
            std::future::pending::<Result<Response<String>, Infallible>>()
        };
        Server::new()
            .bind("127.0.0.1:0")
            .shutdown_timeout(Duration::from_millis(100))
            .on_ready(move |addresses| ready.send(addresses[0].to_string()).unwrap())
            .serve(move |_| service_fn(answer.clone()))
            .try_run()
    });
    let mut connection = TcpStream::connect(address.recv().unwrap()).unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    begun.recv().unwrap();
    interrupt_this_process();
    let error = server.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "cut off 1 connection that was open at the shutdown timeout");
    let several = ServeError::CutOff(2).to_string();
    assert_eq!(several, "cut off 2 connections that were open at the shutdown timeout");
}

/// Sends SIGINT to this process, like Ctrl+C.
fn interrupt_this_process() {
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args(["-INT", &std::process::id().to_string()]).status().unwrap().success());
}

#[test]
fn a_server_says_why_it_does_not_start() {
    let hello = move || service_fn(|_: Request<_>| async { Ok::<_, Infallible>(Response::new("hello".to_owned())) });
    assert!(matches!(Server::new().serve(move |_| hello()).try_run(), Err(ServeError::NoListener)));
    let error = Server::new().bind("8080").serve(move |_| hello()).try_run().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let error = Server::new().bind("unix:/app.sock").serve(move |_| hello()).try_run().unwrap_err();
    assert!(matches!(error, ServeError::Listen { .. }), "{error}");
    let fails = async move |_: &forkio::prefork::Worker| match "no" {
        "yes" => Ok(hello()),
        text => Err(text),
    };
    let error = Server::new().bind("127.0.0.1:0").serve_with(fails).try_run().unwrap_err();
    assert_eq!(error.to_string(), "cannot load the application or make its service: no");
}

#[test]
fn a_runtime_is_built_once_and_again_after_a_shutdown() {
    static RUNTIME: ProcessRuntime = ProcessRuntime::new(|| Builder::new_multi_thread().worker_threads(1).build());
    let first = RUNTIME.get().unwrap().id();
    assert_eq!(RUNTIME.block_on(async { 6 * 7 }).unwrap(), 42);
    assert_eq!(RUNTIME.get().unwrap().id(), first);
    RUNTIME.shutdown_timeout(Duration::from_secs(60));
    assert_ne!(RUNTIME.get().unwrap().id(), first);
}

#[test]
fn a_runtime_says_why_it_is_not_built() {
    static INSIDE: ProcessRuntime = ProcessRuntime::new(|| match INSIDE.get() {
        Err(RuntimeError::InsideBuild) => {
            // There is no runtime to shut down yet.
            INSIDE.shutdown_timeout(Duration::from_secs(60));
            Err(io::Error::other("inside"))
        }
        _ => Builder::new_current_thread().build(),
    });
    assert_eq!(INSIDE.get().unwrap_err().to_string(), "cannot build the runtime: inside");
}
