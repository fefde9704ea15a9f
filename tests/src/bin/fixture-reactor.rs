//! Scenarios of the bare reactor: [`forkio_reactor::fork`] without tokio.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forkio_reactor::event::Source;
use forkio_reactor::fork::{self, ForkPolicy, PrepareObject, SourceKind, generation, prepare, registrations};
use forkio_reactor::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream};
use forkio_reactor::unix::{Process, SourceFd, pipe};
use forkio_reactor::{Events, Interest, Poll, Registry, Token, Waker};
use forkio_tests::reactor::{check_table, connect, connection, fork_child, listener, poll, tokens, udp};
use forkio_tests::{Turn, check_eq, fixture_main, inotify, open_descriptors, reap, watched_descriptors};

const LONG: Option<Duration> = Some(Duration::from_secs(30));
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

fn main() {
    fixture_main(&[
        ("selectors-are-private", selectors_are_private),
        ("wakes-are-private", wakes_are_private),
        ("pending-wake-is-pending-in-both", pending_wake_is_pending_in_both),
        ("coalesced-wakes-survive-a-fork-in-between", coalesced_wakes_survive_a_fork_in_between),
        ("changes-at-the-same-numbers", changes_at_the_same_numbers),
        ("inherit", inherit),
        ("no-fork", no_fork),
        ("sever", sever),
        ("renew-pair", renew_pair),
        ("renew-refused", renew_refused),
        ("defaults-by-kind", defaults_by_kind),
        ("mute", mute),
        ("stale-registrations", stale_registrations),
        ("register-with-policy", register_with_policy),
        ("nested", nested),
        ("many-selectors", many_selectors),
        ("selector-in-a-selector", selector_in_a_selector),
        ("signalfd", signalfd),
        ("registering-during-a-fork", registering_during_a_fork),
        ("registering-inside-a-fork", registering_inside_a_fork),
        ("descriptor-limit", descriptor_limit),
        ("poison", poison),
        ("given-away", given_away),
        ("policies-at-odds", policies_at_odds),
        ("plain-fork", plain_fork),
        ("dropping-during-a-fork", dropping_during_a_fork),
        ("selector-that-is-gone", selector_that_is_gone),
        ("aborted", aborted),
    ]);
}

fn register(registry: &Registry, source: &mut impl Source, token: usize) {
    registry.register(source, Token(token), Interest::READABLE).unwrap();
}

fn selectors_are_private() {
    let mut selector = Poll::new().unwrap();
    let mut sockets: Vec<UdpSocket> = (0..4).map(|_| udp()).collect();
    for (index, socket) in sockets.iter_mut().enumerate() {
        register(selector.registry(), socket, index);
    }
    let (parent_turn, child_turn) = (Turn::new().unwrap(), Turn::new().unwrap());
    let number = selector.as_raw_fd();
    let mut child_sockets = sockets.iter().map(|s| s.local_addr().unwrap()).collect::<Vec<_>>();
    let child = fork_child(|| {
        check_eq("the selector's number", selector.as_raw_fd(), number);
        check_eq("generation", generation(), 1);
        check_table(selector.as_raw_fd());
        // Deregister one, drop one as it is, change one.
        selector.registry().deregister(&mut sockets[0]).unwrap();
        drop(sockets.remove(1));
        selector.registry().reregister(&mut sockets[1], Token(77), Interest::READABLE).unwrap();
        check_table(selector.as_raw_fd());
        parent_turn.give();
        child_turn.wait();
        // What the parent did meanwhile is not felt here.
        check_table(selector.as_raw_fd());
        check_eq("registrations", registrations().len(), 2);
    });
    parent_turn.wait();
    check_table(selector.as_raw_fd());
    check_eq("registrations", registrations().len(), 4);
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for address in child_sockets.drain(..) {
        sender.send_to(b"x", address).unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        seen.append(&mut poll(&mut selector, LONG));
    }
    check_eq("events", seen, tokens([0, 1, 2, 3]));
    let mut late = udp();
    register(selector.registry(), &mut late, 9);
    selector.registry().deregister(&mut sockets[3]).unwrap();
    child_turn.give();
    reap(child);
    check_table(selector.as_raw_fd());
}

fn wakes_are_private() {
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let child = fork_child(|| {
        for _ in 0..2_000 {
            waker.wake().unwrap();
            check_eq("own wake", poll(&mut selector, LONG), tokens([0]));
        }
        to_parent.give();
        to_child.wait();
        check_eq("the parent's wakes", poll(&mut selector, SHORT), tokens([]));
    });
    to_parent.wait();
    check_eq("the child's wakes", poll(&mut selector, SHORT), tokens([]));
    for _ in 0..2_000 {
        waker.wake().unwrap();
        check_eq("own wake", poll(&mut selector, LONG), tokens([0]));
    }
    to_child.give();
    reap(child);
}

fn pending_wake_is_pending_in_both() {
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(5)).unwrap();
    for _ in 0..3 {
        waker.wake().unwrap();
    }
    let child = fork_child(|| {
        check_eq("in the child", poll(&mut selector, LONG), tokens([5]));
        check_eq("once", poll(&mut selector, SHORT), tokens([]));
        waker.wake().unwrap();
        check_eq("again", poll(&mut selector, LONG), tokens([5]));
    });
    check_eq("in the parent", poll(&mut selector, LONG), tokens([5]));
    reap(child);
    check_eq("once", poll(&mut selector, SHORT), tokens([]));
}

/// A wake that another thread has announced but not yet written, or written: the child, which has no such thread, must
/// be wakeable all the same.
fn coalesced_wakes_survive_a_fork_in_between() {
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(5)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                waker.wake().unwrap();
            }
        });
        for _ in 0..300 {
            let child = fork_child(|| {
                // Whatever the state of the flag, a wake from now on is delivered.
                waker.wake().unwrap();
                check_eq("in the child", poll(&mut selector, LONG), tokens([5]));
                poll(&mut selector, Some(Duration::ZERO));
                waker.wake().unwrap();
                check_eq("again", poll(&mut selector, LONG), tokens([5]));
                // Not `exit`, which would run the scope's end and wait for the thread.
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(0) };
            });
            poll(&mut selector, LONG);
            reap(child);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Parent and child open, register, deregister and close at the same descriptor numbers, thousands of times, at the same
/// time.
fn changes_at_the_same_numbers() {
    let mut selector = Poll::new().unwrap();
    let mut kept = listener();
    register(selector.registry(), &mut kept, 1);
    let ready = Turn::new().unwrap();
    let churn = |selector: &Poll, base: usize| {
        for round in 0..3_000 {
            let mut socket = udp();
            register(selector.registry(), &mut socket, base + round);
            if round % 3 == 0 {
                selector.registry().deregister(&mut socket).unwrap();
            } else if round % 3 == 1 {
                let interest = Interest::READABLE | Interest::WRITABLE;
                selector.registry().reregister(&mut socket, Token(base), interest).unwrap();
            }
            // In two of three rounds it is dropped while registered.
        }
        check_table(selector.as_raw_fd());
    };
    let child = fork_child(|| {
        ready.give();
        churn(&selector, 10_000);
        check_eq("registrations", registrations().len(), 1);
        selector.registry().deregister(&mut kept).unwrap();
    });
    ready.wait();
    churn(&selector, 20_000);
    reap(child);
    check_table(selector.as_raw_fd());
    check_eq("registrations", registrations().len(), 1);
    let _client = connect(&kept);
    check_eq("the kept listener", poll(&mut selector, LONG), tokens([1]));
}

fn inherit() {
    let mut selector = Poll::new().unwrap();
    let (mut ours, mut peer) = connection();
    let mut server = listener();
    register(selector.registry(), &mut ours, 1);
    register(selector.registry(), &mut server, 2);
    // Active at the fork, and not: the first one gives an event in both without more being sent.
    peer.write_all(b"before").unwrap();
    let (to_parent, turn) = (Turn::new().unwrap(), Turn::new().unwrap());
    let child = fork_child(|| {
        check_eq("active at the fork", poll(&mut selector, LONG), tokens([1]));
        to_parent.give();
        turn.wait();
        check_eq("after the fork", poll(&mut selector, LONG), tokens([2]));
    });
    check_eq("active at the fork", poll(&mut selector, LONG), tokens([1]));
    to_parent.wait();
    let _client = connect(&server);
    check_eq("after the fork", poll(&mut selector, LONG), tokens([2]));
    turn.give();
    reap(child);
}

fn no_fork() {
    let mut selector = Poll::new().unwrap();
    let mut sockets = [udp(), udp(), udp()];
    for (index, socket) in sockets.iter_mut().enumerate() {
        register(selector.registry(), socket, index);
        fork::set_policy(socket, ForkPolicy::NoFork).unwrap();
    }
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for socket in &sockets {
        sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    }
    let child = fork_child(|| {
        check_table(selector.as_raw_fd());
        check_eq("registrations", registrations().len(), 0);
        check_eq("events", poll(&mut selector, SHORT), tokens([]));
        // To its owner the first one was registered: it can be deregistered, once.
        selector.registry().deregister(&mut sockets[0]).unwrap();
        let again = selector.registry().deregister(&mut sockets[0]).unwrap_err();
        check_eq("deregistering twice", again.kind(), ErrorKind::NotFound);
        let changed = selector.registry().reregister(&mut sockets[1], Token(1), Interest::READABLE).unwrap_err();
        check_eq("reregistering", changed.kind(), ErrorKind::NotFound);
        // The descriptor is open, and can be registered anew.
        register(selector.registry(), &mut sockets[2], 8);
        check_eq("registered anew", poll(&mut selector, LONG), tokens([8]));
        check_table(selector.as_raw_fd());
        // In a grandchild what the parent dropped stays dropped, and what it registered follows its own policy.
        let grandchild = fork_child(|| {
            check_table(selector.as_raw_fd());
            check_eq("in the grandchild", poll(&mut selector, SHORT), tokens([8]));
        });
        reap(grandchild);
    });
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        seen.append(&mut poll(&mut selector, LONG));
    }
    reap(child);
    check_table(selector.as_raw_fd());
    // Taken back: the next child has it.
    fork::set_policy(&sockets[0], ForkPolicy::Inherit).unwrap();
    reap(fork_child(|| {
        check_table(selector.as_raw_fd());
        check_eq("registrations", registrations().len(), 1);
    }));
}

fn sever() {
    let mut selector = Poll::new().unwrap();
    let (mut ours, mut peer) = connection();
    register(selector.registry(), &mut ours, 1);
    fork::set_policy(&ours, ForkPolicy::Sever).unwrap();
    let (mut sender, mut receiver) = pipe::new().unwrap();
    register(selector.registry(), &mut receiver, 2);
    selector.registry().register(&mut sender, Token(3), Interest::WRITABLE).unwrap();
    check_eq("writable", poll(&mut selector, LONG), tokens([3]));
    for end in [sender.as_raw_fd(), receiver.as_raw_fd()] {
        fork::set_policy(&end, ForkPolicy::Sever).unwrap();
    }
    peer.write_all(b"for the parent only").unwrap();
    let (severed, parent_closed) = (Turn::new().unwrap(), Turn::new().unwrap());
    let child = fork_child(|| {
        let mut events = Events::with_capacity(8);
        selector.poll(&mut events, LONG).unwrap();
        check_eq("who is woken", events.iter().map(|event| event.token().0).collect(), tokens([1, 2, 3]));
        assert!(events.iter().all(|event| event.is_read_closed() || event.is_write_closed()));
        let mut buffer = [0; 32];
        check_eq("reading", ours.read(&mut buffer).unwrap(), 0);
        check_eq("writing", ours.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        check_eq("reading the pipe", receiver.read(&mut buffer).unwrap(), 0);
        check_eq("writing the pipe", sender.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        check_table(selector.as_raw_fd());
        severed.give();
        parent_closed.wait();
        selector.registry().deregister(&mut ours).unwrap();
        check_table(selector.as_raw_fd());
    });
    severed.wait();
    check_eq("the parent's", poll(&mut selector, LONG), tokens([1]));
    let mut buffer = [0; 32];
    let read = ours.read(&mut buffer).unwrap();
    check_eq("the parent's bytes", &buffer[..read], b"for the parent only");
    ours.write_all(b"answer").unwrap();
    sender.write_all(b"y").unwrap();
    check_eq("the parent's pipe", receiver.read(&mut buffer).unwrap(), 1);
    selector.registry().deregister(&mut ours).unwrap();
    drop(ours);
    // The child lives, and does not hold the connection open.
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    check_eq("what the peer saw", rest, b"answer".to_vec());
    parent_closed.give();
    reap(child);
}

/// As tokio's signal pipe: two ends, and a duplicate that is registered.
fn renew_pair() {
    let mut selector = Poll::new().unwrap();
    let (receiver, mut sender) = UnixStream::pair().unwrap();
    // SAFETY: the number is that of an open socket, and the copy is made before it goes out of scope.
    let original = unsafe { std::os::fd::BorrowedFd::borrow_raw(receiver.as_raw_fd()) };
    let mut duplicate = UnixStream::from(original.try_clone_to_owned().unwrap());
    register(selector.registry(), &mut duplicate, 1);
    fork::set_policy(&duplicate, ForkPolicy::Renew).unwrap();
    assert!(fork::is_pair_end(duplicate.as_raw_fd()));
    sender.write_all(b"pending").unwrap();
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let read = |mut from: &UnixStream| {
        let mut buffer = [0; 32];
        match from.read(&mut buffer) {
            Ok(read) => String::from_utf8_lossy(&buffer[..read]).into_owned(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => String::new(),
            Err(error) => panic!("reading: {error}"),
        }
    };
    let child = fork_child(|| {
        check_eq("pending at the fork", poll(&mut selector, LONG), tokens([1]));
        check_eq("by the duplicate", read(&duplicate).as_str(), "pending");
        sender.write_all(b"child").unwrap();
        check_eq("own bytes", poll(&mut selector, LONG), tokens([1]));
        check_eq("by the original", read(&receiver).as_str(), "child");
        to_parent.give();
        to_child.wait();
        check_eq("the parent's bytes", read(&receiver).as_str(), "");
        // Renewed again.
        reap(fork_child(|| {
            sender.write_all(b"grandchild").unwrap();
            check_eq("own bytes", poll(&mut selector, LONG), tokens([1]));
            check_eq("by the duplicate", read(&duplicate).as_str(), "grandchild");
        }));
        check_eq("the grandchild's bytes", read(&receiver).as_str(), "");
    });
    to_parent.wait();
    check_eq("pending at the fork", poll(&mut selector, LONG), tokens([1]));
    check_eq("by the original", read(&receiver).as_str(), "pending");
    sender.write_all(b"parent").unwrap();
    check_eq("own bytes", poll(&mut selector, LONG), tokens([1]));
    to_child.give();
    reap(child);
    check_eq("by the duplicate", read(&duplicate).as_str(), "parent");
}

fn renew_refused() {
    let selector = Poll::new().unwrap();
    let (mut ours, _peer) = connection();
    register(selector.registry(), &mut ours, 1);
    fork::set_policy(&ours, ForkPolicy::Renew).unwrap();
    let descriptors = open_descriptors();
    let error = prepare().unwrap_err();
    check_eq("object", error.object(), PrepareObject::Pair(ours.as_raw_fd()));
    check_eq("kind", error.io_error().kind(), ErrorKind::Unsupported);
    check_eq("descriptors", open_descriptors(), descriptors);
    fork::set_policy(&ours, ForkPolicy::Sever).unwrap();
    reap(fork_child(|| {}));
}

fn defaults_by_kind() {
    let selector = Poll::new().unwrap();
    let registry = selector.registry();
    let mut server = listener();
    let (mut stream, _peer) = connection();
    let mut datagrams = udp();
    let (mut pair, _other) = UnixDatagram::pair().unwrap();
    let process = Process::open(std::process::id()).unwrap();
    let files = inotify();
    let other_selector = Poll::new().unwrap();
    register(registry, &mut server, 1);
    register(registry, &mut stream, 2);
    register(registry, &mut datagrams, 3);
    register(registry, &mut pair, 4);
    let watched = [
        (5, Some(process.as_raw_fd())),
        (6, files.as_ref().map(AsRawFd::as_raw_fd)),
        (7, Some(other_selector.as_raw_fd())),
    ];
    for (token, fd) in watched {
        if let Some(fd) = fd {
            register(registry, &mut SourceFd(&fd), token);
        }
    }
    let is_watched = |token: &usize| *token != 6 || files.is_some();
    // By number only: what it is is found out from the descriptor.
    let (bare_stream, _bare_peer) = connection();
    let bare = bare_stream.as_raw_fd();
    register(registry, &mut SourceFd(&bare), 8);
    for (kind, policy) in [
        (SourceKind::Stream, ForkPolicy::Sever),
        (SourceKind::Datagram, ForkPolicy::NoFork),
        (SourceKind::Queue, ForkPolicy::NoFork),
    ] {
        check_eq("the reactor's default", fork::set_default_policy(kind, policy), ForkPolicy::Inherit);
    }
    check_eq("the default of pidfds", fork::default_policy(SourceKind::Process), ForkPolicy::NoFork);
    let child = fork_child(|| {
        check_table(selector.as_raw_fd());
        let left: BTreeSet<usize> = registrations().iter().map(|registration| registration.token.0).collect();
        check_eq("what the child has", left, [1, 2, 4, 6, 8].into_iter().filter(is_watched).collect());
        let severed = |stream: &TcpStream| stream.peek(&mut [0; 1]).is_ok_and(|read| read == 0);
        assert!(severed(&stream) && severed(&bare_stream));
    });
    reap(child);
    check_eq("what the parent has", registrations().len(), (1..=8).filter(is_watched).count());
    let kinds = [(5, SourceKind::Process), (6, SourceKind::Watch), (7, SourceKind::Queue), (8, SourceKind::Stream)];
    for (token, kind) in kinds.into_iter().filter(|(token, _)| is_watched(token)) {
        check_eq("kind", registrations().iter().find(|entry| entry.token.0 == token).unwrap().kind, Some(kind));
    }
}

fn mute() {
    let mut selector = Poll::new().unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    fork::mute(&server).unwrap();
    fork::mute(&server).unwrap();
    let _first = connect(&server);
    check_eq("muted", poll(&mut selector, SHORT), tokens([]));
    let child = fork_child(|| {
        check_eq("armed in the child", poll(&mut selector, LONG), tokens([1]));
        check_table(selector.as_raw_fd());
        assert!(!registrations()[0].muted);
        server.accept().unwrap();
    });
    reap(child);
    check_eq("still muted", poll(&mut selector, SHORT), tokens([]));
    let again = selector.registry().register(&mut server, Token(5), Interest::READABLE).unwrap_err();
    check_eq("registering the muted", again.kind(), ErrorKind::AlreadyExists);
    // A change while muted holds when it ends.
    selector.registry().reregister(&mut server, Token(2), Interest::READABLE).unwrap();
    let _second = connect(&server);
    check_eq("still muted", poll(&mut selector, SHORT), tokens([]));
    fork::unmute(&server).unwrap();
    check_eq("unmuted", poll(&mut selector, LONG), tokens([2]));
    fork::mute(&server).unwrap();
    selector.registry().deregister(&mut server).unwrap();
    check_eq("nothing to mute", fork::mute(&server).unwrap_err().kind(), ErrorKind::NotFound);
    check_table(selector.as_raw_fd());
}

/// Numbers that were closed while registered, and are something else by the time of the fork.
fn stale_registrations() {
    let mut selector = Poll::new().unwrap();
    let mut dropped = udp();
    register(selector.registry(), &mut dropped, 1);
    let number = dropped.as_raw_fd();
    drop(dropped);
    let reused = udp();
    check_eq("the number is used again", reused.as_raw_fd(), number);
    // The same by number, which nothing tells the table of.
    let owned = udp();
    let bare = owned.as_raw_fd();
    register(selector.registry(), &mut SourceFd(&bare), 2);
    drop(owned);
    let also_reused = udp();
    check_eq("the number is used again", also_reused.as_raw_fd(), bare);
    // A waker that is gone.
    drop(Waker::new(selector.registry(), Token(3)).unwrap());
    check_eq("the kernel's view", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), vec![]);
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for socket in [&reused, &also_reused] {
        sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    }
    let child = fork_child(|| {
        check_eq("the child's kernel's view", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), vec![]);
        check_eq("events", poll(&mut selector, SHORT), tokens([]));
    });
    reap(child);
}

fn register_with_policy() {
    let selector = Poll::new().unwrap();
    let mut socket = udp();
    let registry = selector.registry().try_clone().unwrap();
    registry.register_with_policy(&mut socket, Token(1), Interest::READABLE, ForkPolicy::NoFork).unwrap();
    check_eq("policy", fork::policy(&socket), Some(ForkPolicy::NoFork));
    reap(fork_child(|| check_eq("registrations", registrations().len(), 0)));
    // The policy was that registration's: the next one follows the default.
    registry.deregister(&mut socket).unwrap();
    check_eq("policy", fork::policy(&socket), None);
    register(&registry, &mut socket, 1);
    check_eq("policy", fork::policy(&socket), Some(ForkPolicy::Inherit));
}

fn nested() {
    fn descend(selector: &mut Poll, waker: &Waker, server: &TcpListener, depth: u32) {
        check_eq("generation", generation(), depth);
        check_table(selector.as_raw_fd());
        waker.wake().unwrap();
        check_eq("own wake", poll(selector, LONG), tokens([0]));
        if depth == 5 {
            return;
        }
        let child = fork_child(|| descend(selector, waker, server, depth + 1));
        reap(child);
        // What happened below is not felt here.
        check_eq("wakes from below", poll(selector, Some(Duration::ZERO)), tokens([]));
        let _client = connect(server);
        check_eq("the listener", poll(selector, LONG), tokens([1]));
        server.accept().unwrap();
        check_table(selector.as_raw_fd());
    }
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    descend(&mut selector, &waker, &server, 0);
}

/// One source in several selectors, selectors that come and go, clones of registries.
fn many_selectors() {
    let mut selectors: Vec<Poll> = (0..20).map(|_| Poll::new().unwrap()).collect();
    let wakers: Vec<Waker> =
        selectors.iter().map(|selector| Waker::new(selector.registry(), Token(0)).unwrap()).collect();
    let clones: Vec<Registry> = selectors.iter().map(|poll| poll.registry().try_clone().unwrap()).collect();
    let socket = udp();
    let number = socket.as_raw_fd();
    for (index, registry) in clones.iter().enumerate() {
        register(registry, &mut SourceFd(&number), index + 1);
    }
    drop(selectors.remove(3));
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    let child = fork_child(|| {
        for (selector, waker) in selectors.iter_mut().zip(wakers.iter().enumerate().filter(|(i, _)| *i != 3)) {
            let (index, waker) = waker;
            check_eq("the socket", poll(selector, LONG), tokens([index + 1]));
            waker.wake().unwrap();
            check_eq("the waker", poll(selector, LONG), tokens([0]));
            check_table(selector.as_raw_fd());
        }
    });
    reap(child);
    for selector in &mut selectors {
        let seen = poll(selector, LONG);
        assert!(!seen.contains(&0) && seen.len() == 1, "{seen:?}");
        check_table(selector.as_raw_fd());
    }
}

/// The child's outer selector watches the child's inner one.
fn selector_in_a_selector() {
    let mut outer = Poll::new().unwrap();
    let mut inner = Poll::new().unwrap();
    let waker = Waker::new(inner.registry(), Token(7)).unwrap();
    let number = inner.as_raw_fd();
    register(outer.registry(), &mut SourceFd(&number), 1);
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let mut once = || {
        waker.wake().unwrap();
        check_eq("outer", poll(&mut outer, LONG), tokens([1]));
        check_eq("inner", poll(&mut inner, LONG), tokens([7]));
        check_eq("drained", poll(&mut outer, Some(Duration::ZERO)), tokens([]));
    };
    let child = fork_child(|| {
        once();
        to_parent.give();
        to_child.wait();
        once();
    });
    to_parent.wait();
    once();
    to_child.give();
    reap(child);
    check_eq("the child's", poll(&mut outer, SHORT), tokens([]));
}

/// A signalfd watches the signals of the process that registered it.
fn signalfd() {
    let Some(signals) = forkio_tests::signalfd(libc::SIGUSR1) else { return };
    let mut selector = Poll::new().unwrap();
    // SAFETY: the set is filled before it is read; the mask is this thread's.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
    register(selector.registry(), &mut SourceFd(&signals.as_raw_fd()), 1);
    let signals = std::fs::File::from(signals);
    let mut receive = || {
        // SAFETY: no memory is involved.
        unsafe { libc::raise(libc::SIGUSR1) };
        check_eq("own signal", poll(&mut selector, LONG), tokens([1]));
        // `struct signalfd_siginfo` is as long.
        check_eq("read", (&signals).read(&mut [0; 128]).unwrap(), 128);
    };
    let child = fork_child(&mut receive);
    reap(child);
    receive();
}

/// Another thread registers all the time; no child has a registration that its kernel queue lacks, or the reverse.
fn registering_during_a_fork() {
    let selector = Poll::new().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sockets: Vec<UdpSocket> = (0..16).map(|_| udp()).collect();
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                for socket in &mut sockets {
                    round += 1;
                    register(selector.registry(), socket, round);
                }
                for socket in &mut sockets {
                    selector.registry().reregister(socket, Token(1), Interest::READABLE).unwrap();
                    selector.registry().deregister(socket).unwrap();
                }
            }
        });
        for _ in 0..300 {
            let child = fork_child(|| {
                check_table(selector.as_raw_fd());
                // SAFETY: ends the process at once; its scope would wait for a thread that is not there.
                unsafe { libc::_exit(0) };
            });
            reap(child);
        }
        stop.store(true, Ordering::Relaxed);
    });
    check_table(selector.as_raw_fd());
}

/// What may not be done between prepare and the end of a fork says so, instead of waiting for itself.
fn registering_inside_a_fork() {
    let selector = Poll::new().unwrap();
    let mut socket = udp();
    let prepared = prepare().unwrap();
    let error = selector.registry().register(&mut socket, Token(0), Interest::READABLE).unwrap_err();
    assert!(error.to_string().contains("between prepare and commit"), "{error}");
    check_eq("a second fork", prepare().unwrap_err().object(), PrepareObject::NestedFork);
    prepared.abort();
    register(selector.registry(), &mut socket, 0);
    check_table(selector.as_raw_fd());
}

/// With one descriptor more each time: every object is once the one that cannot be made, and then the fork succeeds.
fn descriptor_limit() {
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let (mut pair, mut other_end) = UnixStream::pair().unwrap();
    register(selector.registry(), &mut pair, 1);
    fork::set_policy(&pair, ForkPolicy::Renew).unwrap();
    let (mut stream, _peer) = connection();
    register(selector.registry(), &mut stream, 2);
    fork::set_policy(&stream, ForkPolicy::Sever).unwrap();
    let before = open_descriptors();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`.
    check_eq("getrlimit", unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    let set_limit = |current| {
        let limit = libc::rlimit { rlim_cur: current, ..limit };
        // SAFETY: the kernel reads `limit`.
        check_eq("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    };
    let mut objects = Vec::new();
    for highest in 0.. {
        set_limit(highest);
        let result = prepare().map(|prepared| prepared.abort());
        set_limit(limit.rlim_cur);
        check_eq("descriptors", open_descriptors(), before.clone());
        check_table(selector.as_raw_fd());
        match result {
            Ok(()) => break,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("RLIMIT_NOFILE") && text.contains("cannot prepare the fork"), "{text}");
                if error.io_error().raw_os_error() == Some(libc::EMFILE) {
                    objects.push(error.object());
                } else {
                    // Room enough for what is new, but not for the numbers that are to be replaced.
                    assert!(text.contains("was lowered after it was opened"), "{text}");
                }
            }
        }
    }
    let number = selector.as_raw_fd();
    // A kqueue, and its wakers, are made in the child.
    if cfg!(epoll) {
        assert!(objects.contains(&PrepareObject::Queue(number)), "{objects:?}");
        assert!(objects.iter().any(|object| matches!(object, PrepareObject::Waker(_))), "{objects:?}");
    }
    assert!(objects.contains(&PrepareObject::Pair(pair.as_raw_fd())), "{objects:?}");
    assert!(objects.contains(&PrepareObject::DeadEndpoint(stream.as_raw_fd())), "{objects:?}");
    // All is as it was.
    waker.wake().unwrap();
    check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
    other_end.write_all(b"x").unwrap();
    check_eq("the pair", poll(&mut selector, LONG), tokens([1]));
    reap(fork_child(|| check_table(selector.as_raw_fd())));
}

/// Has a system call of commit fail, and returns the error.
#[cfg(not(forkio_kqueue))]
fn fail_commit() -> i32 {
    // dup3(2) onto a number beyond the limit gives EBADF.
    let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads `nothing`.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &nothing) };
    libc::EBADF
}

/// Has a system call of commit fail, and returns the error.
#[cfg(forkio_kqueue)]
fn fail_commit() -> i32 {
    use forkio_reactor::testing::kqueue::{Call, Kernel, inject};
    let (call, errno) =
        if Kernel::this().is_copying() { (Call::Change, libc::ENOMEM) } else { (Call::Create, libc::ENFILE) };
    inject(call, 0, errno);
    errno
}

/// A system call of commit fails: every poll says so.
fn poison() {
    let mut selector = Poll::new().unwrap();
    let mut healthy = udp();
    register(selector.registry(), &mut healthy, 1);
    let prepared = prepare().unwrap();
    // SAFETY: one thread.
    match unsafe { libc::fork() } {
        0 => {
            let errno = fail_commit();
            // SAFETY: this is the child of a fork after `prepare`.
            unsafe { prepared.commit() };
            let mut events = Events::with_capacity(8);
            for _ in 0..3 {
                let error = selector.poll(&mut events, LONG).unwrap_err();
                check_eq("poisoned", error.raw_os_error(), Some(errno));
            }
            // The number is still the parent's queue: nothing that is done here may reach it.
            selector.registry().deregister(&mut healthy).unwrap();
            let error = selector.registry().register(&mut healthy, Token(2), Interest::READABLE).unwrap_err();
            check_eq("poisoned", error.raw_os_error(), Some(errno));
            std::process::exit(0);
        }
        child => {
            prepared.abort();
            reap(child);
        }
    }
    check_table(selector.as_raw_fd());
    check_eq("the parent", poll(&mut selector, SHORT), tokens([]));
}

fn aborted() {
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    fork::set_policy(&server, ForkPolicy::NoFork).unwrap();
    let before = open_descriptors();
    for _ in 0..1_000 {
        prepare().unwrap().abort();
        drop(prepare().unwrap());
    }
    check_eq("descriptors", open_descriptors(), before);
    check_eq("generation", generation(), 0);
    check_table(selector.as_raw_fd());
    waker.wake().unwrap();
    check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
    let _client = connect(&server);
    check_eq("the listener", poll(&mut selector, LONG), tokens([1]));
}

/// A source that became a bare number while registered, was closed, and the number is something else.
fn given_away() {
    let mut selector = Poll::new().unwrap();
    let mut socket = udp();
    register(selector.registry(), &mut socket, 1);
    let number = socket.as_raw_fd();
    drop(std::os::fd::OwnedFd::from(std::net::UdpSocket::from(socket)));
    let reused = udp();
    check_eq("the number is used again", reused.as_raw_fd(), number);
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"x", reused.local_addr().unwrap()).unwrap();
    reap(fork_child(|| {
        check_table(selector.as_raw_fd());
        check_eq("events", poll(&mut selector, SHORT), tokens([]));
    }));
}

/// One number that a fork replaces, in a selector that would only inherit it; one end of a renewed pair that the child
/// is not to have.
fn policies_at_odds() {
    let mut severing = Poll::new().unwrap();
    let mut inheriting = Poll::new().unwrap();
    let (mut stream, mut peer) = connection();
    let number = stream.as_raw_fd();
    severing.registry().register_with_policy(&mut stream, Token(1), Interest::READABLE, ForkPolicy::Sever).unwrap();
    register(inheriting.registry(), &mut SourceFd(&number), 2);
    let (mut renewed, mut other_end) = UnixStream::pair().unwrap();
    let registry = severing.registry();
    registry.register_with_policy(&mut renewed, Token(3), Interest::READABLE, ForkPolicy::Renew).unwrap();
    registry.register_with_policy(&mut other_end, Token(4), Interest::READABLE, ForkPolicy::NoFork).unwrap();
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let child = fork_child(|| {
        check_table(severing.as_raw_fd());
        check_table(inheriting.as_raw_fd());
        check_eq("severed", poll(&mut severing, LONG), tokens([1]));
        check_eq("severed there too", poll(&mut inheriting, LONG), tokens([2]));
        inheriting.registry().deregister(&mut SourceFd(&number)).unwrap();
        severing.registry().deregister(&mut other_end).unwrap();
        to_parent.give();
        to_child.wait();
        check_eq("the parent's traffic", poll(&mut inheriting, SHORT), tokens([]));
        renewed.write_all(b"x").unwrap();
        check_eq("to the end without a registration", poll(&mut severing, SHORT), tokens([]));
    });
    to_parent.wait();
    peer.write_all(b"for the parent").unwrap();
    check_eq("the parent's", poll(&mut inheriting, LONG), tokens([2]));
    to_child.give();
    reap(child);
}

/// The child of somebody else's fork shares the parent's queue; that it drops a source there disarms nobody.
fn plain_fork() {
    let mut selector = Poll::new().unwrap();
    let mut server = listener();
    let address = server.local_addr().unwrap();
    register(selector.registry(), &mut server, 1);
    prepare().unwrap().abort();
    // SAFETY: one thread.
    match unsafe { libc::fork() } {
        0 => {
            drop(server);
            std::process::exit(0);
        }
        child => reap(child),
    }
    let _client = StdTcpStream::connect(address).unwrap();
    check_eq("the parent's", poll(&mut selector, LONG), tokens([1]));
}

/// Another thread makes and drops selectors, wakers and registered sources all the time.
fn dropping_during_a_fork() {
    let kept = Poll::new().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let selector = Poll::new().unwrap();
                let _waker = Waker::new(selector.registry(), Token(0)).unwrap();
                let (mut a, _b) = UnixStream::pair().unwrap();
                register(selector.registry(), &mut a, 1);
                let mut socket = udp();
                register(kept.registry(), &mut socket, 2);
            }
        });
        for _ in 0..300 {
            let child = fork_child(|| {
                check_table(kept.as_raw_fd());
                // SAFETY: ends the process at once; its scope would wait for a thread that is not there.
                unsafe { libc::_exit(0) };
            });
            reap(child);
        }
        stop.store(true, Ordering::Relaxed);
    });
    check_eq("registrations", registrations().len(), 0);
    check_eq("the kernel's view", watched_descriptors(kept.as_raw_fd()).unwrap_or_default(), vec![]);
}

/// A source whose selector is gone without a word is free for another one.
fn selector_that_is_gone() {
    let first = Poll::new().unwrap();
    let mut socket = udp();
    register(first.registry(), &mut socket, 1);
    let second = Poll::new().unwrap();
    let error = second.registry().register(&mut socket, Token(2), Interest::READABLE).unwrap_err();
    check_eq("still in the first", error.kind(), ErrorKind::AlreadyExists);
    drop(first);
    register(second.registry(), &mut socket, 2);
    check_table(second.as_raw_fd());
}
