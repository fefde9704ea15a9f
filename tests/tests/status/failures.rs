//! Failures that must not affect the server or its status page.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forkio::ForkOptions;
use forkio::prefork::{Prefork, PreforkError};
use forkio_tests::http::{connect, send};
use forkio_tests::{Program, arguments, kill, read_to_end, scenarios, temporary_path, until, wait_until};
use serde_json::Value;

use crate::server::{Server, pids, request, state_at, workers};

scenarios!(
    /// Each time the service worker is killed, the server continues to serve, and a new service worker answers.
    fn service_worker_killed() {
        let server = Server::start(&[]);
        for round in 1..=3 {
            let victim = server.service_worker();
            kill(victim, libc::SIGKILL);
            assert!(server.pid() > 0, "no worker serves");
            let state = server.until_another_service_worker(victim);
            assert_eq!(state["server"]["service_starts"], round + 1);
            assert_eq!(state["restarts"], Value::Array(Vec::new()), "a worker has ended");
        }
        server.stop();
    }

    /// A service worker that hangs is killed, and a new one answers.
    fn service_worker_stuck() {
        let server = Server::start(&["--heartbeat-timeout", "4"]);
        let victim = server.service_worker();
        kill(victim, libc::SIGSTOP);
        server.until_another_service_worker(victim);
        server.stop();
    }

    /// Clients that do not read, or send nothing, block neither other clients nor the server.
    fn slow_readers() {
        let server = Server::start(&[]);
        server.state();
        let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&server.page)).collect();
        let mut slow = Vec::new();
        for _ in 0..40 {
            slow.push(send(&server.page, "GET", "/status").expect("a request"));
        }
        for _ in 0..5 {
            assert_eq!(request(&server.page, "GET", "/status").status, 200);
            assert!(server.pid() > 0);
        }
        drop((silent, slow));
        server.stop();
    }

    /// Each response says that the connection ends, so that no client sends a second request on the connection.
    fn one_request_per_connection() {
        let server = Server::start(&[]);
        server.state();
        let mut stream = connect(&server.page);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
        let answer = read_to_end(stream);
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        server.stop();
    }

    /// A server does not start if the address of its status page is in use. The error names the address, and says what to
    /// do.
    async fn address_in_use() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap().to_string();
        let error = Prefork::new().workers(1).status(&address).run(async |_| ()).await.unwrap_err();
        assert!(matches!(error, PreforkError::Status(..)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&address) && text.contains("choose another address"), "{text}");
    }

    /// The status page on TCP is read-only.
    fn tcp_is_read_only() {
        let server = Server::start(&[]);
        let before = server.until("both workers are ready", |state| workers(state).len() == 2);
        for (method, path, status) in [
            ("POST", "/control/reload", 403),
            ("GET", "/control/reload", 403),
            ("POST", "/control/scale?workers=1", 403),
            ("POST", "/status", 405),
            ("DELETE", "/status.json", 405),
            ("GET", "/nothing", 404),
        ] {
            let answer = request(&server.page, method, path);
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.header("allow"), (status == 405).then_some("GET, HEAD"), "{method} {path}");
        }
        let after = server.state();
        assert_eq!((pids(&after), &after["server"]["generation"]), (pids(&before), &1.into()));
        server.stop();
    }

    /// Workers that do nothing but count requests, on threads, until they are killed. The argument is the page's address.
    #[program]
    async fn counting() {
        let [page] = arguments().try_into().expect("an address");
        let prefork = Prefork::new().workers(2).status(page).on_ready(|| println!("ready"));
        let ended = prefork.run(async |worker| {
            worker.ready();
            let handle = worker.handle();
            std::thread::spawn(move || {
                loop {
                    let _request = handle.track_request();
                }
            });
            worker.shutdown().await;
        });
        let _ = ended.await;
    }

    /// A server whose processes start a thread that never ends when they open their logs again. It logs to standard output.
    #[program]
    async fn with_a_thread() {
        tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stdout).init();
        let [page] = arguments().try_into().expect("an address");
        let options = ForkOptions::new().wait_for_threads(Duration::from_millis(50));
        let prefork = Prefork::new().workers(1).status(page).fork_options(options);
        let start_thread = || {
            std::thread::spawn(|| {
                loop {
                    std::thread::park()
                }
            });
            println!("a thread in {}", std::process::id());
        };
        let ended = prefork.on_reopen_logs(start_thread).run(async |worker| {
            worker.ready();
            worker.shutdown().await;
        });
        let _ = ended.await;
    }

    /// A thread that does not end keeps the supervisor from forking a new service worker. The supervisor tries again. This
    /// does not count as the failed fork of a worker, which could end a reload.
    fn service_worker_refused() {
        let path = temporary_path("page");
        let page = format!("unix:{}", path.display());
        let mut program = Program::start("failures::with_a_thread", &[&page]);
        let state = until("the service worker answers", || state_at(&page));
        let log_until = |program: &mut Program, text: &str| {
            loop {
                let line = program.line();
                assert!(!line.contains("cannot fork yet"), "{line}");
                if line.contains(text) {
                    return;
                }
            }
        };
        program.signal(libc::SIGUSR1);
        let text = format!("a thread in {}", program.pid());
        log_until(&mut program, &text);
        kill(state["server"]["service_pid"].as_i64().expect("a process id") as i32, libc::SIGKILL);
        for _ in 0..2 {
            log_until(&mut program, "cannot start the service worker yet");
        }
        program.stop();
    }

    /// A worker that is killed while it counts a request leaves the counts consistent.
    fn killed_while_counting() {
        let path = temporary_path("page");
        let page = format!("unix:{}", path.display());
        let (program, _) = Program::start_announced("failures::counting", &[&page]);
        let state = || until("the service worker answers", || state_at(&page));
        let requests = AtomicU64::new(0);
        let check = |state: &Value| {
            let now = state["requests"].as_u64().expect("a count");
            let before = requests.swap(now, Ordering::Relaxed);
            assert!(now >= before, "{now} requests, and {before} before");
            let timed = state["latency"]["count"].as_u64().expect("a count");
            assert!(timed <= now, "{timed} of {now} requests were timed");
        };
        for round in 0..12_u64 {
            let victim = until("a worker counts", || {
                let state = state();
                check(&state);
                // The service worker reads two counts, one after the other, and requests may begin in between.
                let is_exact = |worker: &&Value| worker["requests_in_flight"].as_u64() <= Some(1);
                let mut exact = workers(&state).iter().filter(is_exact);
                let busy = exact.find(|worker| worker["requests"].as_u64() > Some(1000));
                Some(busy?["pid"].as_i64().expect("a process id") as i32)
            });
            // Kills the worker at a different moment of its loop in each round.
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(round * 7) {
                std::hint::spin_loop();
            }
            kill(victim, libc::SIGKILL);
            wait_until("the worker has ended", || {
                let state = state();
                check(&state);
                std::thread::sleep(Duration::from_millis(5));
                !pids(&state).contains(&victim.into())
            });
        }
        program.stop();
        assert!(!path.exists(), "the page's socket was not removed");
    }

    /// If the service worker ends while a connection is open, a new service worker serves the address.
    fn open_connections() {
        let server = Server::start(&[]);
        let held = send(&server.page, "GET", "/status").expect("a request");
        let victim = server.service_worker();
        kill(victim, libc::SIGKILL);
        drop(held);
        server.until_another_service_worker(victim);
        server.stop();
    }
);
