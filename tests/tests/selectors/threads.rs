//! Other threads use selectors at the moment of the fork.

use std::os::fd::AsRawFd;

use forkio_tests::reactor::*;

scenarios!(
    /// If another thread calls `wake` at the moment of the fork, the child's waker still works.
    fn waking_during_a_fork() {
        let mut selector = Poll::new().unwrap();
        let waker = Waker::new(selector.registry(), Token(5)).unwrap();
        let wake = || waker.wake().unwrap();
        beside_threads([wake], || {
            for _ in 0..rounds(300) {
                let child = fork_child(|| {
                    // At the fork, the other thread may have announced a wake without writing it. The child's wake must still
                    // arrive.
                    check_wake(&waker, &mut selector, 5);
                    ready(&mut selector);
                    check_wake(&waker, &mut selector, 5);
                    exit_now(0);
                });
                wait(&mut selector);
                reap(child);
            }
        });
    }

    /// A thread registers and deregisters all the time. In each child, the table and the kernel queue agree.
    fn registering_during_a_fork() {
        let selector = Poll::new().unwrap();
        let mut sockets: Vec<UdpSocket> = (0..16).map(|_| udp()).collect();
        let register_and_deregister = || {
            for (token, socket) in sockets.iter_mut().enumerate() {
                register(selector.registry(), socket, token);
            }
            for socket in &mut sockets {
                selector.registry().reregister(socket, Token(1), Interest::READABLE).unwrap();
                selector.registry().deregister(socket).unwrap();
            }
        };
        beside_threads([register_and_deregister], || {
            for _ in 0..rounds(300) {
                in_child(|| {
                    check_table(&selector);
                    exit_now(0);
                });
            }
        });
        check_table(&selector);
    }

    /// A thread creates and drops selectors, wakers and registered sources all the time. In each child, the table
    /// and the kernel queue agree.
    fn dropping_during_a_fork() {
        let kept = Poll::new().unwrap();
        // Fork once first: until then, only the kernel deregisters a source that the process closes. If the kernel copies the
        // queue just before such a close, the child has a registration that is not in its table.
        in_child(|| exit_now(0));
        beside_threads([|| create_and_drop(&kept)], || {
            for _ in 0..rounds(300) {
                in_child(|| {
                    check_table(&kept);
                    exit_now(0);
                });
            }
        });
        check_eq("registrations", registrations().len(), 0);
        check_eq("the watched descriptors", watched_descriptors(kept.as_raw_fd()).unwrap_or_default(), vec![]);
    }
);
