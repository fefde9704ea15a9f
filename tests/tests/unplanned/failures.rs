//! Children that cannot reconcile.

use std::os::fd::AsRawFd;

use forkio_reactor::fork::atfork;
use forkio_tests::reactor::*;

scenarios!(
    /// If no descriptor is free, the child cannot poll, and gets the reason. The parent is not affected.
    fn no_descriptor_left() {
        let (mut selector, waker) = selector_with_waker();
        let mut server = registered(selector.registry(), listener(), 1);
        // A severed registration needs a new object on every kernel.
        let (mut severed, _peer) = connection();
        register_with(selector.registry(), &mut severed, 6, ForkPolicy::Sever);
        let mut second = udp();
        let mut dropped = Some(udp());
        register(selector.registry(), dropped.as_mut().unwrap(), 5);
        let queue = selector.as_raw_fd();
        let before = open_descriptors();
        let mut events = Events::with_capacity(8);
        waker.wake().unwrap();
        selector.poll(&mut events, Some(limit())).unwrap();
        assert!(!events.is_empty());
        let turn = Turn::new();
        let mut fillers = use_up_descriptors();
        let child = unplanned::fork_child(|| {
            check_eq("generation", generation(), 1);
            selector.poll(&mut events, None).unwrap_err();
            assert!(events.is_empty(), "a poll that failed has left events");
            for _ in 0..3 {
                check_eq("polling", poll_error(&mut selector), Some(libc::EMFILE));
            }
            let failure = atfork::failure().expect("a reason");
            let (object, dead_endpoint) = (failure.object(), PrepareObject::DeadEndpoint(severed.as_raw_fd()));
            let is_queue = object == PrepareObject::Queue(queue);
            // A kernel that drops or copies queues leaves a descriptor for the child's queue.
            let is_other = object == dead_endpoint || matches!(object, PrepareObject::Waker(_));
            assert!(is_queue || (is_other && !cfg!(epoll)), "the missing object: {object:?}");
            assert!(failure.to_string().contains("RLIMIT_NOFILE"), "{failure}");
            // None of the following affects the parent.
            waker.wake().unwrap();
            let error = selector.registry().register(&mut second, Token(2), Interest::READABLE).unwrap_err();
            check_eq("registering", error.raw_os_error(), Some(libc::EMFILE));
            let error = selector.registry().reregister(&mut server, Token(3), Interest::READABLE).unwrap_err();
            check_eq("reregistering", error.raw_os_error(), Some(libc::EMFILE));
            check_eq("muting", fork::glue::mute(&server).unwrap_err().raw_os_error(), Some(libc::EMFILE));
            selector.registry().deregister(&mut server).unwrap();
            drop(dropped.take());
            // The child's own children cannot use the selectors either. New selectors work.
            fillers.clear();
            unplanned::in_child(|| {
                check_eq("generation", generation(), 2);
                check_eq("polling", poll_error(&mut selector), Some(libc::EMFILE));
                waker.wake().unwrap();
                let mut fresh = Poll::new().unwrap();
                register(fresh.registry(), &mut second, 4);
                send_to(&second);
                check_eq("a new selector", wait(&mut fresh), tokens([4]));
            });
            turn.give();
        });
        turn.wait();
        fillers.clear();
        check_table(&queue);
        check_silent("events of the child's acts", &mut selector);
        reap(child);
        check_eq("generation", generation(), 0);
        assert!(atfork::failure().is_none());
        drop(turn);
        check_eq("descriptors", open_descriptors(), before);
        check_wake(&waker, &mut selector, 0);
        unplanned::in_child(|| check_table(&queue));
    }

    /// If the child cannot follow a policy, it cannot poll, and gets the reason. The parent is not affected.
    fn refused_policy() {
        let mut selector = Poll::new().unwrap();
        let socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Renew);
        let waker = Waker::new(selector.registry(), Token(2)).unwrap();
        let open = open_descriptors();
        unplanned::in_child(|| {
            check_eq("polling", poll_error(&mut selector), Some(libc::EOPNOTSUPP));
            // After the program has taken a selector's descriptor, each wake reaches the kernel. This one must not
            // reach the parent's waker.
            selector.as_raw_fd();
            waker.wake().unwrap();
            check_eq("descriptors", open_descriptors(), open);
            let failure = atfork::failure().expect("a reason");
            check_eq("the object", failure.object(), PrepareObject::Pair(socket.as_raw_fd()));
            assert!(failure.to_string().contains("set another policy"), "{failure}");
        });
        check_silent("the child's wake", &mut selector);
        check_table(&selector);
        fork::set_policy(&socket, ForkPolicy::Inherit).unwrap();
        unplanned::in_child(|| check_table(&selector));
    }

    /// The kernel may refuse to tell which kind of file a descriptor refers to. A planned fork is then refused, and the
    /// child of an unplanned fork cannot poll.
    #[cfg(all(epoll, target_os = "linux"))]
    fn uninspected_descriptors() {
        use std::os::fd::{FromRawFd, OwnedFd};
        let fstat = [libc::SYS_fstat, libc::SYS_newfstatat].as_slice();
        for denied in [fstat, &[libc::SYS_getsockopt], &[libc::SYS_readlinkat]] {
            unplanned::in_child(|| {
                let mut selector = Poll::new().unwrap();
                let (stream, _peer) = connection();
                // SAFETY: the call returns a new descriptor.
                let process = unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, own_pid(), 0) as i32) };
                let fd = if denied == [libc::SYS_readlinkat] { process.as_raw_fd() } else { stream.as_raw_fd() };
                register(selector.registry(), &mut SourceFd(&fd), 1);
                denied.iter().for_each(|call| deny_call(*call, libc::EPERM));
                check_eq("the refusal", prepare().unwrap_err().object(), PrepareObject::Inspection(fd));
                unplanned::in_child(|| {
                    check_eq("polling", poll_error(&mut selector), Some(libc::EPERM));
                    check_eq("the failure", atfork::failure().unwrap().object(), PrepareObject::Inspection(fd));
                });
            });
        }
    }

    /// The hook of the first poll does not run in a child that cannot poll one of its selectors.
    fn no_first_poll_hook_after_a_failure() {
        let mut failed = Poll::new().unwrap();
        let _socket = registered_with(failed.registry(), udp(), 1, ForkPolicy::Renew);
        fork::glue::set_first_poll_hook(|| panic!("the hook runs"));
        unplanned::in_child(|| {
            check_eq("polling", poll_error(&mut failed), Some(libc::EOPNOTSUPP));
            check_silent("a new selector", &mut Poll::new().unwrap());
        });
    }

    /// Each process has its own failure. A child inherits its parent's failure only if it also inherits a
    /// selector that failed.
    fn scope_of_the_failure() {
        let selector = Poll::new().unwrap();
        let mut socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Renew);
        let has_failed = || atfork::failure().is_some();
        unplanned::in_child(|| {
            assert!(has_failed());
            selector.registry().deregister(&mut socket).unwrap();
            unplanned::in_child(|| {
                assert!(has_failed(), "the failure of the inherited selector is missing");
                let mut selector = selector;
                check_eq("polling", poll_error(&mut selector), Some(libc::EOPNOTSUPP));
            });
        });
        let selector = Poll::new().unwrap();
        let socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Renew);
        unplanned::in_child(|| {
            drop((selector, socket));
            assert!(has_failed(), "the failure of this process's fork is missing");
            let mut fresh = Poll::new().unwrap();
            unplanned::in_child(|| {
                assert!(!has_failed(), "an unplanned fork has failed");
                check_silent("polling", &mut fresh);
            });
            in_child(|| assert!(!has_failed(), "a planned fork has failed"));
            assert!(has_failed());
        });
    }
);
