//! `axum::serve` in a worker.

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use forkio::Peer;
use forkio::prefork::{Inherited, Prefork, Worker};
use forkio_tests::{Program, arguments, kill, limit, processes, scenarios, wait_until};
use std::fs;
use std::io;
use std::time::Duration;

use crate::{Stream, body, free_path, request};

async fn work(mut worker: Worker) -> io::Result<()> {
    let app = Router::new()
        .route("/", get(async |ConnectInfo(peer): ConnectInfo<Peer>| peer.to_string()))
        .route("/slow", get(async || tokio::time::sleep(Duration::from_millis(300)).await))
        .into_make_service_with_connect_info::<Peer>();
    let listener = worker.listener()?;
    assert!(worker.listener().is_err(), "there is one listener");
    let closed = listener.closed();
    axum::serve(listener, app).with_graceful_shutdown(closed).await
}

#[track_caller]
fn stops_cleanly(program: Program, address: &str) {
    let slow = request(address, "/slow");
    assert!(!crate::get(address, "/").is_empty());
    let worker = worker_of(&program);
    kill(worker, libc::SIGSTOP);
    wait_until("the worker has stopped", || processes()[&worker].state == 'T');
    let waiting: Vec<Box<dyn Stream>> = (0..10).map(|_| request(address, "/")).collect();
    kill(program.pid(), libc::SIGTERM);
    kill(worker, libc::SIGCONT);
    for stream in waiting {
        assert!(!body(stream).is_empty());
    }
    body(slow);
    program.finish_well();
}

#[track_caller]
fn worker_of(program: &Program) -> i32 {
    let parent = program.pid();
    processes().into_values().find(|process| process.parent == parent).expect("a worker").pid
}

scenarios!(
    /// Serves an axum application at the address in the arguments.
    #[program]
    async fn server() {
        let [address] = arguments().try_into().expect("an address");
        let address: forkio::Address = address.parse().expect("an address");
        let listener = address.listen(&mut Inherited::default()).expect("listening");
        if let forkio::prefork::Listener::Tcp(listener) = &listener {
            println!("{}", listener.local_addr().expect("the address of a listener"));
        } else {
            println!("{address}");
        }
        let stopped =
            Prefork::new().listener(listener).workers(1).shutdown_timeout(limit()).run(work).await.expect("a server");
        std::process::exit(stopped.exit_code().into());
    }

    /// Handlers get the peer's address, and the worker answers requests that wait when the server stops.
    fn tcp() {
        let mut program = Program::start("axum::server", &["127.0.0.1:0"]);
        let address = program.line();
        assert!(crate::get(&address, "/").starts_with("127.0.0.1:"));
        stops_cleanly(program, &address);
    }

    /// Workers serve a Unix socket in the same way. The peer's address is then `unix`.
    fn unix() {
        let path = free_path("axum");
        let mut program = Program::start("axum::server", &[&format!("unix:{}", path.display())]);
        let address = program.line();
        assert_eq!(crate::get(&address, "/"), "unix");
        stops_cleanly(program, &address);
        fs::remove_file(path).expect("the socket");
    }
);
