//! What scenarios of the bare reactor have in common.

use std::collections::BTreeSet;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::RawFd;
use std::time::Duration;

use forkio_reactor::fork::{self, ForkResult, registrations};
use forkio_reactor::net::{TcpListener, TcpStream, UdpSocket};
use forkio_reactor::{Events, Poll};

use crate::{check_eq, reap, watched_descriptors};

/// Forks; the child runs `child` and exits. In the parent: the child's process id.
#[track_caller]
pub fn fork_child(child: impl FnOnce()) -> i32 {
    // SAFETY: fixtures have one thread here, or their child does nothing that another thread could hold a lock for.
    match unsafe { fork::fork() }.expect("forking") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            child();
            std::process::exit(0);
        }
    }
}

/// Forks; the child runs `child` and exits, and the parent waits for it.
#[track_caller]
pub fn in_child(child: impl FnOnce()) {
    reap(fork_child(child));
}

/// Tokens of the events of one poll.
#[track_caller]
pub fn poll(poll: &mut Poll, timeout: Option<Duration>) -> BTreeSet<usize> {
    let mut events = Events::with_capacity(2048);
    poll.poll(&mut events, timeout).expect("polling");
    events.iter().map(|event| event.token().0).collect()
}

/// What [`poll`] gives.
pub fn tokens<const N: usize>(tokens: [usize; N]) -> BTreeSet<usize> {
    BTreeSet::from(tokens)
}

/// At a free port.
#[track_caller]
pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// At a free port.
#[track_caller]
pub fn udp() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// A client, connected.
#[track_caller]
pub fn connect(listener: &TcpListener) -> StdTcpStream {
    StdTcpStream::connect(listener.local_addr().unwrap()).unwrap()
}

/// A connection within this process: our end, non-blocking, and the peer's.
#[track_caller]
pub fn connection() -> (TcpStream, StdTcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (TcpStream::from_std(ours), peer)
}

/// What the kernel watches for a selector is what the table says, in this process.
#[track_caller]
pub fn check_table(selector: RawFd) {
    let table: Vec<(i32, u64)> = registrations()
        .iter()
        .filter(|registration| registration.selector == selector && !registration.muted)
        .map(|registration| (registration.fd, registration.token.0 as u64))
        .collect();
    if let Some(watched) = watched_descriptors(selector) {
        check_eq("kernel queue and table", watched, table);
    }
}
