//! Forks inside a running runtime, and waits for the child's response on a connection that is in the listener's queue.

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use fork_protocol::{self as protocol, Cost, MESSAGE, faults_with_children, now};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_on_forkio::{fork, prepare_ahead};

const USAGE: &str = "usage: first-response-forkio [ahead] MEMORY";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let (is_ahead, memory) = match args {
        [memory] => (false, memory),
        [ahead, memory] if *ahead == "ahead" => (true, memory),
        _ => return Err(USAGE.into()),
    };
    protocol::fill_memory(memory)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(protocol::serve(|| fork_once(&runtime, &listener, is_ahead))?)
}

fn fork_once(runtime: &Runtime, listener: &TcpListener, is_ahead: bool) -> io::Result<Cost> {
    let client = protocol::request(listener.local_addr()?)?;
    runtime.block_on(async {
        if is_ahead {
            prepare_ahead()?;
        }
        let (begin, faults) = (now(), faults_with_children());
        let Some(child) = fork().await? else { protocol::exit(respond(listener).await.is_ok()) };
        protocol::read_response(client)?;
        let response = now() - begin;
        child.wait().await?;
        let faults = faults_with_children() - faults;
        Ok(Cost { response: Some(response), faults: Some(faults), ..Cost::default() })
    })
}

async fn respond(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message).await?;
    stream.write_all(&message).await
}
