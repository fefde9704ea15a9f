//! Serves HTTP with hyper on tokio, in one process.

use std::error::Error;
use std::process::ExitCode;

use fork_protocol as protocol;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

#[path = "listen.rs"]
mod listen;
#[path = "service.rs"]
mod service;

use service::Service;

const USAGE: &str = "usage: hello current-thread|THREADS ADDRESS WORK MEMORY";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [threads, address, work, memory] = args else { return Err(USAGE.into()) };
    protocol::fill_memory(memory)?;
    let mut builder = match *threads {
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
        let listener = listen::listen(address)?;
        // Accept in a task, because the thread that calls `block_on` is not one of the workers.
        tokio::spawn(accept(listener, service)).await?;
        Ok(())
    })
}

async fn accept(listener: TcpListener, service: Service) {
    loop {
        // In this benchmark, an error means that a client has given up its connection.
        let Ok((stream, _)) = listener.accept().await else { continue };
        // If this fails, the server is slower, but still correct.
        let _is_set = stream.set_nodelay(true);
        tokio::spawn(service.clone().serve(stream));
    }
}
