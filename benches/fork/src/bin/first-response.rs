//! Forks, and waits for the child's response to a client that is in the listener's queue: with bare system calls, or with
//! forkio's selector.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;

use fork_benches::planned_fork;
use fork_protocol::{self as protocol, Cost, MESSAGE, faults_with_children, now};
use forkio_reactor::net::TcpListener;
use forkio_reactor::{Events, Interest, Poll, Token};

const USAGE: &str = "usage: first-response bare|reactor MEMORY";

fn main() -> ExitCode {
    protocol::run(program)
}

fn program(args: &[&str]) -> Result<(), Box<dyn Error>> {
    let [contender, memory] = args else { return Err(USAGE.into()) };
    protocol::fill_memory(memory)?;
    match *contender {
        "bare" => bare()?,
        "reactor" => reactor()?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// Uses only fork(2), accept(2), read(2) and write(2).
fn bare() -> io::Result<()> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    protocol::serve(|| {
        let client = protocol::request(address)?;
        let begin = (now(), faults_with_children());
        // SAFETY: this process has one thread.
        let child = unsafe { protocol::fork() }?;
        if child == 0 {
            let served = listener.accept().and_then(|(stream, _)| respond(stream));
            protocol::exit(served.is_ok());
        }
        end(client, child, begin)
    })
}

fn reactor() -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(16);
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
    protocol::serve(|| {
        let client = protocol::request(address)?;
        let begin = (now(), faults_with_children());
        // SAFETY: this process has one thread.
        let child = unsafe { planned_fork() }?;
        if child == 0 {
            protocol::exit(serve_one(&mut poll, &mut events, &listener).is_ok());
        }
        end(client, child, begin)
    })
}

fn serve_one(poll: &mut Poll, events: &mut Events, listener: &TcpListener) -> io::Result<()> {
    poll.poll(events, None)?;
    let (mut stream, _) = listener.accept()?;
    poll.registry().register(&mut stream, Token(1), Interest::READABLE)?;
    poll.poll(events, None)?;
    respond(stream)
}

fn respond(mut stream: impl Read + Write) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message)?;
    stream.write_all(&message)
}

fn end(client: TcpStream, child: i32, (begin, faults): (u64, u64)) -> io::Result<Cost> {
    protocol::read_response(client)?;
    let response = now() - begin;
    protocol::wait(child)?;
    let faults = faults_with_children() - faults;
    Ok(Cost { response: Some(response), faults: Some(faults), ..Cost::default() })
}
