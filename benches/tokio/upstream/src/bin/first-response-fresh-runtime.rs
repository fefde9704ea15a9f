//! Forks, builds a fresh runtime in the child, and waits for its response to a client that waits in the queue of the
//! listener.

use std::error::Error;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, TcpListener};

use forked::{Cost, MESSAGE, faults_with_children, now};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

const USAGE: &str = "usage: first-response-fresh-runtime MEBIBYTES";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mebibytes] = args.as_slice() else { return Err(USAGE.into()) };
    forked::fill_memory(mebibytes.parse()?)?;
    // The one that is of no use in the child.
    let inherited = Builder::new_current_thread().enable_all().build()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    forked::serve(|| {
        inherited.block_on(tokio::task::yield_now());
        let client = forked::request(address)?;
        let (begin, faults) = (now(), faults_with_children());
        // SAFETY: this process has one thread.
        let child = unsafe { forked::fork() }?;
        if child == 0 {
            forked::exit(respond(&listener).is_ok());
        }
        forked::read_response(client)?;
        let response = now() - begin;
        forked::wait(child)?;
        Ok(Cost { response, faults: faults_with_children() - faults, ..Cost::default() })
    })?;
    Ok(())
}

fn respond(listener: &TcpListener) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let (mut stream, _) = listener.accept().await?;
        let mut message = [0; MESSAGE];
        stream.read_exact(&mut message).await?;
        let written = stream.write_all(&message).await;
        // The process ends now.
        mem::forget((stream, listener));
        written
    })
}
