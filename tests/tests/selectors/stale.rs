//! Registrations whose descriptor or selector no longer exists.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forkio_tests::reactor::*;

/// Opens a datagram socket. Checks that the socket gets the descriptor `fd`, which has just been closed.
#[track_caller]
fn udp_at(fd: RawFd) -> UdpSocket {
    let socket = udp();
    check_eq("the reused descriptor", socket.as_raw_fd(), fd);
    socket
}

scenarios!(
    /// A child does not inherit a registration whose descriptor was closed and now belongs to another file.
    fn reused_descriptors() {
        let mut selector = Poll::new().unwrap();
        let dropped = registered(selector.registry(), udp(), 1);
        let fd = dropped.as_raw_fd();
        drop(dropped);
        let reused = udp_at(fd);
        // The table does not learn that a bare descriptor is closed.
        let owned = udp();
        let bare = owned.as_raw_fd();
        register(selector.registry(), &mut SourceFd(&bare), 2);
        drop(owned);
        let also_reused = udp_at(bare);
        // The kernel does not watch a waker that was dropped.
        drop(Waker::new(selector.registry(), Token(3)).unwrap());
        check_eq("the watched descriptors", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), vec![]);
        send_to(&reused);
        send_to(&also_reused);
        in_child(|| {
            check_eq("the watched descriptors", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), vec![]);
            check_silent("events", &mut selector);
        });
    }

    /// A child does not inherit the registration of a descriptor that was taken out of its source and closed.
    fn descriptor_taken_out_of_its_source() {
        let mut selector = Poll::new().unwrap();
        let socket = registered(selector.registry(), udp(), 1);
        let fd = socket.as_raw_fd();
        drop(OwnedFd::from(std::net::UdpSocket::from(socket)));
        let reused = udp_at(fd);
        send_to(&reused);
        in_child(|| {
            check_table(&selector);
            check_silent("events", &mut selector);
        });
    }

    /// A muted descriptor that was closed without being deregistered, and now belongs to another file, can be
    /// registered again.
    fn muted_and_reused() {
        let mut selector = Poll::new().unwrap();
        let owned = udp();
        let bare = owned.as_raw_fd();
        register(selector.registry(), &mut SourceFd(&bare), 1);
        fork::glue::mute(&bare).unwrap();
        drop(owned);
        let reused = udp_at(bare);
        register(selector.registry(), &mut SourceFd(&bare), 2);
        send_to(&reused);
        check_eq("the event", wait(&mut selector), tokens([2]));
    }

    /// A child does not inherit the registration of a muted end of a pipe whose descriptor now belongs to the other end.
    fn muted_end_of_a_pipe() {
        let selector = Poll::new().unwrap();
        let (sender, receiver) = pipe::new().unwrap();
        let end = OwnedFd::from(receiver);
        let bare = end.as_raw_fd();
        register(selector.registry(), &mut SourceFd(&bare), 1);
        fork::glue::mute(&bare).unwrap();
        drop(end);
        let other_end = OwnedFd::from(sender).try_clone().unwrap();
        check_eq("the reused descriptor", other_end.as_raw_fd(), bare);
        in_child(|| {
            check_eq("registrations", registrations().len(), 0);
            check_table(&selector);
        });
    }

    /// If a source was deregistered by its descriptor, deregistering the source fails once, and it can then be registered
    /// again.
    fn deregistered_by_descriptor() {
        let selector = Poll::new().unwrap();
        let mut socket = registered(selector.registry(), udp(), 1);
        selector.registry().deregister(&mut SourceFd(&socket.as_raw_fd())).unwrap();
        let error = selector.registry().deregister(&mut socket).unwrap_err();
        check_eq("deregistering the source", error.kind(), ErrorKind::NotFound);
        register(selector.registry(), &mut socket, 2);
        check_table(&selector);
    }

    /// A source of a dropped selector can be registered with another selector.
    fn dropped_selector_frees_its_sources() {
        let first = Poll::new().unwrap();
        let mut socket = registered(first.registry(), udp(), 1);
        let second = Poll::new().unwrap();
        let error = second.registry().register(&mut socket, Token(2), Interest::READABLE).unwrap_err();
        check_eq("still in the first one", error.kind(), ErrorKind::AlreadyExists);
        drop(first);
        register(second.registry(), &mut socket, 2);
        check_table(&second);
    }

    /// A thread that is using the waker of a dropped selector takes no wake from the next selector.
    fn waker_of_a_dropped_selector() {
        static IS_HELD: AtomicBool = AtomicBool::new(false);
        static MAY_CONTINUE: AtomicBool = AtomicBool::new(false);

        extern "C" fn hold(_: libc::c_int) {
            IS_HELD.store(true, Ordering::SeqCst);
            while !MAY_CONTINUE.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
        }

        // SAFETY: the handler only accesses atomics.
        unsafe { libc::signal(libc::SIGUSR1, hold as *const () as libc::sighandler_t) };
        for _ in 0..rounds(50) {
            IS_HELD.store(false, Ordering::SeqCst);
            MAY_CONTINUE.store(false, Ordering::SeqCst);
            let (dropped, stale) = selector_with_waker();
            let (id, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // SAFETY: no memory is involved.
                    id.store(unsafe { libc::pthread_self() } as usize, Ordering::SeqCst);
                    while !is_over.load(Ordering::SeqCst) {
                        (0..1000).for_each(|_| stale.wake().unwrap());
                    }
                });
                wait_until("the thread has started", || id.load(Ordering::SeqCst) != 0);
                // SAFETY: the thread has not ended.
                unsafe { libc::pthread_kill(id.load(Ordering::SeqCst) as libc::pthread_t, libc::SIGUSR1) };
                wait_until("the thread is in its handler", || IS_HELD.load(Ordering::SeqCst));
                drop(dropped);
                let mut next = Poll::new().unwrap();
                let waker = Waker::new(next.registry(), Token(1)).unwrap();
                let poller = scope.spawn(move || poll(&mut next, Some(2 * limit())));
                // If the poller does not block yet, or the thread has not finished its wake, the round shows nothing.
                std::thread::sleep(Duration::from_millis(3));
                MAY_CONTINUE.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                let start = Instant::now();
                waker.wake().unwrap();
                check_eq("the wake", poller.join().unwrap(), tokens([1]));
                assert!(start.elapsed() < limit(), "the poller has not been woken");
                is_over.store(true, Ordering::SeqCst);
            });
        }
    }
);
