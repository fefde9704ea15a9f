//! axum in as many processes as the machine has CPUs.
//!
//! An axum server needs two lines for it: `Prefork` around `axum::serve`, and a listener that accepts as the server's
//! distribution has it, which is [`Accepting`] below.
//!
//! ```sh
//! cargo run --release --example axum -- 127.0.0.1:8080    # and, if you like, the number of workers
//! curl http://127.0.0.1:8080/    # again and again: another worker answers
//! ```

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use forkio::{Acceptor, Counted, Listener, Prefork, Worker};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::time::sleep;

/// How long to leave the queue of connections alone when no descriptors or memory are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let workers = args.next().map(|number| number.parse::<usize>()).transpose()?;
    // `fork(2)` copies only the thread that calls it, so a runtime that forks has one thread.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(&address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let address = listener.local_addr()?;
        let mut prefork = Prefork::new().listener(listener).on_ready(move || println!("listening on http://{address}"));
        if let Some(workers) = workers {
            prefork = prefork.workers(workers);
        }
        let stopped = prefork.run(serve).await?;
        Ok(ExitCode::from(stopped.exit_code()))
    })
}

/// What a worker does until it is told to stop.
async fn serve(mut worker: Worker) -> io::Result<()> {
    let index = worker.index();
    let app = Router::new()
        .route("/", get(move || async move { format!("worker {index}, process {}\n", std::process::id()) }))
        .route("/slow", get(|| async { sleep(Duration::from_millis(300)).await }));
    let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return Ok(()) };
    let listener = Accepting(worker.acceptor(listener));
    // Connections that wait in the queue go to the other workers.
    axum::serve(listener, app).with_graceful_shutdown(worker.shutdown()).await
}

/// Accepts for axum.
struct Accepting(Acceptor<TcpListener>);

impl axum::serve::Listener for Accepting {
    type Io = Counted<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted<TcpStream>, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok(accepted) => return accepted,
                // The client has given up already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}");
                    self.0.pause();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(&self.0).local_addr()?;
        address.as_socket().ok_or_else(|| io::Error::other("a listener without an IP address"))
    }
}
