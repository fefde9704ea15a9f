//! hyper on tokio, in worker processes that forkio forks.

use std::error::Error;

use forkio::{Listener, Prefork};
use tokio::runtime::Builder;

#[path = "../../../service.rs"]
mod service;

const USAGE: &str = "usage: hello-prefork WORKERS ADDRESS WORK MEBIBYTES";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [workers, address, work, mebibytes] = args.as_slice() else { return Err(USAGE.into()) };
    forked::fill_memory(mebibytes.parse()?)?;
    let (workers, address, work) = (workers.parse()?, address.parse()?, work.parse()?);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let stopped = runtime.block_on(async {
        let prefork = Prefork::new().workers(workers).listener(service::listen(address)?);
        let stopped = prefork.run(move |mut worker| async move {
            let shutdown = worker.shutdown();
            let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
            tokio::select! {
                () = shutdown => {}
                _ = service::Service::new(work).run(listener) => {}
            }
        });
        Ok::<_, Box<dyn Error>>(stopped.await?)
    })?;
    std::process::exit(stopped.exit_code().into())
}
