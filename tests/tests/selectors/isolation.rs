//! Changes to selectors in one process do not affect the other process.

use std::os::fd::AsRawFd;

use forkio_tests::reactor::*;

scenarios!(
    /// If one process deregisters, drops or changes sources after the fork, nothing changes in the other one.
    fn registrations_are_private() {
        let mut selector = Poll::new().unwrap();
        let mut sockets: Vec<UdpSocket> = (0..4).map(|_| udp()).collect();
        for (index, socket) in sockets.iter_mut().enumerate() {
            register(selector.registry(), socket, index);
        }
        let (to_parent, to_child) = Turn::both_ways();
        let fd = selector.as_raw_fd();
        let child = fork_child(|| {
            check_eq("the selector's descriptor", selector.as_raw_fd(), fd);
            check_eq("generation", generation(), 1);
            check_table(&selector);
            selector.registry().deregister(&mut sockets[0]).unwrap();
            drop(sockets.remove(1));
            selector.registry().reregister(&mut sockets[1], Token(77), Interest::READABLE).unwrap();
            check_table(&selector);
            to_parent.give();
            to_child.wait();
            // The parent has changed its registrations.
            check_table(&selector);
            check_eq("registrations", registrations().len(), 2);
        });
        to_parent.wait();
        check_table(&selector);
        check_eq("registrations", registrations().len(), 4);
        for socket in &sockets {
            send_to(socket);
        }
        wait_for_all(&mut selector, [0, 1, 2, 3]);
        let _late = registered(selector.registry(), udp(), 9);
        selector.registry().deregister(&mut sockets[3]).unwrap();
        to_child.give();
        reap(child);
        check_table(&selector);
    }

    /// A wake reaches only the process that made it.
    fn wakes_are_private() {
        let (mut selector, waker) = selector_with_waker();
        let (to_parent, to_child) = Turn::both_ways();
        let child = fork_child(|| {
            for _ in 0..rounds(2_000) {
                check_wake(&waker, &mut selector, 0);
            }
            to_parent.give();
            to_child.wait();
            check_silent("the parent's wakes", &mut selector);
        });
        to_parent.wait();
        check_silent("the child's wakes", &mut selector);
        for _ in 0..rounds(2_000) {
            check_wake(&waker, &mut selector, 0);
        }
        to_child.give();
        reap(child);
    }

    /// A wake that is pending at the fork is delivered once in each process.
    fn pending_wake_is_pending_in_both() {
        let mut selector = Poll::new().unwrap();
        let waker = Waker::new(selector.registry(), Token(5)).unwrap();
        for _ in 0..3 {
            waker.wake().unwrap();
        }
        let child = fork_child(|| {
            check_eq("in the child", wait(&mut selector), tokens([5]));
            check_silent("a second event in the child", &mut selector);
            check_wake(&waker, &mut selector, 5);
        });
        check_eq("in the parent", wait(&mut selector), tokens([5]));
        reap(child);
        check_silent("a second event in the parent", &mut selector);
    }

    /// Parent and child open, register and close sockets at the same descriptors, thousands of times, at the same time.
    fn changes_at_the_same_descriptors() {
        let mut selector = Poll::new().unwrap();
        let mut kept = registered(selector.registry(), listener(), 1);
        let ready = Turn::new();
        let churn = |selector: &Poll, base: usize| {
            for round in 0..rounds(3_000) {
                let mut socket = registered(selector.registry(), udp(), base + round);
                if round % 3 == 0 {
                    selector.registry().deregister(&mut socket).unwrap();
                } else if round % 3 == 1 {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    selector.registry().reregister(&mut socket, Token(base), interest).unwrap();
                }
                // Unless this round has deregistered the socket, the socket is dropped while it is registered.
            }
            check_table(selector);
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
        check_table(&selector);
        check_eq("registrations", registrations().len(), 1);
        let _client = connect(&kept);
        check_eq("the kept listener", wait(&mut selector), tokens([1]));
    }

    /// Each of the generations 0 to 5 has its own wakes, and the listener that all inherit.
    fn six_generations() {
        fn descend(selector: &mut Poll, waker: &Waker, server: &TcpListener, depth: u32) {
            check_eq("generation", generation(), depth);
            check_table(selector);
            check_wake(waker, selector, 0);
            if depth == 5 {
                return;
            }
            in_child(|| descend(selector, waker, server, depth + 1));
            check_eq("wakes of the child", ready(selector), tokens([]));
            let _client = connect(server);
            check_eq("the listener", wait(selector), tokens([1]));
            server.accept().unwrap();
            check_table(selector);
        }
        let (mut selector, waker) = selector_with_waker();
        let server = registered(selector.registry(), listener(), 1);
        descend(&mut selector, &waker, &server, 0);
    }

    /// Nineteen selectors that share one source work in the child. The twentieth exists only as a clone of its registry.
    fn many_selectors() {
        let mut selectors: Vec<Poll> = (0..20).map(|_| Poll::new().unwrap()).collect();
        let wakers: Vec<Waker> =
            selectors.iter().map(|selector| Waker::new(selector.registry(), Token(0)).unwrap()).collect();
        let clones: Vec<Registry> = selectors.iter().map(|poll| poll.registry().try_clone().unwrap()).collect();
        let socket = udp();
        let fd = socket.as_raw_fd();
        for (index, registry) in clones.iter().enumerate() {
            register(registry, &mut SourceFd(&fd), index + 1);
        }
        drop(selectors.remove(3));
        send_to(&socket);
        in_child(|| {
            for (selector, waker) in selectors.iter_mut().zip(wakers.iter().enumerate().filter(|(i, _)| *i != 3)) {
                let (index, waker) = waker;
                check_eq("the socket", wait(selector), tokens([index + 1]));
                check_wake(waker, selector, 0);
                check_table(selector);
            }
        });
        for selector in &mut selectors {
            let seen = wait(selector);
            assert!(!seen.contains(&0) && seen.len() == 1, "{seen:?}");
            check_table(selector);
        }
    }

    /// The child's outer selector watches the child's inner one.
    fn selector_in_a_selector() {
        let mut outer = Poll::new().unwrap();
        let mut inner = Poll::new().unwrap();
        let waker = Waker::new(inner.registry(), Token(7)).unwrap();
        let fd = inner.as_raw_fd();
        register(outer.registry(), &mut SourceFd(&fd), 1);
        let (to_parent, to_child) = Turn::both_ways();
        let mut once = || {
            waker.wake().unwrap();
            check_eq("outer", wait(&mut outer), tokens([1]));
            check_eq("inner", wait(&mut inner), tokens([7]));
            check_eq("drained", ready(&mut outer), tokens([]));
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
        check_silent("the child's wake", &mut outer);
    }
);
