//! The server that the scenarios run, and a client for it.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::process;

use clap::Parser;
use forkio::{Server as ForkioServer, ServerOptions};
use forkio_tests::http::{self, Stream, exchange, get, send};
use forkio_tests::{Program, arguments, scenarios, temporary_path, until};
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

impl Server {
    /// Starts a server, and waits until it is ready. It has two workers and a status page on TCP, unless `options` set others.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Server {
        let (control, load) = (temporary_path("control"), temporary_path("load"));
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
        until("the service worker answers", || state_at(&self.page))
    }

    /// Waits until the state fulfils `condition`. Returns the state.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        until(what, || Some(self.state()).filter(|state| condition(state)))
    }

    #[track_caller]
    pub(crate) fn until_two_serve(&self) -> Value {
        self.until("two workers serve", |state| serving(state) == 2)
    }

    /// The process id of the service worker.
    #[track_caller]
    pub(crate) fn service_worker(&self) -> i32 {
        self.state()["server"]["service_pid"].as_i64().expect("a process id") as i32
    }

    /// Waits until a service worker other than `pid` answers. Returns the state.
    #[track_caller]
    pub(crate) fn until_another_service_worker(&self, pid: i32) -> Value {
        self.until("another service worker answers", |state| state["server"]["service_pid"] != pid)
    }

    /// Sends a request that is in flight until the returned client is dropped.
    #[track_caller]
    pub(crate) fn hold_request(&self) -> Box<dyn Stream> {
        let client = send(&self.address, "GET", "/forever").expect("a request");
        self.until("the request is in flight", |state| {
            workers(state).iter().any(|worker| worker["requests_in_flight"] == 1)
        });
        client
    }

    /// The process id of the worker that answers.
    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        get(&self.address, "/").parse().expect("a process id")
    }

    #[track_caller]
    pub(crate) fn command(&self, command: &str) -> http::Response {
        request(&self.control_address(), "POST", &format!("/control/{command}"))
    }

    pub(crate) fn control_address(&self) -> String {
        format!("unix:{}", self.control.display())
    }

    /// Stops the server. Checks that it has removed its control socket.
    #[track_caller]
    pub(crate) fn stop(self) {
        let Server { program, control, .. } = self;
        program.stop();
        assert!(!control.exists(), "the control socket was not removed");
    }
}

#[track_caller]
pub(crate) fn request(address: &str, method: &str, path: &str) -> http::Response {
    exchange(address, method, path).expect("an answer")
}

/// The state that the status page at this address shows, if the service worker answers.
pub(crate) fn state_at(address: &str) -> Option<Value> {
    // A service worker may be killed while it answers.
    let answer = exchange(address, "GET", "/status.json").ok()?;
    Some(serde_json::from_slice(&answer.body).expect("JSON"))
}

pub(crate) fn workers(state: &Value) -> &[Value] {
    state["workers"].as_array().expect("workers")
}

pub(crate) fn pids(state: &Value) -> Vec<i64> {
    workers(state).iter().map(|worker| worker["pid"].as_i64().expect("a process id")).collect()
}

pub(crate) fn is_serving(worker: &Value) -> bool {
    worker["state"] == "ready" || worker["state"] == "busy"
}

pub(crate) fn serving(state: &Value) -> usize {
    workers(state).iter().filter(|worker| is_serving(worker)).count()
}
