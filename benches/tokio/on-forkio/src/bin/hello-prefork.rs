//! Serves HTTP with hyper on tokio, in worker processes that forkio forks.

use std::error::Error;
use std::process::ExitCode;

use fork_protocol as protocol;
use tokio::runtime::Builder;

#[path = "../../../shared/listen.rs"]
mod listen;
#[path = "../../../shared/service.rs"]
mod service;

use service::Service;

const USAGE: &str = "usage: hello-prefork WORKERS shared|reuseport|balanced ADDRESS WORK MEMORY";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [workers, distribution, address, work, memory] = args else { return Err(USAGE.into()) };
    protocol::fill_memory(memory)?;
    let (workers, address, service) = (workers.parse()?, address.parse()?, Service::new(work.parse()?));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(async {
        let serve = move |stream| service.clone().serve(stream);
        tokio_on_forkio::serve_in_workers(listen::listen(address)?, workers, distribution, serve).await
    })?;
    std::process::exit(exit_code.into())
}
