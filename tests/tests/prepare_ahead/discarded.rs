//! Changes that discard a preparation, and errors that prevent one.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forkio_tests::reactor::*;

/// The descriptor that the next open file gets.
#[cfg(epoll)]
fn lowest_unused() -> usize {
    let (reader, _writer) = std::io::pipe().unwrap();
    reader.as_raw_fd() as usize
}

scenarios!(
    /// Changes of selectors, registrations, policies, pairs and wakers discard the preparation, as do new and dropped
    /// timers. Polling, waking, sending and setting a timer keep it.
    fn changes_that_matter_to_a_child() {
        let mut selector = Poll::new().unwrap();
        let socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Inherit);
        let own = [selector.as_raw_fd(), socket.as_raw_fd()];
        let registry = selector.registry().try_clone().unwrap();
        let ahead = |what: &str, is_kept: bool, act: &mut dyn FnMut()| {
            prepare_ahead().unwrap();
            act();
            check_eq(what, is_prepared_ahead(), is_kept);
        };
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        let mut waker = Waker::new(&registry, Token(0)).ok();

        ahead("polling", true, &mut || drop(ready(&mut selector)));
        ahead("waking", true, &mut || waker.as_ref().unwrap().wake().unwrap());
        ahead("sending", true, &mut || drop(socket.send_to(b"x", socket.local_addr().unwrap())));
        ahead("setting a timer", true, &mut || timer.set_after(Duration::from_secs(60), None).unwrap());
        ahead("listing", true, &mut || {
            drop((fork::registrations(), fork::policy(&own[1]), fork::glue::selector_count()))
        });
        ahead("a source that is not registered", true, &mut || drop(udp()));

        let mut other = Some(udp());
        ahead("registering", false, &mut || {
            register_with(selector.registry(), other.as_mut().unwrap(), 2, ForkPolicy::Inherit)
        });
        ahead("a registration that fails", false, &mut || {
            registry.register(&mut SourceFd(&own[1]), Token(3), Interest::READABLE).unwrap_err();
        });
        ahead("reregistering", false, &mut || {
            registry.reregister(other.as_mut().unwrap(), Token(2), Interest::WRITABLE).unwrap();
        });
        ahead("setting a policy", false, &mut || fork::set_policy(&own[1], ForkPolicy::NoFork).unwrap());
        ahead("setting a default", false, &mut || {
            let _before = fork::set_default_policy(SourceKind::Other, ForkPolicy::NoFork);
        });
        ahead("muting", false, &mut || fork::glue::mute(&own[1]).unwrap());
        ahead("unmuting", false, &mut || fork::glue::unmute(&own[1]).unwrap());
        ahead("an exclusive wake", false, &mut || fork::glue::set_exclusive(&own[1], true).unwrap());
        ahead("deregistering", false, &mut || registry.deregister(other.as_mut().unwrap()).unwrap());
        register(&registry, other.as_mut().unwrap(), 2);
        ahead("closing a registered source", false, &mut || drop(other.take()));
        let mut stream = UnixDatagram::unbound().ok();
        register(&registry, stream.as_mut().unwrap(), 4);
        let mut given = None;
        ahead("taking a descriptor out of its source", false, &mut || given = stream.take().map(OwnedFd::from));
        let given = given.unwrap();
        registry.deregister(&mut SourceFd(&given.as_raw_fd())).unwrap();
        let mut pair = None;
        ahead("a pair", false, &mut || pair = UnixStream::pair().ok());
        ahead("renewing a pair in children", false, &mut || {
            fork::glue::renew_pair_in_children(&pair.as_ref().unwrap().0).unwrap();
        });
        ahead("dropping a pair", false, &mut || drop(pair.take()));
        let mut another = None;
        ahead("a timer", false, &mut || another = Timer::new(Clock::Monotonic).ok());
        ahead("dropping a timer", false, &mut || drop(another.take()));
        ahead("dropping a waker", false, &mut || drop(waker.take()));
        ahead("a waker", false, &mut || waker = Waker::new(&registry, Token(0)).ok());
        waker.as_ref().unwrap().wake().unwrap();
        let mut second = None;
        ahead("a selector", false, &mut || second = Poll::new().ok());
        ahead("dropping a selector", false, &mut || drop(second.take()));

        // The next child has all these changes.
        prepare_ahead().unwrap();
        in_child(|| {
            check_eq("no-fork", watched_descriptors(own[0]).iter().flatten().any(|(fd, _)| *fd == own[1]), false);
            check_eq("the wake", wait(&mut selector), tokens([0]));
            assert!(timer.remaining().is_some_and(|rest| rest > Duration::ZERO));
        });
        prepare_ahead().unwrap();
        fork::glue::retire_in_children(&own[1]).unwrap();
        check_eq("retiring", is_prepared_ahead(), false);
    }

    /// If no descriptor is left for a prepared object, preparing returns an error. The next fork works without a preparation.
    #[cfg(epoll)]
    fn no_descriptor_left() {
        let (selector, _waker) = selector_with_waker();
        let mut socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Inherit);
        let before = open_descriptors();
        // There is room for the queue, but not for the waker.
        let error = with_descriptor_limit(lowest_unused() + 1, || prepare_ahead().unwrap_err());
        assert!(matches!(error.object(), PrepareObject::Waker(_)), "{error}");
        check_eq("prepared", is_prepared_ahead(), false);
        check_eq("open descriptors", open_descriptors(), before);
        selector.registry().deregister(&mut socket).unwrap();
        in_child(|| ());
    }

    /// If an object that is still missing at the fork cannot be created, the fork returns an error and discards the
    /// preparation.
    #[cfg(epoll)]
    fn descriptor_limit_lowered_afterwards() {
        let selector = Poll::new().unwrap();
        let timer = registered_with(selector.registry(), Timer::new(Clock::Monotonic).unwrap(), 1, ForkPolicy::Renew);
        let before = open_descriptors();
        prepare_ahead().unwrap();
        let error = with_descriptor_limit(lowest_unused(), || prepare().unwrap_err());
        check_eq("the missing object", error.object(), PrepareObject::Timer(timer.as_raw_fd()));
        check_eq("open descriptors", open_descriptors(), before);
        in_child(|| ());
    }

    /// Between prepare and commit, preparing the next fork returns an error.
    fn inside_a_fork() {
        let selector = Poll::new().unwrap();
        let prepared = prepare().unwrap();
        check_eq("nested", prepare_ahead().unwrap_err().object(), PrepareObject::NestedFork);
        prepared.abort();
        prepare_ahead().unwrap();
        drop(selector);
        check_eq("prepared", is_prepared_ahead(), false);
    }

    /// Other threads register all the time, which discards preparations. Each child has the registrations at its fork.
    fn other_threads_register() {
        let selector = Poll::new().unwrap();
        let socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Inherit);
        let count = AtomicUsize::new(0);
        let register_and_deregister = || {
            let (_sender, mut receiver) = pipe::new().unwrap();
            register(selector.registry(), &mut receiver, 10);
            selector.registry().deregister(&mut receiver).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        };
        let mut used = 0;
        beside_threads([register_and_deregister; 2], || {
            for _ in 0..rounds(200) {
                prepare_ahead().unwrap();
                used += usize::from(is_prepared_ahead());
                in_child(|| {
                    let watched = registrations().len();
                    let is_well = (1..=3).contains(&watched) && fork::policy(&socket).is_some();
                    exit_now(i32::from(!is_well));
                });
            }
        });
        assert!(count.load(Ordering::Relaxed) > 0 && used > 0, "no registration, or no preparation");
    }
);
