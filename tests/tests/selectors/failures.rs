//! Forks that fail, or must not happen.

use std::io::Write;
use std::os::fd::AsRawFd;

use forkio_tests::reactor::*;

/// Makes a system call of the next commit fail. Returns the error.
#[cfg(not(forkio_kqueue))]
fn fail_commit() -> i32 {
    // dup3(2) onto a descriptor at or above the limit gives EBADF.
    let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads `nothing`.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &nothing) };
    libc::EBADF
}

/// Makes a system call of the next commit fail. Returns the error.
#[cfg(forkio_kqueue)]
fn fail_commit() -> i32 {
    use forkio_tests::model::{Call, Kernel, inject};
    let (call, errno) =
        if Kernel::this().is_copying() { (Call::Change, libc::ENOMEM) } else { (Call::Create, libc::ENFILE) };
    inject(call, 0, errno);
    errno
}

scenarios!(
    /// Between prepare and commit, registering and another fork return an error instead of waiting forever.
    fn registering_inside_a_fork() {
        let selector = Poll::new().unwrap();
        let mut socket = udp();
        let prepared = prepare().unwrap();
        let error = selector.registry().register(&mut socket, Token(0), Interest::READABLE).unwrap_err();
        assert!(error.to_string().contains("between prepare and commit"), "{error}");
        check_eq("a second fork", prepare().unwrap_err().object(), PrepareObject::NestedFork);
        prepared.abort();
        register(selector.registry(), &mut socket, 0);
        check_table(&selector);
    }

    /// Preparing fails for each object in turn when no descriptor is left for it. The error names the object, and nothing
    /// has changed.
    fn descriptor_limit() {
        let (mut selector, waker) = selector_with_waker();
        let (mut pair, mut other_end) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut pair, 1, ForkPolicy::Renew);
        let (mut stream, _peer) = connection();
        register_with(selector.registry(), &mut stream, 2, ForkPolicy::Sever);
        let mut objects = Vec::new();
        for error in prepare_with_each_descriptor_limit() {
            let text = error.to_string();
            assert!(text.contains("cannot prepare the fork"), "{text}");
            if error.io_error().raw_os_error() == Some(libc::EMFILE) {
                objects.push(error.object());
            } else {
                // There is room for the new objects, but not at the descriptors that they replace.
                assert!(text.contains("was lowered after the descriptor was opened"), "{text}");
            }
        }
        check_table(&selector);
        // A kqueue and its wakers are created in the child.
        if cfg!(epoll) {
            assert!(objects.contains(&PrepareObject::Queue(selector.as_raw_fd())), "{objects:?}");
            assert!(objects.iter().any(|object| matches!(object, PrepareObject::Waker(_))), "{objects:?}");
        }
        assert!(objects.contains(&PrepareObject::Pair(pair.as_raw_fd())), "{objects:?}");
        assert!(objects.contains(&PrepareObject::DeadEndpoint(stream.as_raw_fd())), "{objects:?}");
        check_wake(&waker, &mut selector, 0);
        other_end.write_all(b"x").unwrap();
        check_eq("the pair", wait(&mut selector), tokens([1]));
        in_child(|| check_table(&selector));
    }

    /// If a system call of commit fails, each poll in the child returns that call's error, and the parent notices
    /// nothing.
    fn poison() {
        let mut selector = Poll::new().unwrap();
        let mut healthy = registered(selector.registry(), udp(), 1);
        // Where the kernel copies the queue, the child must delete this registration, so commit makes a system call.
        let _left_out = registered_with(selector.registry(), udp(), 2, ForkPolicy::NoFork);
        in_child_after_prepare(|prepared| {
            let errno = fail_commit();
            // SAFETY: this is the child of a fork after `prepare`.
            unsafe { prepared.commit() };
            for _ in 0..3 {
                check_eq("polling", poll_error(&mut selector), Some(errno));
            }
            // The descriptor still refers to the parent's queue, which must not change.
            selector.registry().deregister(&mut healthy).unwrap();
            let error = selector.registry().register(&mut healthy, Token(2), Interest::READABLE).unwrap_err();
            check_eq("registering", error.raw_os_error(), Some(errno));
        });
        check_table(&selector);
        check_silent("the parent", &mut selector);
    }

    /// A fresh object that cannot take its descriptor poisons only the selectors that watch that descriptor.
    #[cfg(epoll)]
    fn poison_of_one_selector() {
        let (mut healthy, waker) = selector_with_waker();
        let (mut with_pair, mut with_waker) = (Poll::new().unwrap(), Poll::new().unwrap());
        let (mut end, mut other_end) = UnixStream::pair().unwrap();
        let lost_waker = Waker::new(with_waker.registry(), Token(1)).unwrap();
        register_with(with_pair.registry(), &mut end, 2, ForkPolicy::Renew);
        register_with(with_pair.registry(), &mut other_end, 3, ForkPolicy::Renew);
        let limit = end.as_raw_fd().min(other_end.as_raw_fd()) as usize;
        in_child_after_prepare(|prepared| {
            // SAFETY: this is the child of a fork after `prepare`.
            with_descriptor_limit(limit, || unsafe { prepared.commit() });
            check_eq("the selector of the pair", poll_error(&mut with_pair), Some(libc::EBADF));
            check_eq("the selector of the waker", poll_error(&mut with_waker), Some(libc::EBADF));
            lost_waker.wake().unwrap();
            check_wake(&waker, &mut healthy, 0);
            exit_now(0);
        });
        check_silent("the parent's waker", &mut with_waker);
    }

    /// A fresh object that cannot take an unregistered descriptor poisons all selectors: any of them may use that descriptor.
    #[cfg(epoll)]
    fn poison_of_all_selectors() {
        let mut selector = Poll::new().unwrap();
        let mut other = Poll::new().unwrap();
        let (mut end, other_end) = UnixStream::pair().unwrap();
        register_with(other.registry(), &mut end, 1, ForkPolicy::Renew);
        assert!(other_end.as_raw_fd() > end.as_raw_fd());
        in_child_after_prepare(|prepared| {
            // SAFETY: this is the child of a fork after `prepare`.
            with_descriptor_limit(other_end.as_raw_fd() as usize, || unsafe { prepared.commit() });
            for selector in [&mut selector, &mut other] {
                let error = selector.poll(&mut Events::with_capacity(8), Some(limit())).unwrap_err();
                let object = format!("object at descriptor {}", other_end.as_raw_fd());
                assert!(error.to_string().contains(&object), "{error}");
            }
            exit_now(0);
        });
    }

    /// Forks work in a process that may not read its limits.
    #[cfg(all(epoll, target_os = "linux"))]
    fn unknown_descriptor_limit() {
        let (mut selector, waker) = selector_with_waker();
        deny_call(libc::SYS_prlimit64, libc::EPERM);
        let mut check = || {
            check_wake(&waker, &mut selector, 0);
        };
        in_both(&mut check);
        unplanned::in_child(check);
    }

    /// A registration that the child cannot add poisons its selector.
    #[cfg(epoll)]
    fn poison_by_a_registration() {
        let mut selector = Poll::new().unwrap();
        let signals = registered(selector.registry(), Signals::new([libc::SIGUSR1]).unwrap(), 1);
        in_child_after_prepare(|prepared| {
            // SAFETY: the child does not use the signals.
            unsafe { libc::close(signals.as_raw_fd()) };
            // SAFETY: this is the child of a fork after `prepare`.
            unsafe { prepared.commit() };
            check_eq("polling", poll_error(&mut selector), Some(libc::EBADF));
            exit_now(0);
        });
    }

    /// If no descriptor is left for a waker, the selector gets no waker. A later attempt succeeds.
    #[cfg(epoll)]
    fn no_descriptor_for_a_waker() {
        let mut selector = Poll::new().unwrap();
        let error = with_descriptor_limit(0, || Waker::new(selector.registry(), Token(0)).unwrap_err());
        check_eq("the error", error.raw_os_error(), Some(libc::EMFILE));
        Waker::new(selector.registry(), Token(1)).unwrap().wake().unwrap();
        let waker = Waker::new(selector.registry(), Token(2)).unwrap();
        check_eq("the wake of the dropped waker", ready(&mut selector), tokens([]));
        check_wake(&waker, &mut selector, 2);
    }

    /// The child of an unplanned fork drops a source, and the parent's registration stays armed.
    fn unplanned_fork() {
        let mut selector = Poll::new().unwrap();
        let mut server = Some(listener());
        let address = server.as_ref().unwrap().local_addr().unwrap();
        register(selector.registry(), server.as_mut().unwrap(), 1);
        prepare().unwrap().abort();
        unplanned::in_child(|| drop(server.take()));
        let _client = TcpStream::connect(address).unwrap();
        check_eq("the parent's event", wait(&mut selector), tokens([1]));
    }

    /// A thousand aborted forks leave nothing behind.
    fn aborted_forks() {
        let (mut selector, waker) = selector_with_waker();
        let server = registered_with(selector.registry(), listener(), 1, ForkPolicy::NoFork);
        let before = open_descriptors();
        for _ in 0..rounds(1_000) {
            prepare().unwrap().abort();
            drop(prepare().unwrap());
        }
        check_eq("descriptors", open_descriptors(), before);
        check_eq("generation", generation(), 0);
        check_table(&selector);
        check_wake(&waker, &mut selector, 0);
        let _client = connect(&server);
        check_eq("the listener", wait(&mut selector), tokens([1]));
    }
);
