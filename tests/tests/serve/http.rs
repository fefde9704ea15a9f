//! How workers serve HTTP, and how their connections end.

use std::convert::Infallible;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use clap::Parser;
use forkio::prefork::http::Http;
use forkio::prefork::{Prefork, Worker, WorkerHandle};
use forkio::{HttpService, Hyper, Server, ServerOptions};
use forkio_tests::http::{body, connect, get, read_until, request, try_connect};
use forkio_tests::{Program, arguments, limit, read_to_end, scenarios, temporary_path, wait_until};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{ends_before_it_is_killed, wait_for};

#[derive(Parser)]
struct Options {
    /// The file that a template loads.
    #[arg(long)]
    load: Option<String>,
    /// The file that the supervisor loads.
    #[arg(long)]
    preload: Option<String>,
    /// Whether workers fail to make their service.
    #[arg(long)]
    fails: bool,
    #[command(flatten)]
    server: ServerOptions,
}

impl Options {
    fn server(&self) -> Server {
        Server::new().options(self.server.clone()).on_ready(|addresses| {
            for address in addresses {
                println!("{address}");
            }
        })
    }
}

fn service(loaded: String, worker: WorkerHandle) -> impl HttpService<Hyper> {
    let loaded = Arc::new(loaded);
    service_fn(move |request| answer(request, Arc::clone(&loaded), worker.clone()))
}

async fn answer(
    mut request: Request<Incoming>,
    loaded: Arc<String>,
    worker: WorkerHandle,
) -> Result<Response<String>, Infallible> {
    let is_connect = request.method() == Method::CONNECT;
    let text = match if is_connect { "/echo" } else { request.uri().path() } {
        "/loaded" => loaded.to_string(),
        "/requests" => worker.requests().to_string(),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow".to_owned()
        }
        "/stuck" => std::future::pending().await,
        "/panic" => panic!("in the handler"),
        "/threads" => tokio::runtime::Handle::current().metrics().num_workers().to_string(),
        "/echo" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..read]).await.expect("writing");
                }
            });
            let mut response = Response::new(String::new());
            if is_connect {
                return Ok(response);
            }
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, "upgrade".parse().expect("a value"));
            response.headers_mut().insert(UPGRADE, "echo".parse().expect("a value"));
            return Ok(response);
        }
        _ => process::id().to_string(),
    };
    Ok(Response::new(text))
}

/// Exits with `code`. Compares it with each number, because an `ExitCode` does not reveal its value.
pub(crate) fn exit(code: ExitCode) -> ! {
    process::exit((0..=255).find(|number| ExitCode::from(*number) == code).expect("a status").into())
}

/// Starts the program [`server`] and waits until it is ready. Returns its addresses.
#[track_caller]
fn start(args: &[&str]) -> (Program, Vec<String>) {
    // A slow machine must not cut off draining connections.
    let mut program = Program::start("http::server", &[&["--shutdown-timeout", "600"][..], args].concat());
    let listeners = args.iter().filter(|argument| **argument == "--listen").count();
    let addresses = (0..listeners).map(|_| program.line()).collect();
    (program, addresses)
}

pub(crate) const TCP: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// Starts the program [`server`] on one TCP port, with these options. Returns its address.
#[track_caller]
pub(crate) fn start_tcp(options: &[&str]) -> (Program, String) {
    let (program, mut addresses) = start(&[&TCP[..], options].concat());
    (program, addresses.remove(0))
}

scenarios!(
    /// A server that the command line configures.
    #[program]
    fn server() {
        let options = Options::parse_from([String::new()].into_iter().chain(arguments()));
        let server = options.server();
        if let Some(path) = options.preload {
            let server = server.preload(async move || fs::read_to_string(path));
            exit(server.serve(|loaded, worker| service(loaded, worker.handle())).run());
        }
        exit(match options.load {
            None if options.fails => server.serve_with(async |_| Err::<Router, _>("there is no database")).run(),
            None => server.serve(|worker| service("nothing".to_owned(), worker.handle())).run(),
            Some(path) => server
                .load(async move || fs::read_to_string(path))
                .serve_with(async |loaded, worker| Ok::<_, Infallible>(service(loaded, worker.handle())))
                .run(),
        })
    }

    /// A server in one line. The argument is its address.
    #[program]
    fn one_line() {
        let [address] = arguments().try_into().expect("an address");
        exit(forkio::serve(
            address,
            service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(Response::new("Hello!".to_owned()))),
        ))
    }

    /// A server in one line answers, and removes its socket when it stops.
    fn one_line_serves() {
        let path = temporary_path("one-line");
        let address = format!("unix:{}", path.display());
        let program = Program::start("http::one_line", &[&address]);
        wait_for(&address);
        assert_eq!(get(&address, "/"), "Hello!");
        program.stop();
        assert!(!path.exists());
    }

    /// A server listens on TCP and Unix addresses at the same time, and its workers answer on each.
    fn all_addresses_are_served() {
        let path = temporary_path("both");
        let unix = format!("unix:{}", path.display());
        let (program, addresses) =
            start(&["--listen", "127.0.0.1:0", "--listen", "localhost:0", "--listen", &unix, "--workers", "2"]);
        assert_eq!(addresses.len(), 3);
        assert_eq!(addresses[2], unix);
        for address in &addresses {
            assert_ne!(get(address, "/"), program.pid().to_string());
        }
        program.stop();
        assert!(!path.exists());
    }

    /// A reload loads the application again.
    #[cfg(procfs)]
    fn reload_loads_again() {
        let path = temporary_path("load");
        fs::write(&path, "first").expect("writing");
        let (program, address) = start_tcp(&["--workers", "2", "--load", path.to_str().expect("UTF-8")]);
        assert_eq!(get(&address, "/loaded"), "first");
        fs::write(&path, "second").expect("writing");
        program.signal(libc::SIGHUP);
        wait_until("the new generation answers", || get(&address, "/loaded") == "second");
        program.stop();
    }

    /// A worker counts its requests, and is replaced after `--max-requests`.
    fn worker_is_replaced() {
        let (program, address) = start_tcp(&["--workers", "1", "--max-requests", "3", "--jitter", "0"]);
        let first = get(&address, "/");
        assert_eq!(get(&address, "/requests"), "2");
        wait_until("another worker answers", || get(&address, "/") != first);
        program.stop();
    }

    /// A worker has as many threads as `--worker-threads` says.
    fn worker_has_threads() {
        let (program, address) = start_tcp(&["--workers", "1", "--worker-threads", "3"]);
        assert_eq!(get(&address, "/threads"), "3");
        let slow = request(&address, "/slow");
        program.signal(libc::SIGTERM);
        assert_eq!(body(slow), "slow");
        program.finish_well();
    }

    /// A panic in a handler ends its connection. The worker continues.
    fn panic_in_a_handler() {
        let (program, address) = start_tcp(&["--workers", "1"]);
        let worker = get(&address, "/");
        assert_eq!(read_to_end(request(&address, "/panic")), "");
        assert_eq!(get(&address, "/"), worker);
        program.stop();
    }

    /// On Linux, the last response of a connection and the end of the stream arrive in one segment. A client that has read the
    /// response can therefore read the end at once.
    fn end_comes_with_the_last_response() {
        let (program, address) = start_tcp(&[]);
        let requests = ["GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"];
        for request in requests.into_iter().cycle().take(200) {
            let mut stream = TcpStream::connect(&address).expect("connecting");
            stream.write_all(request.as_bytes()).expect("writing");
            stream.set_nonblocking(true).expect("making reads return at once");
            let (mut response, until) = ([0; 1024], Instant::now() + limit());
            // Do not sleep: a sleeping client might wake only after a separate segment has brought the end, and would
            // not notice the difference.
            let read = loop {
                match stream.read(&mut response) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {}
                    result => break result.expect("a response"),
                }
            };
            let text = String::from_utf8_lossy(&response[..read]);
            assert!(text.contains(" 200 OK\r\n"), "{text:?}");
            if cfg!(target_os = "linux") {
                assert_eq!(stream.read(&mut response).expect("the end of the stream"), 0);
            }
        }
        program.stop();
    }

    /// A client whose upgrade is refused gets the response, even if it has sent more than the server reads. The
    /// connection is then reset. Except on Linux, the reset discards bytes that the client has not read yet.
    fn refused_upgrade() {
        if !cfg!(target_os = "linux") {
            return;
        }
        let (program, address) = start_tcp(&[]);
        let mut stream = connect(&address);
        let head = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUpgrade: unknown\r\n\r\n";
        stream.write_all(&[head.as_bytes(), &[b'x'; 30_000]].concat()).expect("writing");
        let mut response = [0; 12];
        stream.read_exact(&mut response).expect("the response");
        assert_eq!(&response, b"HTTP/1.1 200");
        drop(stream);
        program.stop();
    }

    /// HTTP/2 is recognised by its first bytes.
    fn http2() {
        let (program, address) = start_tcp(&[]);
        let mut stream = connect(&address);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("writing");
        let mut header = [0; 9];
        stream.read_exact(&mut header).expect("a frame");
        assert_eq!(header[3], 4, "not SETTINGS: {header:?}");
        drop(stream);
        program.stop();
    }

    /// A connection that was upgraded is kept until its client ends it.
    fn upgraded_connection_is_kept() {
        let (program, address) = start_tcp(&["--workers", "1"]);
        let mut stream = connect(&address);
        write!(stream, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
            .expect("writing");
        let response = read_until(&mut stream, "\r\n\r\n");
        assert!(response.starts_with("HTTP/1.1 101"), "{response}");
        program.signal(libc::SIGTERM);
        wait_until("the server accepts no more", || try_connect(&address).is_err());
        stream.write_all(b"still here").expect("writing");
        let mut echo = [0; 10];
        stream.read_exact(&mut echo).expect("an echo");
        assert_eq!(&echo, b"still here");
        drop(stream);
        program.finish_well();
    }

    /// A request that takes longer than the shutdown timeout is cut off. The exit status shows that.
    fn cut_off() {
        ends_before_it_is_killed(|| {
            let mut program =
                Program::start("http::server", &[&TCP[..], &["--workers", "1", "--shutdown-timeout", "0.05"]].concat());
            let address = program.line();
            let stuck = request(&address, "/stuck");
            // The worker has one queue and one thread, so an answer to this request shows that the stuck one has begun.
            get(&address, "/");
            program.signal(libc::SIGTERM);
            assert_eq!(read_to_end(stuck), "");
            program
        });
    }

    /// A server whose worker continues after it has cut off connections.
    #[program]
    async fn continuing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("the address of a listener"));
        let prefork = Prefork::new().listener(listener).workers(1).shutdown_timeout(Duration::from_millis(50));
        let ended = prefork.run(async |mut worker: Worker| {
            let handle = worker.handle();
            let stuck = service_fn(move |request| answer(request, Arc::default(), handle.clone()));
            let cut_off = Http::new().serve(&mut worker, stuck).await;
            worker.connections().all_closed().await;
            println!("closed");
            cut_off
        });
        process::exit(ended.await.expect("a server").exit_code().into());
    }

    /// Connections that are cut off are closed, although their worker has not ended.
    fn cut_off_connections_are_closed() {
        ends_before_it_is_killed(|| {
            let (mut program, address) = Program::start_announced("http::continuing", &[]);
            let stuck = request(&address, "/stuck");
            get(&address, "/");
            program.signal(libc::SIGTERM);
            assert_eq!(program.line(), "closed");
            drop(stuck);
            program
        });
    }

    /// If workers fail to make their service, the server ends with status 1.
    fn service_fails() {
        let program =
            Program::start("http::server", &[&TCP[..], &["--workers", "1", "--crash-limit", "2", "--fails"]].concat());
        let (status, output) = program.finish();
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(output.contains("before it was ready"), "{output}");
    }

    /// After a reload, workers still have the data that the supervisor loaded. The supervisor does not load again.
    fn preloads_once() {
        let path = temporary_path("preload");
        fs::write(&path, "first").expect("writing");
        let file = path.to_str().expect("UTF-8");
        let (program, address) = start_tcp(&["--workers", "1", "--preload", file]);
        let worker = get(&address, "/");
        assert_eq!(get(&address, "/loaded"), "first");
        fs::remove_file(&path).expect("removing");
        program.signal(libc::SIGHUP);
        wait_until("a new worker answers", || get(&address, "/") != worker);
        assert_eq!(get(&address, "/loaded"), "first");
        program.stop();
    }

    /// A supervisor that cannot load the application ends, and its error says why.
    fn preload_fails() {
        let path = temporary_path("preload-missing");
        let missing = path.to_str().expect("UTF-8");
        let (status, output) = Program::start("http::server", &[&TCP[..], &["--preload", missing]].concat()).finish();
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(output.contains("cannot load the application: No such file"), "{output}");
    }
);
