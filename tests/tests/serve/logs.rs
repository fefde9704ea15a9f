//! The log of workers.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process;
use std::sync::{Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use forkio::prefork::http::Http;
use forkio::prefork::{Prefork, Worker, WorkerHandle};
use forkio::{HttpService, Hyper, Lineage, Server};
use forkio_tests::http::{connect, get};
use forkio_tests::{Program, arguments, kill, scenarios, until};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tracing::{Instrument, Level};

/// Logs to standard output, as text or as JSON.
fn log(format: &str, level: Level) {
    let log = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(io::stdout);
    match format {
        "json" => log.json().init(),
        _ => log.init(),
    }
}

/// A thread that prints the lines sent to it.
struct Printer {
    lines: mpsc::Sender<Vec<u8>>,
    thread: JoinHandle<()>,
}

/// The thread that prints the log of this worker.
static PRINTER: Mutex<Option<Printer>> = Mutex::new(None);

fn start_thread() {
    let (lines, printed) = mpsc::channel::<Vec<u8>>();
    let print = move || printed.iter().for_each(|line| print!("thread: {}", String::from_utf8_lossy(&line)));
    *PRINTER.lock().unwrap() = Some(Printer { lines, thread: thread::spawn(print) });
}

/// Waits until the thread has printed what it got.
fn end_thread() {
    let ended = PRINTER.lock().unwrap().take();
    if let Some(Printer { lines, thread }) = ended {
        drop(lines);
        thread.join().unwrap();
    }
}

/// Sends lines to the thread that prints them.
struct Threaded(mpsc::Sender<Vec<u8>>);

impl Write for Threaded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn writer() -> Box<dyn Write> {
    match &*PRINTER.lock().unwrap() {
        Some(printer) => Box::new(Threaded(printer.lines.clone())),
        None => Box::new(io::stdout()),
    }
}

/// Logs in each place where a handler may run code.
fn service(worker: WorkerHandle) -> impl HttpService<Hyper, Service: Clone> + Clone {
    service_fn(move |_: Request<Incoming>| {
        let worker = worker.clone();
        async move {
            tracing::warn!("handler");
            let counted = worker.spawn(async { tracing::warn!("counted") });
            let spawned = tokio::spawn(async { tracing::warn!("spawned") });
            let blocking = tokio::task::spawn_blocking(|| tracing::warn!("blocking"));
            let _ = tokio::join!(counted, spawned, blocking);
            Ok::<_, Infallible>(Response::new(process::id().to_string()))
        }
    })
}

/// A task that the supervisor spawns, which continues in the worker.
async fn inherited() {
    while Lineage::current().worker().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tracing::warn!("inherited");
}

/// Reads lines of the program's log up to the first one that `is_last` accepts, and returns that line.
#[track_caller]
fn read(program: &mut Program, log: &mut String, is_last: impl Fn(&str) -> bool) -> String {
    loop {
        let line = program.line();
        log.push_str(&line);
        log.push('\n');
        if is_last(&line) {
            return line;
        }
    }
}

/// Starts a program, and waits until it serves. Returns its address, and its log up to then.
#[track_caller]
fn start(name: &str, args: &[&str]) -> (Program, String, String) {
    let mut program = Program::start(name, args);
    let mut log = String::new();
    let address = read(&mut program, &mut log, |line| line.parse::<SocketAddr>().is_ok());
    (program, address, log)
}

/// Returns the first event with each of these messages, in the order of the messages.
#[track_caller]
fn events(log: &str, messages: &[&str]) -> Vec<Value> {
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |message: &&str| events.iter().find(|event| event["fields"]["message"] == *message);
    messages.iter().map(|message| find(message).unwrap_or_else(|| panic!("no {message:?} in {log}")).clone()).collect()
}

/// The span of a worker, as JSON has it.
fn span(pid: &str) -> Value {
    json!({ "name": "worker", "index": 0, "pid": pid.parse::<u32>().expect("a process id"), "generation": 1 })
}

/// Sends a request by HTTP/2: the preface, settings, and the head of `GET /`.
fn send_http2(address: &str) -> impl Sized {
    let mut stream = connect(address);
    let head = b"\x82\x86\x84\x41\x04test";
    let frames =
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x09\x01\x05\0\0\0\x01"[..], head].concat();
    stream.write_all(&frames).expect("sending");
    stream
}

scenarios!(
    /// A `Server` with one worker, which logs to its standard output as text or JSON. The second argument is the number of
    /// threads, or "load" for a template.
    #[program]
    fn server() {
        let [format, mode] = arguments().try_into().expect("two arguments");
        // The span of a worker must exist at this level, too.
        log(&format, Level::WARN);
        let server = Server::new().bind("127.0.0.1:0").workers(1).on_ready(|addresses| println!("{}", addresses[0]));
        let server = match mode.parse() {
            Ok(0) => server.preload(load as fn() -> _),
            Ok(threads) => server.worker_threads(threads).preload(load as fn() -> _),
            Err(_) => server.load(load as fn() -> _),
        };
        let _ = server.serve(|(), worker| service(worker.handle())).run();
    }

    /// A `Server` that installs its subscriber before the fork. Its worker logs from a thread.
    #[program]
    fn threaded() {
        tracing_subscriber::fmt().with_ansi(false).with_writer(writer).init();
        let server = Server::new().bind("127.0.0.1:0").workers(1).on_ready(|addresses| println!("{}", addresses[0]));
        let serving = server.prefork(|prefork| prefork.on_worker_end(end_thread)).serve(|worker| {
            start_thread();
            service(worker.handle())
        });
        let _ = serving.run();
    }

    /// A `Prefork` inside a span of the application. The argument is the number of threads.
    #[program]
    async fn prefork() {
        let [threads] = arguments().try_into().expect("an argument");
        let threads: usize = threads.parse().expect("a number");
        log("json", Level::INFO);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("the address of a listener");
        let prefork = Prefork::new().listener(listener).workers(1).on_ready(move || println!("{address}"));
        let work = async |mut worker: Worker| {
            tracing::warn!("future");
            // Leaves the worker's span. The next poll must enter the span again.
            tokio::task::yield_now().await;
            tracing::warn!("later");
            let service = service(worker.handle());
            Http::new().serve(&mut worker, service.into_hyper()).await
        };
        tokio::spawn(inherited());
        let build = move || Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        let running = async {
            match threads {
                0 => prefork.run(work).await,
                _ => prefork.run_on(build, work).await,
            }
        };
        let stopped = running.instrument(tracing::info_span!("application")).await.expect("a server");
        process::exit(stopped.exit_code().into());
    }

    /// Each event of a worker is in a span with index, process id and generation, wherever the application logs it.
    fn events_are_in_the_span_of_the_worker() {
        // Not every system has templates.
        let load = cfg!(procfs).then_some(("load", true));
        for (mode, has_inherited) in [("0", true), ("2", false)].into_iter().chain(load) {
            let (mut program, address, mut log) = start("logs::server", &["json", mode]);
            let pid = get(&address, "/");
            if has_inherited && !log.contains("inherited") {
                read(&mut program, &mut log, |line| line.contains("inherited"));
            }
            log += &program.stop();
            let mut messages = vec!["handler", "counted", "spawned", "blocking"];
            messages.extend(has_inherited.then_some("inherited"));
            for event in events(&log, &messages) {
                assert_eq!(event["span"], span(&pid), "mode {mode}: {event}");
            }
        }
    }

    /// The text of each event of a worker has the span, too.
    fn text_has_the_span_too() {
        let (mut program, address, mut log) = start("logs::server", &["text", "0"]);
        let pid = get(&address, "/");
        if !log.contains("inherited") {
            read(&mut program, &mut log, |line| line.contains("inherited"));
        }
        log += &program.stop();
        for message in ["handler", "counted", "spawned", "blocking", "inherited"] {
            let line =
                log.lines().find(|line| line.ends_with(message)).unwrap_or_else(|| panic!("no {message}: {log}"));
            assert!(line.contains(&format!(" WARN worker{{index=0 pid={pid} generation=1}}: ")), "{line}");
        }
    }

    /// Each worker may start the thread that writes its log, and end it in `on_worker_end`: no event of the worker follows.
    /// The supervisor writes from its only thread.
    fn workers_may_log_from_a_thread() {
        let (mut program, address, mut log) = start("logs::threaded", &[]);
        for _ in 0..2 {
            let pid = get(&address, "/");
            let line = read(&mut program, &mut log, |line| line.contains(&pid) && line.ends_with("handler"));
            let span = format!("WARN worker{{index=0 pid={pid} generation=1}}: ");
            assert!(line.starts_with("thread: ") && line.contains(&span), "{line}");
            kill(pid.parse().expect("a process id"), libc::SIGKILL);
            let line = read(&mut program, &mut log, |line| line.contains("replacing it") && line.contains(&pid));
            assert!(!line.starts_with("thread: "), "{line}");
        }
        let pid = get(&address, "/");
        let log = program.stop();
        let last =
            format!(" INFO worker{{index=0 pid={pid} generation=1}}: forkio::prefork::worker::work: ended status=0");
        let line = log.lines().find(|line| line.contains("ended status=0")).unwrap_or_else(|| panic!("no end: {log}"));
        assert!(line.starts_with("thread: ") && line.ends_with(&last), "{line}");
    }

    /// If the application runs the server in a span, that span contains the worker's, even on a runtime with threads.
    fn application_may_have_spans() {
        let own = ["started", "future", "later", "handler", "counted", "ended"];
        for (threads, others) in [("0", &["spawned", "inherited"][..]), ("2", &[])] {
            let (mut program, address, mut log) = start("logs::prefork", &[threads]);
            let pid = get(&address, "/");
            if others.contains(&"inherited") && !log.contains("inherited") {
                read(&mut program, &mut log, |line| line.contains("inherited"));
            }
            log += &program.stop();
            for event in events(&log, &[&own, others].concat()) {
                assert_eq!(event["span"], span(&pid), "{threads} threads: {event}");
                assert_eq!(event["spans"], json!([{ "name": "application" }, span(&pid)]), "{event}");
            }
        }
    }

    /// A stream of HTTP/2, which is a task that hyper spawns, is inside the worker's span.
    fn http2_on_threads() {
        let (mut program, address, mut log) = start("logs::prefork", &["2"]);
        let client = send_http2(&address);
        let line = read(&mut program, &mut log, |line| line.contains("handler"));
        drop(client);
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["span"], span(&event["span"]["pid"].to_string()), "{event}");
        program.stop();
    }

    /// A template has a span, and its workers are not inside it.
    #[cfg(procfs)]
    fn templates_have_a_span() {
        let (program, address, mut log) = start("logs::server", &["json", "load"]);
        let event = events(&log, &["loading"]).remove(0);
        let pid = event["span"]["pid"].as_u64().expect("a process id");
        assert_eq!(event["span"], json!({ "name": "template", "pid": pid, "generation": 1 }));
        let worker = get(&address, "/");
        assert_ne!(worker, pid.to_string());
        log += &program.stop();
        assert_eq!(events(&log, &["handler"])[0]["spans"], json!([span(&worker)]));
    }

    /// The supervisor's events name the worker by the fields `worker`, `pid` and `generation`.
    fn supervisor_names_the_worker() {
        let (mut program, address, mut log) = start("logs::prefork", &["0"]);
        let first: i32 = get(&address, "/").parse().expect("a process id");
        kill(first, libc::SIGKILL);
        read(&mut program, &mut log, |line| line.contains("replacing it"));
        let second = until("another worker answers", || {
            let pid = get(&address, "/").parse().expect("a process id");
            (pid != first).then_some(pid)
        });
        kill(second, libc::SIGTERM);
        read(&mut program, &mut log, |line| line.contains("starting its successor"));
        read(&mut program, &mut log, |line| line.contains("has ended"));
        log += &program.stop();
        let messages = [
            ("worker started", first),
            ("worker is ready", first),
            ("worker ended: replacing it", first),
            ("worker drains: starting its successor", second),
            ("a worker that was told to end has ended", second),
        ];
        for (message, pid) in messages {
            let fields = &events(&log, &[message])[0]["fields"];
            assert_eq!((&fields["worker"], &fields["pid"], &fields["generation"]), (&0.into(), &pid.into(), &1.into()));
        }
        let fields = &events(&log, &["worker stopped"])[0]["fields"];
        assert!(fields["worker"] == 0 && fields["pid"].is_u64() && fields["generation"] == 1, "{fields}");
    }
);

/// Loads the application, in the supervisor or in a template.
fn load() -> std::future::Ready<Result<(), Infallible>> {
    if Lineage::current().generation() > 0 {
        tracing::warn!("loading");
    }
    tokio::spawn(inherited());
    std::future::ready(Ok(()))
}
