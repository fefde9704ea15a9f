//! What a kernel leaves out of a fork by itself: descriptors that are marked close-on-fork (`O_CLOFORK`, FreeBSD 15), and
//! queues that are not copied. The child has neither; what it has is what the policies say of the rest.

fn main() {
    #[cfg(forkio_kqueue)]
    forkio_tests::fixture_main(&[
        ("close-on-fork", dropped::close_on_fork),
        ("close-on-fork-by-policy", dropped::close_on_fork_by_policy),
        ("nested-queue", dropped::nested_queue),
        ("nested-selector", dropped::nested_selector),
    ]);
}

#[cfg(forkio_kqueue)]
mod dropped {
    use std::io::{ErrorKind, Read, Write};
    use std::mem::ManuallyDrop;
    use std::net::UdpSocket as StdUdpSocket;
    use std::os::fd::{AsRawFd, RawFd};
    use std::time::Duration;

    use forkio_reactor::fork::{self, ForkPolicy, ForkResult, registrations};
    use forkio_reactor::net::{TcpListener, UdpSocket, UnixStream};
    use forkio_reactor::testing::kqueue::{self, set_close_on_fork};
    use forkio_reactor::unix::SourceFd;
    use forkio_reactor::{Interest, Poll, Token, Waker};
    use forkio_tests::reactor::{poll, tokens};
    use forkio_tests::{check_eq, reap, watched_descriptors};

    const LONG: Option<Duration> = Some(Duration::from_secs(60));
    const NOW: Option<Duration> = Some(Duration::ZERO);

    /// Forks; the child runs `child` and exits, and the parent waits for it.
    fn in_child(child: impl FnOnce()) {
        // SAFETY: one thread.
        match unsafe { fork::fork() }.expect("forking") {
            ForkResult::Child => {
                child();
                // SAFETY: ends the process at once: values that own a number which is not open here are not dropped.
                unsafe { libc::_exit(0) };
            }
            ForkResult::Parent { child } => reap(child),
        }
    }

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: no memory is involved.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    /// What the kernel watches for a selector is what the table says, in this process.
    fn check_table(selector: &Poll) {
        let own = registrations().into_iter().filter(|registration| registration.selector == selector.as_raw_fd());
        let table: Vec<_> = own.map(|registration| (registration.fd, registration.token.0 as u64)).collect();
        check_eq("kernel queue and table", watched_descriptors(selector.as_raw_fd()), Some(table));
    }

    /// Has a datagram come to the socket.
    fn send_to(socket: &UdpSocket) {
        let sender = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    }

    fn udp() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    /// The child does not have the number, nor a registration for it; what it opens there is a new one.
    pub(super) fn close_on_fork() {
        let mut selector = Poll::new().unwrap();
        let registry = selector.registry().try_clone().unwrap();
        let waker = Waker::new(&registry, Token(0)).unwrap();
        let mut server = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        registry.register(&mut server, Token(1), Interest::READABLE).unwrap();
        let mut kept = udp();
        registry.register(&mut kept, Token(2), Interest::READABLE).unwrap();
        let number = server.as_raw_fd();
        set_close_on_fork(number);
        let _client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        in_child(|| {
            check_eq("the number is open", is_open(number), false);
            check_eq("it is registered", registrations().iter().any(|registration| registration.fd == number), false);
            check_table(&selector);
            check_eq("what waited for the listener", poll(&mut selector, NOW), tokens([]));
            send_to(&kept);
            waker.wake().unwrap();
            check_eq("the rest", poll(&mut selector, LONG), tokens([0, 2]));

            // SAFETY: nobody has the number, and the duplicate is a socket like any other, closed with the process.
            assert_eq!(unsafe { libc::dup2(kept.as_raw_fd(), number) }, number);
            registry.register(&mut SourceFd(&number), Token(3), Interest::READABLE).unwrap();
            check_table(&selector);
            // Neither number has read the first one.
            check_eq("both numbers", poll(&mut selector, LONG), tokens([3]));
            in_child(|| check_table(&selector));
        });
        check_table(&selector);
        check_eq("the listener", poll(&mut selector, LONG), tokens([1, 2]));
        server.accept().unwrap();
    }

    /// What takes the place of a descriptor takes it also where the child does not have the descriptor.
    pub(super) fn close_on_fork_by_policy() {
        let mut selector = Poll::new().unwrap();
        let registry = selector.registry().try_clone().unwrap();
        let mut left_out = udp();
        registry.register_with_policy(&mut left_out, Token(1), Interest::READABLE, ForkPolicy::NoFork).unwrap();
        let (mut severed, mut peer) = UnixStream::pair().unwrap();
        registry.register_with_policy(&mut severed, Token(2), Interest::READABLE, ForkPolicy::Sever).unwrap();
        let (mut renewed, mut other_end) = UnixStream::pair().unwrap();
        registry.register_with_policy(&mut renewed, Token(3), Interest::READABLE, ForkPolicy::Renew).unwrap();
        other_end.write_all(b"pending").unwrap();
        for fd in [left_out.as_raw_fd(), severed.as_raw_fd(), renewed.as_raw_fd(), other_end.as_raw_fd()] {
            set_close_on_fork(fd);
        }
        in_child(|| {
            check_eq("no-fork is open", is_open(left_out.as_raw_fd()), false);
            check_table(&selector);
            check_eq("severed, and renewed with what was pending", poll(&mut selector, LONG), tokens([2, 3]));
            check_eq("the dead end", severed.read(&mut [0; 8]).unwrap(), 0);
            check_eq("what was pending", renewed.read(&mut [0; 8]).unwrap(), 7);
            other_end.write_all(b"x").unwrap();
            check_eq("the child's own pair", poll(&mut selector, LONG), tokens([3]));
            // To its owner it was there.
            registry.deregister(&mut left_out).unwrap();
        });
        check_eq("the parent's", renewed.read(&mut [0; 8]).unwrap(), 7);
        check_eq("nothing else", renewed.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        peer.write_all(b"to the parent").unwrap();
        check_eq("the parent's own", severed.read(&mut [0; 64]).unwrap(), 13);
    }

    /// A queue that is none of the reactor's: the child has it under no policy.
    pub(super) fn nested_queue() {
        let mut selector = Poll::new().unwrap();
        let registry = selector.registry().try_clone().unwrap();
        let waker = Waker::new(&registry, Token(0)).unwrap();
        let queues = [kqueue::kqueue().unwrap(), kqueue::kqueue().unwrap()];
        let policies = [ForkPolicy::Inherit, ForkPolicy::NoFork];
        for (index, (queue, policy)) in queues.iter().zip(policies).enumerate() {
            let token = Token(1 + index);
            registry.register_with_policy(&mut SourceFd(queue), token, Interest::READABLE, policy).unwrap();
        }
        let (a, mut b) = UnixStream::pair().unwrap();
        in_child(|| {
            for queue in queues {
                check_eq("the queue is open", is_open(queue), false);
            }
            check_table(&selector);
            check_eq("registrations of queues", registrations().iter().any(|one| queues.contains(&one.fd)), false);
            waker.wake().unwrap();
            check_eq("the rest", poll(&mut selector, LONG), tokens([0]));
        });
        // In the parent they are as they were.
        let change = kqueue::kevent_of(a.as_raw_fd() as usize, kqueue::EVFILT_READ, kqueue::EV_ADD, 0);
        for queue in queues {
            // SAFETY: one change, and room for no event.
            unsafe { kqueue::kevent(queue, &change, 1, std::ptr::null_mut(), 0, NOW) }.unwrap();
        }
        b.write_all(b"x").unwrap();
        check_eq("the queues", poll(&mut selector, LONG), tokens([1, 2]));
        queues.into_iter().for_each(kqueue::close);
    }

    /// A selector in a selector: the child's outer one watches the child's inner one.
    pub(super) fn nested_selector() {
        let (mut outer, mut inner) = (Poll::new().unwrap(), Poll::new().unwrap());
        let number = inner.as_raw_fd();
        let registry = outer.registry().try_clone().unwrap();
        registry.register(&mut SourceFd(&number), Token(1), Interest::READABLE).unwrap();
        fork::set_policy(&number, ForkPolicy::Inherit).unwrap();
        let mut socket = ManuallyDrop::new(udp());
        inner.registry().register(&mut *socket, Token(2), Interest::READABLE).unwrap();
        in_child(|| {
            check_table(&outer);
            check_table(&inner);
            check_eq("nothing yet", poll(&mut outer, NOW), tokens([]));
            send_to(&socket);
            check_eq("the inner one has something", poll(&mut outer, LONG), tokens([1]));
            check_eq("what it has", poll(&mut inner, LONG), tokens([2]));
            inner.registry().deregister(&mut *socket).unwrap();
        });
        // The datagram is both processes'.
        check_eq("the inner one has something", poll(&mut outer, LONG), tokens([1]));
        check_eq("what it has", poll(&mut inner, LONG), tokens([2]));
    }
}
