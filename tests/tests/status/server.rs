//! The server that the scenarios run, and a client for it.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use clap::Parser;
use forkio::{Server as ForkioServer, ServerOptions};
use forkio_tests::{Program, arguments, kill, limit, scenarios, wait_until};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use serde_json::Value;

#[derive(Parser)]
struct Options {
    /// A template loads this file.
    #[arg(long)]
    load: PathBuf,
    #[command(flatten)]
    server: ServerOptions,
}

/// If the file that a template loads contains this text, an upgrade fails: the new program cannot tell the old one that it is
/// ready.
pub(crate) const NOT_ANNOUNCED: &str = "not announced";

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/forever" {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(process::id().to_string()))
}

scenarios!(
    /// A server with the options on its command line. It logs to standard output.
    #[program]
    fn serve() {
        tracing_subscriber::fmt().with_ansi(false).with_writer(io::stdout).init();
        let Options { load, server } = Options::parse_from([String::new()].into_iter().chain(arguments()));
        let loaded = load.clone();
        let server = ForkioServer::new().options(server).on_ready(move |addresses| {
            println!("ready at {}", addresses[0]);
            if std::fs::read_to_string(loaded).is_ok_and(|text| text == NOT_ANNOUNCED) {
                forkio_tests::deny_sends_of("ready\n".len() as u32);
            }
        });
        let load = async move || std::fs::read_to_string(load);
        let _ = server.load(load).serve(|_: String, _| service_fn(answer)).run();
    }
);

pub(crate) struct Server {
    pub(crate) program: Program,
    /// The address of the workers' listener.
    pub(crate) address: String,
    /// The address of the status page.
    pub(crate) page: String,
    pub(crate) control: PathBuf,
    pub(crate) load: PathBuf,
}

/// A path that only this scenario uses.
pub(crate) fn own_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("forkio-status-{}-{name}", process::id()))
}

impl Server {
    /// Starts a server, and waits until it is ready. It has two workers and a status page on TCP, unless `options` set others.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Server {
        let (control, load) = (own_path("control"), own_path("load"));
        std::fs::write(&load, "loaded").expect("writing the file that a template loads");
        let paths = [control.display().to_string(), load.display().to_string()];
        let mut all = vec!["--listen", "127.0.0.1:0", "--control", &paths[0], "--load", &paths[1]];
        for default in [["--status", "127.0.0.1:0"], ["--workers", "2"]] {
            if !options.contains(&default[0]) {
                all.extend(default);
            }
        }
        all.extend(options);
        let mut program = Program::start("server::serve", &all);
        let mut page = String::new();
        loop {
            let line = program.line();
            if let Some((_, address)) = line.split_once("address=\"http://") {
                page = address.split('/').next().expect("an address").to_owned();
            }
            if let Some(address) = line.strip_prefix("ready at ") {
                return Server { program, address: address.to_owned(), page, control, load };
            }
        }
    }

    /// The process id of the supervisor.
    pub(crate) fn supervisor(&self) -> i32 {
        self.program.pid()
    }

    /// The state as JSON. The service worker may have to start first.
    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        let mut state = None;
        wait_until("the service worker answers", || {
            state = try_request(&self.page, "GET", "/status.json").ok();
            state.is_some()
        });
        serde_json::from_str(&state.expect("an answer").body).expect("JSON")
    }

    /// Waits until the state fulfils `condition`. Returns the state.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        let mut state = Value::Null;
        wait_until(what, || {
            state = self.state();
            condition(&state)
        });
        state
    }

    /// The process id of the worker that answers.
    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        request(&self.address, "GET", "/").body.parse().expect("a process id")
    }

    /// Sends a command over the control socket.
    #[track_caller]
    pub(crate) fn command(&self, command: &str) -> Answer {
        request(&self.control_address(), "POST", &format!("/control/{command}"))
    }

    pub(crate) fn control_address(&self) -> String {
        format!("unix:{}", self.control.display())
    }

    /// Stops the server. Checks that it has removed its control socket.
    #[track_caller]
    pub(crate) fn stop(self) {
        let Server { program, control, .. } = self;
        kill(program.pid(), libc::SIGTERM);
        program.finish_well();
        assert!(!control.exists(), "the socket is left");
    }
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) {
    let _is_gone = std::fs::remove_file(path);
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// Connects to a TCP address, or to `unix:` and a path.
pub(crate) fn connect(address: &str) -> io::Result<Box<dyn Stream>> {
    match address.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(limit()))?;
            Ok(Box::new(stream))
        }
        None => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(limit()))?;
            Ok(Box::new(stream))
        }
    }
}

pub(crate) fn send(address: &str, method: &str, path: &str) -> io::Result<Box<dyn Stream>> {
    let mut stream = connect(address)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Sends a request and reads the answer. Returns an error if the connection ends before the answer is complete.
pub(crate) fn try_request(address: &str, method: &str, path: &str) -> io::Result<Answer> {
    let mut text = String::new();
    send(address, method, path)?.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    // The service worker may have been killed while it answered.
    if length.is_some_and(|length: usize| length != body.len()) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

#[track_caller]
pub(crate) fn request(address: &str, method: &str, path: &str) -> Answer {
    try_request(address, method, path).expect("an answer")
}

/// The workers of a state.
pub(crate) fn workers(state: &Value) -> &[Value] {
    state["workers"].as_array().expect("workers")
}

pub(crate) fn pids(state: &Value) -> Vec<i64> {
    workers(state).iter().map(|worker| worker["pid"].as_i64().expect("a process id")).collect()
}

/// Whether a worker has the state "ready" or "busy".
pub(crate) fn is_serving(worker: &Value) -> bool {
    worker["state"] == "ready" || worker["state"] == "busy"
}

pub(crate) const PAUSE: Duration = Duration::from_millis(5);
