//! Serves an axum application with `axum::serve`, in one process with one thread. Other processes may listen on the same
//! address.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use axum::serve::ListenerExt;
use fork_protocol as protocol;
use tokio::runtime::Builder;

#[path = "../../../shared/app.rs"]
mod app;
#[path = "../../../shared/listen.rs"]
mod listen;

const USAGE: &str = "usage: axum-serve ADDRESS";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [address] = args else { return Err(USAGE.into()) };
    let address: SocketAddr = address.parse()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listen::listen(address)?.tap_io(|stream| {
            // If this fails, the server is slower, but still correct.
            let _is_set = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, app::app()).await?)
    })
}
