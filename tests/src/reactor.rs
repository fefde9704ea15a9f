//! Helpers for scenarios of the reactor alone. `use forkio_tests::reactor::*` imports them, the reactor's types, and
//! the general helpers.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

pub use forkio_reactor::event::Source;
pub use forkio_reactor::fork::{
    self, ForkPolicy, ForkResult, PrepareError, PrepareObject, Prepared, SourceKind, generation,
    glue::is_prepared_ahead, parent, prepare, prepare_ahead, registrations,
};
pub use forkio_reactor::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream};
pub use forkio_reactor::unix::{Clock, Process, Signals, SourceFd, Timer, pipe};
pub use forkio_reactor::{Events, Interest, Poll, Registry, Token, Waker};

pub use crate::process::*;
pub use crate::sys::*;
pub use crate::{Program, arguments, limit, rounds, scenarios, unplanned};

/// Forks. Returns the child's process id in the parent, `None` in the child.
#[track_caller]
pub fn fork() -> Option<i32> {
    // SAFETY: a scenario has one thread, or its child needs no lock that another thread could hold.
    match unsafe { fork::fork() }.expect("forking") {
        ForkResult::Parent { child } => Some(child.cast_signed()),
        ForkResult::Child => None,
    }
}

/// Forks. The child runs `child` and exits. Returns the child's process id.
#[track_caller]
pub fn fork_child(child: impl FnOnce()) -> i32 {
    fork().unwrap_or_else(|| run_child(child))
}

/// Forks. The child runs `child` and exits, and the parent waits for it.
#[track_caller]
pub fn in_child(child: impl FnOnce()) {
    reap(fork_child(child));
}

/// Forks. Both processes run `check`, and the child exits.
#[track_caller]
pub fn in_both(check: &mut dyn FnMut()) {
    let child = fork_child(&mut *check);
    check();
    reap(child);
}

/// Prepares a fork, and forks as other code would. The child runs `child`, which may commit, and exits. The parent aborts,
/// and waits for the child.
#[track_caller]
pub fn in_child_after_prepare(child: impl FnOnce(Prepared)) {
    let mut prepared = Some(prepare().expect("preparing"));
    let pid = unplanned::fork_child(|| child(prepared.take().expect("not used yet")));
    prepared.take().expect("not used yet").abort();
    reap(pid);
}

/// Creates a selector, and its waker with the token 0.
#[track_caller]
pub fn selector_with_waker() -> (Poll, Waker) {
    let selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    (selector, waker)
}

/// Registers a source for reading. Returns the source.
#[track_caller]
pub fn registered<S: Source>(registry: &Registry, mut source: S, token: usize) -> S {
    register(registry, &mut source, token);
    source
}

/// Registers a source for reading, with a policy. Returns the source.
#[track_caller]
pub fn registered_with<S: Source>(registry: &Registry, mut source: S, token: usize, policy: ForkPolicy) -> S {
    register_with(registry, &mut source, token, policy);
    source
}

/// Registers a source for reading.
#[track_caller]
pub fn register(registry: &Registry, source: &mut (impl Source + ?Sized), token: usize) {
    registry.register(source, Token(token), Interest::READABLE).expect("registering");
}

/// Registers a source for reading, with a policy.
#[track_caller]
pub fn register_with(registry: &Registry, source: &mut (impl Source + ?Sized), token: usize, policy: ForkPolicy) {
    registry.register_with_policy(source, Token(token), Interest::READABLE, policy).expect("registering");
}

/// Creates a selector with a waker and a registered source, and another source that is registered with `kept`. Drops all of
/// them.
#[track_caller]
pub fn create_and_drop(kept: &Poll) {
    let (selector, _waker) = selector_with_waker();
    let (mut end, _other_end) = UnixStream::pair().unwrap();
    register(selector.registry(), &mut end, 1);
    let _socket = registered(kept.registry(), udp(), 2);
}

/// Polls once, or again if a signal interrupts the call. Returns the tokens of the events.
#[track_caller]
pub fn poll(poll: &mut Poll, timeout: Option<Duration>) -> BTreeSet<usize> {
    let mut events = Events::with_capacity(2048);
    while let Err(error) = poll.poll(&mut events, timeout) {
        assert_eq!(error.kind(), ErrorKind::Interrupted, "polling: {error}");
    }
    events.iter().map(|event| event.token().0).collect()
}

/// Waits for events. Returns their tokens, or none after the [`limit()`].
#[track_caller]
pub fn wait(selector: &mut Poll) -> BTreeSet<usize> {
    poll(selector, Some(limit()))
}

/// Waits until there has been an event for each of the tokens. Checks that no other token had an event.
#[track_caller]
pub fn wait_for_all<const N: usize>(selector: &mut Poll, all: [usize; N]) {
    let mut seen = BTreeSet::new();
    while seen.len() < N {
        let more = wait(selector);
        assert!(!more.is_empty(), "only {seen:?} of the tokens {all:?} had an event");
        seen.extend(more);
    }
    check_eq("events", seen, tokens(all));
}

/// Polls without waiting. Returns the tokens of the events.
#[track_caller]
pub fn ready(selector: &mut Poll) -> BTreeSet<usize> {
    poll(selector, Some(Duration::ZERO))
}

/// Checks that no event comes for 20 milliseconds.
#[track_caller]
pub fn check_silent(what: &str, selector: &mut Poll) {
    check_eq(what, poll(selector, Some(Duration::from_millis(20))), tokens([]));
}

/// Wakes a selector, and checks that its next event is the waker's.
#[track_caller]
pub fn check_wake(waker: &Waker, selector: &mut Poll, token: usize) {
    waker.wake().unwrap();
    check_eq("the wake", wait(selector), tokens([token]));
}

/// Checks that this process can create a selector and wake it.
#[track_caller]
pub fn check_new_selector() {
    let (mut selector, waker) = selector_with_waker();
    check_wake(&waker, &mut selector, 0);
}

/// Polls a poisoned selector. Returns the error.
#[track_caller]
pub fn poll_error(selector: &mut Poll) -> Option<i32> {
    selector.poll(&mut Events::with_capacity(8), Some(limit())).expect_err("the poll succeeds").raw_os_error()
}

/// Makes a set of tokens, to compare with events.
pub fn tokens<const N: usize>(tokens: [usize; N]) -> BTreeSet<usize> {
    BTreeSet::from(tokens)
}

/// Opens a listener at a free port.
#[track_caller]
pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// Opens a datagram socket at a free port.
#[track_caller]
pub fn udp() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// Sends one byte to a datagram socket, from another one.
#[track_caller]
pub fn send_to(socket: &UdpSocket) {
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
}

/// Connects a client to the listener.
#[track_caller]
pub fn connect(listener: &TcpListener) -> StdTcpStream {
    StdTcpStream::connect(listener.local_addr().unwrap()).unwrap()
}

/// Opens a connection. Returns its ends: a non-blocking one to register, and its peer.
#[track_caller]
pub fn connection() -> (TcpStream, StdTcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    (TcpStream::from_std(stream), peer)
}

/// Checks that the selector's kernel queue in this process watches the registrations in the table, except muted ones.
/// Checks nothing if the kernel does not list the descriptors that a queue watches.
#[track_caller]
pub fn check_table(selector: &impl AsRawFd) {
    let selector = selector.as_raw_fd();
    // List the registrations first, because this call reconciles in a child.
    let registrations = registrations();
    if let Some(watched) = watched_descriptors(selector) {
        let armed = registrations.iter().filter(|entry| entry.selector == selector && !entry.muted);
        let table: Vec<(RawFd, u64)> = armed.map(|entry| (entry.fd, entry.token.0 as u64)).collect();
        check_eq("kernel queue and table", watched, table);
    }
}

/// Prepares a fork with each descriptor limit from 0 up, until a preparation succeeds. Returns the errors. Checks that a
/// failed preparation leaves no descriptor open.
#[track_caller]
pub fn prepare_with_each_descriptor_limit() -> Vec<PrepareError> {
    let before = open_descriptors();
    let mut errors = Vec::new();
    for limit in 0.. {
        let result = with_descriptor_limit(limit, || prepare().map(|prepared| prepared.abort()));
        check_eq("descriptors", open_descriptors(), before.clone());
        match result {
            Ok(()) => break,
            Err(error) => {
                assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
                errors.push(error);
            }
        }
    }
    errors
}
