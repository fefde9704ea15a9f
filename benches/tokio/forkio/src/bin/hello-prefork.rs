//! hyper on tokio, in worker processes that forkio forks.

use std::error::Error;

use forkio::{Distribution, Listener, Prefork};
use tokio::runtime::Builder;

#[path = "../../../service.rs"]
mod service;

const USAGE: &str = "usage: hello-prefork WORKERS shared|reuseport|balanced ADDRESS WORK MEBIBYTES";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [workers, distribution, address, work, mebibytes] = args.as_slice() else { return Err(USAGE.into()) };
    let distribution = match distribution.as_str() {
        "shared" => Distribution::Shared,
        "reuseport" => Distribution::ReusePort,
        "balanced" => Distribution::Balanced,
        _ => return Err(USAGE.into()),
    };
    forked::fill_memory(mebibytes.parse()?)?;
    let (workers, address, work) = (workers.parse()?, address.parse()?, work.parse()?);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let stopped = runtime.block_on(async {
        let prefork = Prefork::new().workers(workers).distribution(distribution);
        let stopped = prefork.listener(service::listen(address)?).run(move |mut worker| async move {
            let service = service::Service::new(work);
            let shutdown = worker.shutdown();
            let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
            let mut acceptor = worker.acceptor(listener);
            let serve = async {
                loop {
                    let Ok((stream, _)) = acceptor.accept().await else { continue };
                    let _as_fast_as_possible = stream.set_nodelay(true);
                    tokio::spawn(service.clone().serve(stream));
                }
            };
            tokio::select! {
                () = shutdown => {}
                () = serve => {}
            }
        });
        Ok::<_, Box<dyn Error>>(stopped.await?)
    })?;
    std::process::exit(stopped.exit_code().into())
}
