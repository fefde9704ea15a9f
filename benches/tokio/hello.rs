//! hyper on tokio, in one process. Built twice: on upstream mio and on forkio's.

use std::error::Error;

use tokio::net::TcpListener;
use tokio::runtime::Builder;

#[path = "service.rs"]
mod service;

use service::Service;

const USAGE: &str = "usage: hello current-thread|THREADS ADDRESS WORK MEBIBYTES";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [threads, address, work, mebibytes] = args.as_slice() else { return Err(USAGE.into()) };
    forked::fill_memory(mebibytes.parse()?)?;
    let mut builder = match threads.as_str() {
        "current-thread" => Builder::new_current_thread(),
        threads => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads.parse()?);
            builder
        }
    };
    let runtime = builder.enable_all().build()?;
    let (address, service) = (address.parse()?, Service::new(work.parse()?));
    runtime.block_on(async {
        let listener = service::listen(address)?;
        // In a task: the thread that calls `block_on` is not one of the workers.
        tokio::spawn(accept(listener, service)).await?;
        Ok(())
    })
}

/// Accepts and serves for ever.
async fn accept(listener: TcpListener, service: Service) {
    loop {
        // A client that has given up already is no reason to stop.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _as_fast_as_possible = stream.set_nodelay(true);
        tokio::spawn(service.clone().serve(stream));
    }
}
