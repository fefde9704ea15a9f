//! Scenarios of runtimes with threads in a process that forks.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use forkio_reactor::event::Source;
use forkio_reactor::fork::{self, ForkPolicy, ForkResult, registrations};
use forkio_reactor::{Events, Interest, Poll, Registry, Token, Waker, net};
use forkio_tests::{Turn, check_eq, fixture_main, open_descriptors};

const LONG: Duration = Duration::from_secs(60);

fn main() {
    fixture_main(&[("retired-selector", retired_selector)]);
}

/// Forks by the reactor's means. The child's process id; `None` in the child.
fn fork_process() -> Option<i32> {
    // SAFETY: the child does nothing that another thread could hold a lock for.
    match unsafe { fork::fork() }.expect("forking") {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    }
}

/// Forks; the child runs `child` and exits. In the parent: the child's process id.
fn fork_child(child: impl FnOnce()) -> i32 {
    fork_process().unwrap_or_else(|| {
        child();
        std::process::exit(0)
    })
}

fn reap(pid: i32) {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    check_eq("reaping the child", unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    check_eq("the child's status", status, 0);
}

/// Children do without one of two selectors: they have its descriptors as the policies say, and nothing of it disturbs
/// them or the parent.
fn retired_selector() {
    let register = |registry: &Registry, source: &mut dyn Source, token| {
        registry.register(source, Token(token), Interest::READABLE).expect("registering");
    };
    let poll = |selector: &mut Poll| {
        let mut events = Events::with_capacity(8);
        selector.poll(&mut events, Some(LONG)).expect("polling");
        events.iter().map(|event| event.token().0).collect::<BTreeSet<_>>()
    };
    let mut kept = Poll::new().unwrap();
    let kept_waker = Waker::new(kept.registry(), Token(0)).unwrap();
    let mut retired = Poll::new().unwrap();
    let waker = Waker::new(retired.registry(), Token(0)).unwrap();
    let mut listener = net::TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let (mut end, mut other_end) = net::UnixStream::pair().unwrap();
    for (source, token) in [(&mut listener as &mut dyn Source, 1), (&mut stream, 2), (&mut end, 3)] {
        register(retired.registry(), source, token);
    }
    fork::set_policy(&stream, ForkPolicy::Sever).unwrap();
    fork::set_policy(&end, ForkPolicy::Renew).unwrap();
    check_eq("unregistered", fork::retire_in_children(&other_end).unwrap_err().kind(), ErrorKind::NotFound);
    fork::retire_in_children(&listener).unwrap();
    other_end.write_all(b"pending").unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([3]));

    let (looked, closed) = (Turn::new().unwrap(), Turn::new().unwrap());
    let Some(child) = fork_process() else {
        let polled = retired.poll(&mut Events::with_capacity(1), Some(LONG)).unwrap_err();
        check_eq("polling", polled.raw_os_error(), Some(libc::ECANCELED));
        let mut socket = net::UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let registered = retired.registry().register(&mut socket, Token(4), Interest::READABLE).unwrap_err();
        check_eq("registering", registered.raw_os_error(), Some(libc::ECANCELED));
        check_eq("selectors", fork::selectors(), 1);
        check_eq("registrations", registrations().iter().filter(|entry| entry.token != Token(0)).count(), 0);
        waker.wake().unwrap();

        let mut buffer = [0; 16];
        check_eq("severed", stream.read(&mut buffer).unwrap(), 0);
        check_eq("renewed", end.read(&mut buffer).unwrap(), b"pending".len());
        other_end.write_all(b"child").unwrap();
        check_eq("renewed", end.read(&mut buffer).unwrap(), b"child".len());
        retired.registry().deregister(&mut end).unwrap();
        // A listener can be served in another selector.
        retired.registry().deregister(&mut listener).unwrap();
        register(kept.registry(), &mut listener, 5);
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        check_eq("serving", poll(&mut kept), BTreeSet::from([5]));
        drop((listener.accept().unwrap(), client));
        kept_waker.wake().unwrap();
        check_eq("waking", poll(&mut kept), BTreeSet::from([0]));

        let descriptors = open_descriptors();
        reap(fork_child(|| check_eq("selectors", fork::selectors(), 1)));
        check_eq("descriptors", open_descriptors(), descriptors);
        looked.give();
        closed.wait();
        drop((stream, end, waker, retired));
        kept_waker.wake().unwrap();
        check_eq("waking", poll(&mut kept), BTreeSet::from([0]));
        std::process::exit(0);
    };
    looked.wait();
    let mut buffer = [0; 16];
    check_eq("the parent's own", end.read(&mut buffer).unwrap(), b"pending".len());
    check_eq("nothing else", end.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    peer.write_all(b"for the parent").unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([2]));
    check_eq("the parent's own", stream.read(&mut buffer).unwrap(), b"for the parent".len());
    drop(stream);
    check_eq("the end, although the child lives", peer.read(&mut buffer).unwrap(), 0);
    closed.give();
    reap(child);
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([1]));
    waker.wake().unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([0]));
}
