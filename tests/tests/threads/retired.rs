//! A retired selector, for which children get no queue.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use forkio_tests::reactor::*;

scenarios!(
    /// Children do not have a retired selector. The descriptors registered with it follow their policies. The parent
    /// is not disturbed.
    fn retired_selector() {
        let (mut kept, kept_waker) = selector_with_waker();
        let (mut retired, waker) = selector_with_waker();
        let mut listener = listener();
        let mut peer = connect(&listener);
        let (mut stream, _) = until("the client connects", || listener.accept().ok());
        let (mut end, mut other_end) = UnixStream::pair().unwrap();
        register(retired.registry(), &mut listener, 1);
        register_with(retired.registry(), &mut stream, 2, ForkPolicy::Sever);
        register_with(retired.registry(), &mut end, 3, ForkPolicy::Renew);
        check_eq("unregistered", fork::glue::retire_in_children(&other_end).unwrap_err().kind(), ErrorKind::NotFound);
        fork::glue::retire_in_children(&listener).unwrap();
        let queue = registrations().iter().find(|entry| entry.fd == listener.as_raw_fd()).unwrap().selector;
        other_end.write_all(b"pending").unwrap();
        check_eq("the parent's event", wait(&mut retired), tokens([3]));

        let (looked, closed) = Turn::both_ways();
        let Some(child) = fork() else {
            check_eq("polling", poll_error(&mut retired), Some(libc::ECANCELED));
            let mut socket = udp();
            let registered = retired.registry().register(&mut socket, Token(4), Interest::READABLE).unwrap_err();
            check_eq("registering", registered.raw_os_error(), Some(libc::ECANCELED));
            check_eq("selectors", fork::glue::selector_count(), 1);
            assert!(fork::glue::kind(&queue).ok() != Some(SourceKind::Queue), "the child has the parent's queue");
            check_eq("registrations", registrations().iter().filter(|entry| entry.token != Token(0)).count(), 0);
            waker.wake().unwrap();
            // Taking the descriptor makes wakes signal the waker in the kernel, but this child's selector has no waker.
            retired.as_raw_fd();
            waker.wake().unwrap();

            let mut buffer = [0; 16];
            check_eq("severed", stream.read(&mut buffer).unwrap(), 0);
            check_eq("renewed", end.read(&mut buffer).unwrap(), b"pending".len());
            other_end.write_all(b"child").unwrap();
            check_eq("renewed", end.read(&mut buffer).unwrap(), b"child".len());
            retired.registry().deregister(&mut end).unwrap();
            // The child can use the listener in another selector.
            retired.registry().deregister(&mut listener).unwrap();
            register(kept.registry(), &mut listener, 5);
            let client = connect(&listener);
            check_eq("serving", wait(&mut kept), tokens([5]));
            drop((listener.accept().unwrap(), client));
            check_wake(&kept_waker, &mut kept, 0);

            let descriptors = open_descriptors();
            in_child(|| check_eq("selectors", fork::glue::selector_count(), 1));
            check_eq("descriptors", open_descriptors(), descriptors);
            looked.give();
            closed.wait();
            drop((stream, end, waker, retired));
            check_wake(&kept_waker, &mut kept, 0);
            std::process::exit(0);
        };
        looked.wait();
        let mut buffer = [0; 16];
        check_eq("the parent's bytes", end.read(&mut buffer).unwrap(), b"pending".len());
        check_eq("reading again", end.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        peer.write_all(b"for the parent").unwrap();
        check_eq("the parent's event", wait(&mut retired), tokens([2]));
        check_eq("the parent's bytes", stream.read(&mut buffer).unwrap(), b"for the parent".len());
        drop(stream);
        check_eq("the end, although the child runs", peer.read(&mut buffer).unwrap(), 0);
        closed.give();
        reap(child);
        let _client = connect(&listener);
        check_eq("the parent's event", wait(&mut retired), tokens([1]));
        check_wake(&waker, &mut retired, 0);
    }
);
