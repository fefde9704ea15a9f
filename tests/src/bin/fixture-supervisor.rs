//! A prefork server that a file controls. Most words in the file make the server fail in some way.
//!
//! The arguments are the path of the file, a mode, and the names of options. The modes are:
//!
//! - `template`: a template loads the application;
//! - `before`: there is no template, so the supervisor forks the workers;
//! - `threads` and `own-runtime`: like `before`, but each worker builds a runtime, multi-threaded or current-thread;
//! - `inherited`: the program only lists the listeners that it inherits.
//!
//! Time limits are long, so that a slow machine causes no failures. An option such as `boot-timeout=700` sets one of
//! them, in milliseconds. The server reads the file when it starts, loads, forks, boots a worker or becomes ready. The
//! words are: `load-fails`, `load-panics`, `load-hangs`, `load-sleeps`, `load-aborts`, `load-lies=PID`, `load-floods`,
//! `load-floods-with-lines`, `ready-panics`, `ready-hangs`, `never-ready`, `boot-exits`, `says-nothing`,
//! `not-announced`, `fork-fails`, `fork-panics`, `between-waits`, `between-dies`, `no-processes`,
//! `no-processes-of-template`.
//!
//! A client sends a line: `pid`, `data`, `retire`, `halt`, `exit`, `panic`, `stuck` or `phase`.

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forkio::ForkOptions;
use forkio::prefork::{Distribution, Inherited, Listener, Prefork, PreforkError, Stopped, Worker};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// Longer than any scenario takes.
const LONG: Duration = Duration::from_secs(600);

#[derive(Clone)]
struct Control(PathBuf);

impl Control {
    fn says(&self, word: &str) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| text.split_whitespace().any(|own| own == word))
    }

    fn value(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(&self.0).ok()?;
        text.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned)
    }
}

/// Tells the supervisor that process `pid` is a new worker. A compromised template could send this message.
fn lie(pid: &str) {
    send_to_supervisor(&format!("loaded\nforked {pid}\n"));
}

/// Sends a message on each connected socket of this process.
fn send_to_supervisor(message: &str) {
    for descriptor in 3..64 {
        // SAFETY: the call reads the message. Only sockets take it.
        unsafe {
            libc::send(descriptor, message.as_ptr().cast(), message.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [control, how, options @ ..] = arguments.as_slice() else { panic!("give a file and a mode") };
    tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).init();
    if options.iter().any(|option| option == "as-nobody") {
        become_nobody();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(Control(PathBuf::from(control)), how, options));
}

async fn serve(control: Control, how: &str, options: &[String]) {
    if how == "inherited" {
        return list_inherited();
    }
    let refuses = control.clone();
    let supervisor = std::process::id();
    forkio::before_fork(move || {
        let is_template = std::process::id() != supervisor;
        allow_processes(!(refuses.says("no-processes") || is_template && refuses.says("no-processes-of-template")));
        assert!(!refuses.says("fork-panics"), "on purpose");
        // A template forks each worker through a process in between.
        let is_between = is_template && std::os::unix::process::parent_id() != supervisor;
        if is_between && refuses.says("between-waits") {
            say(&format!("process in between: {}", std::process::id()));
            while refuses.says("between-waits") {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        #[cfg(target_os = "linux")]
        if is_between && refuses.says("between-dies") {
            forkio_tests::die_at_pidfd_of_others([std::process::id(), supervisor]);
        }
        if refuses.says("fork-fails") { Err(io::Error::from_raw_os_error(libc::EAGAIN)) } else { Ok(()) }
    });
    let mut inherited = Inherited::from_env().unwrap();
    let listener = match inherited.named("web").pop() {
        Some(Listener::Tcp(listener)) => {
            say("serving the listener named web");
            listener
        }
        // In an upgrade, the old program hands over its listener, which `bind_tcp` returns.
        _ => inherited.bind_tcp(([127, 0, 0, 1], 0).into()).unwrap(),
    };
    let address = listener.local_addr().unwrap();
    let is_announced = !control.says("not-announced");
    let mut prefork = Prefork::new()
        .workers(2)
        .listener(listener)
        .shutdown_timeout(LONG)
        .boot_timeout(LONG)
        .load_timeout(LONG)
        .heartbeat_timeout(LONG)
        .explicit_ready(true)
        .on_ready({
            let control = control.clone();
            move || {
                assert!(!control.says("ready-panics"), "on purpose");
                while control.says("ready-hangs") {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if is_announced {
                    announce(&address.to_string());
                } else {
                    forkio_tests::deny_sends_of("ready\n".len() as u32);
                }
            }
        });
    for option in options {
        if let Some(path) = option.strip_prefix("pid-file=") {
            prefork = prefork.pid_file(path);
            continue;
        }
        if let Some((name, milliseconds)) = option.split_once('=') {
            let time = Duration::from_millis(milliseconds.parse().expect("milliseconds"));
            prefork = match name {
                "shutdown-timeout" => prefork.shutdown_timeout(time),
                "boot-timeout" => prefork.boot_timeout(time),
                "load-timeout" => prefork.load_timeout(time),
                "heartbeat-timeout" => prefork.heartbeat_timeout(time),
                "max-age" => prefork.max_age(time),
                other => panic!("there is no option {other}"),
            };
            continue;
        }
        prefork = match option.as_str() {
            "as-nobody" => prefork,
            "own-user" => {
                // SAFETY: the calls read no memory, and always succeed.
                let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
                prefork.user(user.to_string()).group(group.to_string())
            }
            "other-user" => prefork.user("65534").group("65534"),
            "abort-stuck" => prefork.abort_stuck(true),
            "huge-pages" => prefork.huge_pages(true),
            "crash-limit" => prefork.crash_limit(3),
            "no-crash-limit" => prefork.crash_limit(0),
            "one-draining" => prefork.max_draining(1),
            "own-queues" => prefork.distribution(Distribution::ReusePort),
            #[cfg(target_os = "linux")]
            "slow-close" => {
                forkio_tests::delay_shutdowns();
                prefork
            }
            "in-steps" => prefork.max_extra(0),
            "one-worker" => prefork.workers(1),
            "max-requests" => prefork.max_requests(1000).jitter(0.0),
            "nan" => prefork.jitter(f64::NAN),
            "implicit-ready" => prefork.explicit_ready(false),
            "no-notify" => prefork.notify_service_manager(false),
            "hooks" => prefork
                .on_reload(|| say(&format!("hook: a reload in process {}", std::process::id())))
                .before_worker(|| {
                    say(&format!("hook: process {}", std::process::id()));
                    Ok(())
                }),
            "failing-hook" => prefork.before_worker(|| Err(io::Error::other("on purpose"))),
            "panicking-hooks" => prefork.on_reload(|| panic!("on purpose")).on_reopen_logs(|| panic!("on purpose")),
            "endless" => prefork.lame_duck(Duration::MAX).max_age(Duration::MAX),
            "missing-cpu" => prefork.cpus([100_000]),
            "memory" => {
                // The memory is never freed, so that the process stays large.
                std::mem::forget(vec![1_u8; 32 << 20]);
                prefork
            }
            "thread" => {
                std::thread::spawn(|| {
                    loop {
                        std::thread::park();
                    }
                });
                prefork
            }
            "no-wait-for-threads" => prefork.fork_options(ForkOptions::new().wait_for_threads(Duration::ZERO)),
            "wait-briefly" => prefork.fork_options(ForkOptions::new().wait_for_threads(Duration::from_millis(100))),
            "processes" => {
                tokio::spawn(forkio::parent_only(start_processes()));
                prefork
            }
            other => panic!("there is no option {other}"),
        };
    }
    let start = Instant::now();
    let ended = match how {
        "template" => {
            let loads = control.clone();
            prefork.load(|| load(loads)).run(|worker, data| work(worker, data, control)).await
        }
        "threads" | "own-runtime" => {
            let mut runtime =
                if how == "threads" { Builder::new_multi_thread() } else { Builder::new_current_thread() };
            let build = move || runtime.worker_threads(1).enable_all().build();
            prefork.run_on(build, |worker| work(worker, std::process::id(), control)).await
        }
        _ => prefork.run(|worker| work(worker, std::process::id(), control)).await,
    };
    say(&format!("waited, in milliseconds: {}", start.elapsed().as_millis()));
    exit(ended)
}

/// Writes a line to standard error in one piece, because other processes write to it too.
fn say(line: &str) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Gives up root's privileges, so that limits of the kernel apply.
fn become_nobody() {
    const UNPRIVILEGED: u32 = 65_534;
    // SAFETY: the list of groups is empty; this process has one thread.
    let results =
        unsafe { [libc::setgroups(0, std::ptr::null()), libc::setgid(UNPRIVILEGED), libc::setuid(UNPRIVILEGED)] };
    assert_eq!(results, [0; 3], "{}", io::Error::last_os_error());
}

/// Sets whether the kernel lets an unprivileged process fork.
fn allow_processes(allow: bool) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the limit, and reads it.
    let results = unsafe {
        let read = libc::getrlimit(libc::RLIMIT_NPROC, &mut limit);
        limit.rlim_cur = if allow { limit.rlim_max } else { 0 };
        [read, libc::setrlimit(libc::RLIMIT_NPROC, &limit)]
    };
    assert_eq!(results, [0; 2]);
}

/// Starts processes of the supervisor that are not workers, and waits for them.
async fn start_processes() {
    for _ in 0..30 {
        let status = tokio::process::Command::new("sleep").arg("0.1").status().await;
        assert!(status.expect("waiting for a process that other code must not reap").success());
    }
    eprintln!("all processes were waited for");
}

fn list_inherited() {
    let mut inherited = Inherited::from_env().unwrap();
    for name in ["web", "admin"] {
        for listener in inherited.named(name) {
            let kind = if matches!(listener, Listener::Tcp(_)) { "TCP" } else { "Unix" };
            print!("{name} {kind}, ");
        }
    }
    announce(&format!("{} left", inherited.take_all().len()));
}

fn announce(what: &str) {
    println!("{what}");
    io::stdout().flush().unwrap();
}

fn exit(ended: Result<Stopped, PreforkError>) -> ! {
    match ended {
        Ok(stopped) => std::process::exit(stopped.exit_code().into()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(error.exit_code().into())
        }
    }
}

/// Loads the application: its data is the template's process id. Fails in the way that the file says.
async fn load(control: Control) -> Result<u32, String> {
    if control.says("load-panics") {
        panic!("on purpose");
    }
    if control.says("load-aborts") {
        std::process::abort();
    }
    if let Some(pid) = control.value("load-lies=") {
        lie(&pid);
    }
    if let Some(end) = control.value("load-floods") {
        let text = if end == "-with-lines" { "x\n" } else { "x" }.repeat(1000);
        // The supervisor kills this process.
        loop {
            send_to_supervisor(&text);
        }
    }
    if control.says("load-sleeps") {
        std::thread::sleep(LONG);
    }
    if control.says("load-hangs") {
        std::future::pending::<()>().await;
    }
    if control.says("load-fails") {
        return Err("on purpose,\nin two lines".to_owned());
    }
    Ok(std::process::id())
}

async fn work(mut worker: Worker, data: u32, control: Control) -> u8 {
    if control.says("boot-exits") {
        return 3;
    }
    if control.says("never-ready") {
        say("never ready, on purpose");
        worker.shutdown().await;
        return 0;
    }
    let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { panic!("the worker has no listener") };
    let mut incoming = worker.incoming(listener);
    if !control.says("says-nothing") {
        worker.ready();
    }
    let mut connections = JoinSet::new();
    while let Some((stream, _)) = incoming.next().await {
        connections.spawn(answer(stream.into_inner(), worker.handle(), data));
    }
    // Wait for the tasks that panic, too.
    while connections.join_next().await.is_some() {}
    0
}

async fn answer(stream: TcpStream, worker: forkio::prefork::WorkerHandle, data: u32) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    // A client that has closed its connection is not a failure.
    if stream.read_line(&mut line).await.is_err() {
        return;
    }
    worker.count_request();
    let reply = match line.trim() {
        "data" => data.to_string(),
        "retire" => {
            worker.retire();
            std::process::id().to_string()
        }
        "halt" => {
            worker.halt();
            std::process::id().to_string()
        }
        "exit" => std::process::exit(5),
        "panic" => panic!("on purpose"),
        "stuck" => loop {
            std::thread::park();
        },
        "phase" => format!("{:?}", worker.phase()),
        _ => std::process::id().to_string(),
    };
    let _ = stream.get_mut().write_all(format!("{reply}\n").as_bytes()).await;
}
