//! Forks, builds a fresh runtime in the child, and waits for the child's response on a connection that is in the
//! listener's queue.

use std::error::Error;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

use fork_protocol::{self as protocol, Cost, MESSAGE, faults_with_children, now};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

const USAGE: &str = "usage: first-response-fresh-runtime MEMORY";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [memory] = args else { return Err(USAGE.into()) };
    protocol::fill_memory(memory)?;
    // Like `first-response-forkio`, the parent makes a runtime before the fork. The child cannot use that runtime.
    let inherited = Builder::new_current_thread().enable_all().build()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    protocol::serve(|| {
        inherited.block_on(tokio::task::yield_now());
        let client = protocol::request(address)?;
        let (begin, faults) = (now(), faults_with_children());
        // SAFETY: this process has one thread.
        let child = unsafe { protocol::fork() }?;
        if child == 0 {
            protocol::exit(respond(&listener).is_ok());
        }
        protocol::read_response(client)?;
        let response = now() - begin;
        protocol::wait(child)?;
        let faults = faults_with_children() - faults;
        Ok(Cost { response: Some(response), faults: Some(faults), ..Cost::default() })
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
        // The process ends now, and the kernel then closes the stream and the listener. Dropping them would add system calls.
        mem::forget((stream, listener));
        written
    })
}
