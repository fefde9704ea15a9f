//! Serves an axum application with `forkio::Server`, whose short form is `forkio::serve`.

use std::error::Error;
use std::process::ExitCode;

use fork_protocol as protocol;

#[path = "../../../shared/app.rs"]
mod app;

const USAGE: &str = "usage: forkio-serve WORKERS shared|reuseport|balanced ADDRESS";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [workers, distribution, address] = args else { return Err(USAGE.into()) };
    let exit_code = tokio_on_forkio::serve_app(address, workers.parse()?, distribution, app::app())?;
    std::process::exit(exit_code.into())
}
