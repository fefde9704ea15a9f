//! Shows how connections are distributed to workers.
//!
//! Each connection gets a line: its worker's index, and how many connections each worker has open. The connection stays
//! open until the client closes it or sends a byte. `forkio::guide::distribution` compares the distributions in tables.
//!
//! ```sh
//! cargo run --release --example distribution -- balanced 4    # or: shared, reuseport, reuseport-per-cpu
//! for client in 1 2 3 4 5 6 7 8; do sleep 60 | nc 127.0.0.1 8080 & done
//! ```

// Test builds link a model of the kernel: see CONTRIBUTING.md.
#[cfg(forkio_kqueue)]
extern crate forkio_kqueue_model as _;

use std::error::Error;
use std::net::SocketAddr;

use forkio::prefork::{Counted, Distribution, Inherited, Listener, Prefork, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let distribution = match args.next().as_deref() {
        None | Some("shared") => Distribution::Shared,
        Some("reuseport") => Distribution::ReusePort,
        Some("reuseport-per-cpu") => Distribution::ReusePortPerCpu,
        Some("balanced") => Distribution::Balanced,
        Some(_) => return Err("give shared, reuseport, reuseport-per-cpu or balanced".into()),
    };
    let workers = args.next().map_or(Ok(4), |workers| workers.parse())?;
    let address: SocketAddr = args.next().map_or(Ok(([127, 0, 0, 1], 8080).into()), |address| address.parse())?;

    // `bind_tcp` sets the option that FreeBSD needs before the bind, so that workers can share the port.
    let listener = Inherited::default().bind_tcp(address)?;
    let address = listener.local_addr()?;
    let prefork = Prefork::new().listener_with(listener, distribution).workers(workers);
    let stopped = prefork.on_ready(move || println!("{address}")).run(work).await?;
    std::process::exit(stopped.exit_code().into())
}

/// Accepts according to the distribution, until the worker must end.
async fn work(mut worker: Worker) {
    let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
    let mut incoming = worker.incoming(listener);
    let mut connections = JoinSet::new();
    while let Some((stream, _peer)) = incoming.next().await {
        let greeting = format!("worker {}, open: {:?}\n", worker.index(), worker.connections().open_each());
        connections.spawn(hold(stream, greeting));
        while connections.try_join_next().is_some() {}
    }
    // The worker ends and closes its connections: this protocol has no request to finish.
}

/// Keeps a connection open until its client closes it or sends a byte. The worker counts it until `stream` is dropped.
async fn hold(mut stream: Counted<TcpStream>, greeting: String) {
    if stream.write_all(greeting.as_bytes()).await.is_ok() {
        let _end = stream.read_u8().await;
    }
}
