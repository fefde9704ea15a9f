//! `axum::serve` in a worker.

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use forkio::Peer;
use forkio::prefork::{Inherited, Prefork, Worker};
use forkio_tests::http::{self, Stream, body, request};
use forkio_tests::{Program, arguments, children_of, freeze, kill, limit, scenarios, temporary_path};
use std::io;
use std::time::Duration;

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
    assert!(!http::get(address, "/").is_empty());
    let worker = children_of(program.pid())[0];
    freeze(worker);
    let waiting: Vec<Box<dyn Stream>> = (0..10).map(|_| request(address, "/")).collect();
    program.signal(libc::SIGTERM);
    kill(worker, libc::SIGCONT);
    for stream in waiting {
        assert!(!body(stream).is_empty());
    }
    body(slow);
    program.finish_well();
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
        let (program, address) = Program::start_announced("axum::server", &["127.0.0.1:0"]);
        assert!(http::get(&address, "/").starts_with("127.0.0.1:"));
        stops_cleanly(program, &address);
    }

    /// Workers serve a Unix socket in the same way. The peer's address is then `unix`.
    fn unix() {
        let path = temporary_path("axum");
        let (program, address) = Program::start_announced("axum::server", &[&format!("unix:{}", path.display())]);
        assert_eq!(http::get(&address, "/"), "unix");
        stops_cleanly(program, &address);
    }
);
