//! Work that an application starts in `Server::load` and `Server::preload`.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::get as route_get;
use forkio::{ForkOptions, Server};
use forkio_tests::http::{body, exchange, get, request};
use forkio_tests::{Program, arguments, kill, scenarios, temporary_path, until};
use tokio::task::spawn_blocking;
use tokio::time::{interval, sleep};

fn note(path: &str, line: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("a file");
    // One write, because several processes append lines.
    file.write_all(format!("{line}\n").as_bytes()).expect("writing");
}

/// Starts the work that `what` names, in the process that loads the application.
async fn load(what: &str, path: String) {
    match what {
        "blocking" => {
            spawn_blocking(|| ()).await.expect("a blocking task");
            tokio::spawn(async {
                loop {
                    // The pause is shorter than the ten seconds after which tokio ends an idle thread, so the thread would
                    // never end.
                    sleep(Duration::from_secs(1)).await;
                    spawn_blocking(|| ()).await.expect("a blocking task");
                }
            });
        }
        "process" => {
            tokio::spawn(async move {
                let (mut interval, mut last) = (interval(Duration::from_millis(1)), 0);
                loop {
                    interval.tick().await;
                    if last != std::process::id() {
                        last = std::process::id();
                        note(&path, &last.to_string());
                    }
                }
            });
        }
        "thread" => drop(std::thread::Builder::new().name("endless".to_owned()).spawn(|| {
            loop {
                std::thread::park();
            }
        })),
        other => panic!("no work is called {other:?}"),
    }
}

#[track_caller]
fn start(place: &str, what: &str, path: &Path) -> (Program, String) {
    Program::start_announced("loading::server", &[place, what, path.to_str().expect("a path")])
}

/// Kills the worker `pid`, and returns the process that answers next.
#[track_caller]
fn replace(address: &str, pid: &str) -> String {
    kill(pid.parse().expect("a process id"), libc::SIGKILL);
    until("another worker answers", || {
        let answer = exchange(address, "GET", "/").ok()?;
        Some(answer.text().to_owned()).filter(|other| other != pid)
    })
}

scenarios!(
    /// A server with one worker. The arguments are `load` or `preload`, the work that the application starts, and a file.
    #[program]
    fn server() {
        let [place, what, path] = arguments().try_into().expect("three arguments");
        let end = path.clone();
        let server = Server::new().bind("127.0.0.1:0").workers(1).on_ready(|addresses| println!("{}", addresses[0]));
        let server = server.prefork(|prefork| {
            let options = ForkOptions::new().wait_for_threads(Duration::from_secs(5));
            prefork.fork_options(options).on_worker_end(move || note(&end, "end"))
        });
        let load = async move || {
            load(&what, path).await;
            Ok::<_, std::io::Error>(())
        };
        let server = if place == "load" { server.load(load) } else { server.preload(load) };
        let answer = async || {
            // The answer waits, so that a stop finds the request in flight.
            sleep(Duration::from_millis(10)).await;
            std::process::id().to_string()
        };
        let _code = server.serve(move |(), _| Router::new().route("/", route_get(answer))).run();
    }

    /// A server starts, and replaces its worker, while a task uses the blocking pool.
    fn blocking_pool_in_use() {
        // Not every system has templates.
        for place in ["preload"].into_iter().chain(cfg!(procfs).then_some("load")) {
            let path = temporary_path("blocking");
            let (program, address) = start(place, "blocking", &path);
            let mut pid = get(&address, "/");
            for _ in 0..2 {
                pid = replace(&address, &pid);
            }
            program.stop();
        }
    }

    /// The tasks of a template run in the template and in its workers, and in no other process.
    fn tasks_of_a_template() {
        if cfg!(not(procfs)) {
            // Not every system has templates.
            return;
        }
        let path = temporary_path("processes");
        let (program, address) = start("load", "process", &path);
        let mut workers = vec![get(&address, "/")];
        for _ in 0..4 {
            workers.push(replace(&address, workers.last().expect("a worker")));
        }
        program.stop();
        let notes = fs::read_to_string(&path).expect("the notes of the task");
        let mut processes: BTreeSet<&str> = notes.lines().filter(|line| *line != "end").collect();
        for worker in &workers {
            assert!(processes.remove(worker.as_str()), "the task did not run in worker {worker}: {notes}");
        }
        assert_eq!(processes.len(), 1, "the task did not run in one process besides {workers:?}: {notes}");
    }

    /// If the application starts a thread, the error says so, with `load` and with `preload`.
    fn thread_is_refused() {
        for place in ["preload"].into_iter().chain(cfg!(procfs).then_some("load")) {
            let mut program = Program::start("loading::server", &[place, "thread", ""]);
            let errors = program.errors();
            let text = "cannot fork a worker: cannot fork while the process has other threads: `endless`";
            assert!(errors.contains(text) && errors.contains("start them in the child"), "{errors}");
            assert!(!errors.contains("RLIMIT"), "{errors}");
        }
    }

    /// Without a subscriber of `tracing`, the supervisor prints to standard error why a worker ended.
    fn errors_without_a_subscriber() {
        let path = temporary_path("errors");
        let (mut program, address) = start("preload", "blocking", &path);
        let pid = get(&address, "/");
        replace(&address, &pid);
        program.signal(libc::SIGTERM);
        let errors = program.errors();
        assert!(errors.contains(&format!("worker 0 ({pid}) ended with signal: 9")), "{errors}");
    }

    /// A worker that is not killed answers the request in flight, and calls the function of `on_worker_end` once.
    fn worker_ends() {
        let path = temporary_path("end");
        let (program, address) = start("preload", "blocking", &path);
        let pid = get(&address, "/");
        replace(&address, &pid);
        let waiting = request(&address, "/");
        program.stop();
        assert!(!body(waiting).is_empty());
        assert_eq!(fs::read_to_string(&path).expect("the file"), "end\n");
    }
);
