//! Forks inside a running runtime, and waits for the response of the child to a client that waits in the queue of the
//! listener.

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;

use forked::{Cost, MESSAGE, faults_with_children, now};
use forkio::Fork;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

const USAGE: &str = "usage: first-response-forkio [ahead] MEBIBYTES";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (is_ahead, mebibytes) = match args.as_slice() {
        [mebibytes] => (false, mebibytes),
        [ahead, mebibytes] if ahead == "ahead" => (true, mebibytes),
        _ => return Err(USAGE.into()),
    };
    forked::fill_memory(mebibytes.parse()?)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(forked::serve(|| fork(&runtime, &listener, is_ahead))?)
}

fn fork(runtime: &Runtime, listener: &TcpListener, is_ahead: bool) -> io::Result<Cost> {
    let client = forked::request(listener.local_addr()?)?;
    runtime.block_on(async {
        if is_ahead {
            forkio::prepare_ahead().map_err(io::Error::other)?;
        }
        let (begin, faults) = (now(), faults_with_children());
        match forkio::fork().await.map_err(io::Error::other)? {
            Fork::Child(_) => forked::exit(respond(listener).await.is_ok()),
            Fork::Parent(mut child) => {
                forked::read_response(client)?;
                let response = now() - begin;
                let ended = child.wait().await?;
                if !ended.success() {
                    return Err(io::Error::other(format!("the child failed: {ended}")));
                }
                Ok(Cost { response, faults: faults_with_children() - faults, ..Cost::default() })
            }
        }
    })
}

async fn respond(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message).await?;
    stream.write_all(&message).await
}
