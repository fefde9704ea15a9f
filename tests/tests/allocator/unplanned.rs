//! Unplanned forks in signal handlers that interrupt the reactor.

use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::Ordering;

use forkio_reactor::fork::{InheritedState, atfork};
use forkio_tests::reactor::*;

use crate::SIGNAL_AT_ALLOCATION;

/// A socket at the given descriptor.
fn socket_at(fd: RawFd) -> UdpSocket {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    // SAFETY: the descriptor is not in use, and only the new socket owns the duplicate.
    unsafe {
        assert_eq!(libc::dup2(socket.as_raw_fd(), fd), fd);
        drop(socket);
        UdpSocket::from_raw_fd(fd)
    }
}

/// Checks the parent after a fork in a signal handler.
fn after_an_interruption(selector: &mut Poll, waker: &Waker, child: i32) {
    reap(child);
    check_eq("generation", generation(), 0);
    check_table(selector);
    check_silent("the child's wake", selector);
    check_wake(waker, selector, 0);
    unplanned::in_child(|| check_table(selector));
}

scenarios!(
    /// A signal handler interrupts code that holds the lock of the selectors, and forks. The child reconciles without
    /// waiting for that lock. Its inherited selectors fail with `InheritedState::Interrupted`, and new ones work.
    fn interrupted_with_the_lock() {
        atfork::install().unwrap();
        unplanned::fork_on_signal(libc::SIGUSR2);
        let (mut selector, waker) = selector_with_waker();
        let _server = registered(selector.registry(), listener(), 1);
        let before = registrations();
        SIGNAL_AT_ALLOCATION.store(libc::SIGUSR2, Ordering::Relaxed);
        // The code that lists registrations allocates with the lock held.
        let after = registrations();
        let child = unplanned::forked_in_handler();
        assert!(child >= 0, "the handler has not run");
        if child == 0 {
            check_eq("the reason", fork::glue::lost_state(), Some(InheritedState::Interrupted));
            let error = selector.poll(&mut Events::with_capacity(4), None).unwrap_err();
            let lost = error.get_ref().and_then(|error| error.downcast_ref::<InheritedState>());
            check_eq("the error of polling", lost, Some(&InheritedState::Interrupted));
            waker.wake().unwrap();
            assert!(selector.registry().register(&mut udp(), Token(2), Interest::READABLE).is_err());
            let mut fresh = Poll::new().unwrap();
            let _waker = Waker::new(fresh.registry(), Token(3)).unwrap();
            unplanned::in_child(|| {
                check_table(&fresh);
                check_silent("a new selector", &mut fresh);
            });
            exit_now(0);
        }
        check_eq("registrations", after, before);
        after_an_interruption(&mut selector, &waker, child);
    }

    /// A signal handler forks while the interrupted code allocates room for a registration. Both processes complete the
    /// registration.
    fn interrupted_while_registering() {
        unplanned::fork_on_signal(libc::SIGUSR2);
        let (mut selector, waker) = selector_with_waker();
        let mut socket = socket_at(2_000);
        SIGNAL_AT_ALLOCATION.store(libc::SIGUSR2, Ordering::Relaxed);
        // Registering a descriptor far above the others allocates.
        register(selector.registry(), &mut socket, 1);
        check_table(&selector);
        let child = unplanned::forked_in_handler();
        assert!(child >= 0, "the handler has not run");
        if child == 0 {
            check_eq("generation", generation(), 1);
            check_wake(&waker, &mut selector, 0);
            exit_now(0);
        }
        after_an_interruption(&mut selector, &waker, child);
    }
);
