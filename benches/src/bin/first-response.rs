//! Forks, and waits for the response of the child to a client that waits in the queue of the listener: the bare system
//! calls, or forkio's reactor.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use forked::{Cost, MESSAGE, faults_with_children, now};
use forkio_reactor::fork::{self, ForkResult};
use forkio_reactor::net::TcpListener;
use forkio_reactor::{Events, Interest, Poll, Token};

const USAGE: &str = "usage: first-response bare|reactor MEBIBYTES";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [contender, mebibytes] = args.as_slice() else { return Err(USAGE.into()) };
    forked::fill_memory(mebibytes.parse()?)?;
    match contender.as_str() {
        "bare" => bare()?,
        "reactor" => reactor()?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// fork(2), accept(2), read(2), write(2).
fn bare() -> io::Result<()> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    forked::serve(|| {
        let client = forked::request(address)?;
        let begin = (now(), faults_with_children());
        // SAFETY: this process has one thread.
        let child = unsafe { forked::fork() }?;
        if child == 0 {
            let served = listener.accept().and_then(|(stream, _)| respond(stream));
            forked::exit(served.is_ok());
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
    forked::serve(|| {
        let client = forked::request(address)?;
        let begin = (now(), faults_with_children());
        // SAFETY: this process has one thread.
        match unsafe { fork::fork() }.map_err(io::Error::other)? {
            ForkResult::Child => {
                let served =
                    poll.poll(&mut events, None).and_then(|()| listener.accept()).and_then(|(mut stream, _)| {
                        poll.registry().register(&mut stream, Token(1), Interest::READABLE)?;
                        poll.poll(&mut events, None)?;
                        respond(stream)
                    });
                forked::exit(served.is_ok());
            }
            ForkResult::Parent { child } => end(client, child, begin),
        }
    })
}

fn respond(mut stream: impl Read + Write) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message)?;
    stream.write_all(&message)
}

fn end(client: std::net::TcpStream, child: i32, (begin, faults): (u64, u64)) -> io::Result<Cost> {
    forked::read_response(client)?;
    let response = now() - begin;
    forked::wait(child)?;
    Ok(Cost { response, faults: faults_with_children() - faults, ..Cost::default() })
}
