//! Registrations whose descriptor or selector no longer exists.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};

use forkio_tests::reactor::*;

scenarios!(
    /// A child does not inherit a registration whose descriptor was closed and now belongs to another file.
    fn reused_descriptors() {
        let mut selector = Poll::new().unwrap();
        let mut dropped = udp();
        register(selector.registry(), &mut dropped, 1);
        let fd = dropped.as_raw_fd();
        drop(dropped);
        let reused = udp();
        check_eq("the reused descriptor", reused.as_raw_fd(), fd);
        // The table does not learn either that a bare descriptor is closed.
        let owned = udp();
        let bare = owned.as_raw_fd();
        register(selector.registry(), &mut SourceFd(&bare), 2);
        drop(owned);
        let also_reused = udp();
        check_eq("the reused descriptor", also_reused.as_raw_fd(), bare);
        // The kernel does not watch a waker that was dropped.
        drop(Waker::new(selector.registry(), Token(3)).unwrap());
        check_eq("what the kernel watches", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), vec![]);
        send_to(&reused);
        send_to(&also_reused);
        in_child(|| {
            check_eq("what the kernel watches", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), vec![]);
            check_silent("events", &mut selector);
        });
    }

    /// A child does not inherit the registration of a descriptor that was taken out of its source and closed.
    fn descriptor_taken_out_of_its_source() {
        let mut selector = Poll::new().unwrap();
        let mut socket = udp();
        register(selector.registry(), &mut socket, 1);
        let fd = socket.as_raw_fd();
        drop(OwnedFd::from(std::net::UdpSocket::from(socket)));
        let reused = udp();
        check_eq("the reused descriptor", reused.as_raw_fd(), fd);
        send_to(&reused);
        in_child(|| {
            check_table(&selector);
            check_silent("events", &mut selector);
        });
    }

    /// A source of a dropped selector can be registered with another selector.
    fn dropped_selector_frees_its_sources() {
        let first = Poll::new().unwrap();
        let mut socket = udp();
        register(first.registry(), &mut socket, 1);
        let second = Poll::new().unwrap();
        let error = second.registry().register(&mut socket, Token(2), Interest::READABLE).unwrap_err();
        check_eq("still in the first one", error.kind(), ErrorKind::AlreadyExists);
        drop(first);
        register(second.registry(), &mut socket, 2);
        check_table(&second);
    }
);
