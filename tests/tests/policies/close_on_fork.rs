//! Objects that the kernel itself keeps from a child: descriptors with the flag close-on-fork (`O_CLOFORK`), and queues
//! that it does not copy.

use std::io::{ErrorKind, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use forkio_tests::model::{self, set_close_on_fork};
use forkio_tests::reactor::*;

/// Forks. The child runs `child` and exits without destructors, because its values own descriptors that are not open.
/// The parent waits for it.
fn in_child(child: impl FnOnce()) {
    reap(forkio_tests::reactor::fork_child(|| {
        child();
        exit_now(0);
    }));
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

scenarios!(
    /// The child has neither a close-on-fork descriptor nor its registration. It can open and register another file
    /// at that descriptor.
    fn registered_descriptor() {
        let mut selector = Poll::new().unwrap();
        let registry = selector.registry().try_clone().unwrap();
        let waker = Waker::new(&registry, Token(0)).unwrap();
        let server = registered(&registry, TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap(), 1);
        let kept = registered(&registry, udp(), 2);
        let fd = server.as_raw_fd();
        set_close_on_fork(fd);
        let _client = connect(&server);
        in_child(|| {
            check_eq("the descriptor is open", is_open(fd), false);
            check_eq(
                "the descriptor is registered",
                registrations().iter().any(|registration| registration.fd == fd),
                false,
            );
            check_table(&selector);
            check_eq("events", ready(&mut selector), tokens([]));
            send_to(&kept);
            waker.wake().unwrap();
            check_eq("the other events", wait(&mut selector), tokens([0, 2]));

            // SAFETY: the descriptor is not open. The end of the process closes it.
            assert_eq!(unsafe { libc::dup2(kept.as_raw_fd(), fd) }, fd);
            register(&registry, &mut SourceFd(&fd), 3);
            check_table(&selector);
            // The datagram has not been read yet.
            check_eq("the duplicate", wait(&mut selector), tokens([3]));
            in_child(|| check_table(&selector));
        });
        check_table(&selector);
        check_eq("the parent's events", wait(&mut selector), tokens([1, 2]));
        server.accept().unwrap();
    }

    /// *Sever* and *renew* put their objects at close-on-fork descriptors too. *No-fork* leaves them closed.
    fn policies() {
        let mut selector = Poll::new().unwrap();
        let registry = selector.registry().try_clone().unwrap();
        let mut left_out = registered_with(&registry, udp(), 1, ForkPolicy::NoFork);
        let (mut severed, mut peer) = UnixStream::pair().unwrap();
        register_with(&registry, &mut severed, 2, ForkPolicy::Sever);
        let (mut renewed, mut other_end) = UnixStream::pair().unwrap();
        register_with(&registry, &mut renewed, 3, ForkPolicy::Renew);
        other_end.write_all(b"pending").unwrap();
        for fd in [left_out.as_raw_fd(), severed.as_raw_fd(), renewed.as_raw_fd(), other_end.as_raw_fd()] {
            set_close_on_fork(fd);
        }
        in_child(|| {
            check_eq("the no-fork descriptor is open", is_open(left_out.as_raw_fd()), false);
            check_table(&selector);
            check_eq("the dead endpoint, and the pending bytes", wait(&mut selector), tokens([2, 3]));
            check_eq("reading the dead endpoint", severed.read(&mut [0; 8]).unwrap(), 0);
            check_eq("the pending bytes", renewed.read(&mut [0; 8]).unwrap(), 7);
            other_end.write_all(b"x").unwrap();
            check_eq("the child's own pair", wait(&mut selector), tokens([3]));
            // The source still considers itself registered.
            registry.deregister(&mut left_out).unwrap();
        });
        check_eq("the bytes that the parent reads", renewed.read(&mut [0; 8]).unwrap(), 7);
        check_eq("reading again", renewed.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        peer.write_all(b"to the parent").unwrap();
        check_eq("the parent's connection", severed.read(&mut [0; 64]).unwrap(), 13);
    }

    /// The child does not have the kqueues that the program itself has opened, regardless of the policies of their
    /// registrations.
    fn nested_queue() {
        let mut selector = Poll::new().unwrap();
        let registry = selector.registry().try_clone().unwrap();
        let waker = Waker::new(&registry, Token(0)).unwrap();
        let queues = [model::kqueue().unwrap(), model::kqueue().unwrap()];
        let policies = [ForkPolicy::Inherit, ForkPolicy::NoFork];
        for (token, (queue, policy)) in (1..).zip(queues.iter().zip(policies)) {
            register_with(&registry, &mut SourceFd(queue), token, policy);
        }
        let (a, mut b) = UnixStream::pair().unwrap();
        in_child(|| {
            for queue in queues {
                check_eq("the queue is open", is_open(queue), false);
            }
            check_table(&selector);
            check_eq("registrations of queues", registrations().iter().any(|one| queues.contains(&one.fd)), false);
            check_wake(&waker, &mut selector, 0);
        });
        // The parent still has both queues.
        let change = model::kevent_of(a.as_raw_fd() as usize, model::EVFILT_READ, model::EV_ADD, 0);
        for queue in queues {
            // SAFETY: there is one change, and no room for events.
            unsafe { model::kevent(queue, &change, 1, std::ptr::null_mut(), 0, Some(Duration::ZERO)) }.unwrap();
        }
        b.write_all(b"x").unwrap();
        check_eq("the queues", wait(&mut selector), tokens([1, 2]));
        queues.into_iter().for_each(model::close);
    }

    /// The child's outer selector watches the child's inner one, whether or not the kernel copies queues.
    fn nested_selector() {
        let (mut outer, mut inner) = (Poll::new().unwrap(), Poll::new().unwrap());
        let fd = inner.as_raw_fd();
        register(outer.registry(), &mut SourceFd(&fd), 1);
        fork::set_policy(&fd, ForkPolicy::Inherit).unwrap();
        let mut socket = ManuallyDrop::new(udp());
        register(inner.registry(), &mut *socket, 2);
        in_child(|| {
            check_table(&outer);
            check_table(&inner);
            check_eq("nothing yet", ready(&mut outer), tokens([]));
            send_to(&socket);
            check_eq("the outer selector", wait(&mut outer), tokens([1]));
            check_eq("the inner selector", wait(&mut inner), tokens([2]));
            inner.registry().deregister(&mut *socket).unwrap();
        });
        // Both processes see the datagram.
        check_eq("the outer selector", wait(&mut outer), tokens([1]));
        check_eq("the inner selector", wait(&mut inner), tokens([2]));
    }
);
