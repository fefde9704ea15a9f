//! What is severed stays severed, and what is severed and renewed is renewed: pairs and timers over several forks.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use forkio_reactor::fork::{self, ForkPolicy, PrepareObject, prepare};
use forkio_reactor::net::{TcpStream, UnixStream};
use forkio_reactor::unix::{Clock, SourceFd, Timer};
use forkio_reactor::{Events, Interest, Poll, Token};
use forkio_tests::reactor::in_child;
use forkio_tests::{check_eq, fixture_main};

fn main() {
    fixture_main(&[
        ("end-of-a-pair", end_of_a_pair),
        ("pair-that-is-renewed-too", pair_that_is_renewed_too),
        ("timer", timer),
        ("timer-that-is-renewed-too", timer_that_is_renewed_too),
    ]);
}

/// In the child one end of a pair is dead: there is no pair left to renew, and nothing else that is dead becomes one.
fn end_of_a_pair() {
    let selector = Poll::new().unwrap();
    let registry = selector.registry();
    let (mut kept, mut severed) = UnixStream::pair().unwrap();
    registry.register_with_policy(&mut kept, Token(1), Interest::READABLE, ForkPolicy::Inherit).unwrap();
    registry.register_with_policy(&mut severed, Token(2), Interest::READABLE, ForkPolicy::Sever).unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(client);
    registry.register_with_policy(&mut stream, Token(3), Interest::READABLE, ForkPolicy::Sever).unwrap();
    in_child(|| {
        for number in [kept.as_raw_fd(), severed.as_raw_fd(), stream.as_raw_fd()] {
            check_eq("the end of a pair", fork::is_pair_end(number), false);
            fork::set_policy(&number, ForkPolicy::Renew).unwrap();
            check_eq("renewing it", prepare().unwrap_err().object(), PrepareObject::Pair(number));
            fork::set_policy(&number, ForkPolicy::Inherit).unwrap();
        }
        in_child(|| check_eq("reading the dead end", severed.read(&mut [0]).unwrap(), 0));
    });
    check_eq("the end of a pair", fork::is_pair_end(kept.as_raw_fd()), true);
    kept.write_all(b"x").unwrap();
    check_eq("reading", severed.read(&mut [0]).unwrap(), 1);
}

/// One end is to be severed and the other renewed: renewal is of both.
fn pair_that_is_renewed_too() {
    let mut selector = Poll::new().unwrap();
    let registry = selector.registry();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    registry.register_with_policy(&mut a, Token(1), Interest::READABLE, ForkPolicy::Sever).unwrap();
    registry.register_with_policy(&mut b, Token(2), Interest::READABLE, ForkPolicy::Renew).unwrap();
    in_child(|| {
        check_eq("nothing pending", a.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        b.write_all(b"x").unwrap();
        let mut events = Events::with_capacity(4);
        selector.poll(&mut events, Some(Duration::from_secs(30))).unwrap();
        check_eq("the event", events.iter().next().map(|event| event.token()), Some(Token(1)));
        // Still a pair.
        in_child(|| {
            b.write_all(b"y").unwrap();
            let mut both = [0; 2];
            check_eq("reading", a.read(&mut both).unwrap(), 2);
            check_eq("what was pending, and what was sent", both, *b"xy");
        });
    });
    check_eq("the parent's", a.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A timer that a child does not have does not come back in the child's children.
fn timer() {
    let selector = Poll::new().unwrap();
    let registry = selector.registry();
    let mut timer = Timer::new(Clock::Monotonic).unwrap();
    timer.set_at(Duration::ZERO, None).unwrap();
    registry.register_with_policy(&mut timer, Token(1), Interest::READABLE, ForkPolicy::Sever).unwrap();
    in_child(|| {
        check_eq("severed", timer.expirations().unwrap_err().kind(), ErrorKind::UnexpectedEof);
        fork::set_policy(&timer, ForkPolicy::Renew).unwrap();
        check_eq("renewing it", prepare().unwrap_err().object(), PrepareObject::Timer(timer.as_raw_fd()));
        registry.deregister(&mut timer).unwrap();
        in_child(|| check_eq("severed", timer.expirations().unwrap_err().kind(), ErrorKind::UnexpectedEof));
    });
    check_eq("the parent's", timer.expirations().unwrap(), 1);
}

/// In whichever order two selectors have it.
fn timer_that_is_renewed_too() {
    for policies in [[ForkPolicy::Sever, ForkPolicy::Renew], [ForkPolicy::Renew, ForkPolicy::Sever]] {
        let mut selectors = [Poll::new().unwrap(), Poll::new().unwrap()];
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        let number = timer.as_raw_fd();
        for ((selector, policy), token) in selectors.iter().zip(policies).zip(1..) {
            let registry = selector.registry();
            let source = &mut SourceFd(&number);
            registry.register_with_policy(source, Token(token), Interest::READABLE, policy).unwrap();
        }
        timer.set_at(Duration::ZERO, None).unwrap();
        in_child(|| {
            for (selector, token) in selectors.iter_mut().zip(1..) {
                let mut events = Events::with_capacity(4);
                selector.poll(&mut events, Some(Duration::from_secs(30))).unwrap();
                check_eq("the event", events.iter().next().map(|event| event.token()), Some(Token(token)));
            }
            check_eq("the child's", timer.expirations().unwrap(), 1);
            in_child(|| check_eq("taken", timer.expirations().unwrap_err().kind(), ErrorKind::WouldBlock));
        });
        check_eq("the parent's", timer.expirations().unwrap(), 1);
    }
}
