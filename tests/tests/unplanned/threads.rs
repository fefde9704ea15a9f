//! Forks of processes with threads.

use std::os::fd::AsRawFd;
use std::os::unix::process::parent_id;
use std::time::Duration;

use forkio_reactor::fork::{InheritedState, atfork, reconcile};
use forkio_tests::reactor::*;

/// Calls `act` while another thread holds the value that `hold` returns.
fn while_held_elsewhere<T>(hold: impl FnOnce() -> T + Send, act: impl FnOnce()) {
    let [is_held, is_over] = &[Turn::new(), Turn::new()];
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| {
            let _held = hold();
            is_held.give();
            is_over.wait();
        });
        is_held.wait();
        act();
        is_over.give();
        holder.join().unwrap();
    });
}

/// Forks while another thread has prepared a fork, and so holds the reactor's lock.
fn while_prepared_elsewhere(child: impl FnOnce()) {
    while_held_elsewhere(
        || prepare().unwrap(),
        || {
            unplanned::in_child(|| {
                end_if_it_hangs();
                child();
                exit_now(0);
            })
        },
    );
}

/// Ends this process with a signal after the time limit of a step.
fn end_if_it_hangs() {
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(limit().as_secs() as u32) };
}

scenarios!(
    /// Threads make planned and unplanned forks, while other threads create and drop selectors and sources. Every child
    /// has either all registrations of its parent's selector or none, and can create a selector.
    fn planned_and_unplanned() {
        let forks = rounds(300);
        let (kept, _waker) = selector_with_waker();
        let _server = registered(kept.registry(), listener(), 1);
        let queue = kept.as_raw_fd();
        let before = (registrations(), open_descriptors());
        let child = || {
            check_eq("generation", generation(), 1);
            check_eq("parent", parent(), Some(parent_id()));
            if let Some(lost) = fork::glue::lost_state() {
                // At an unplanned fork, another thread was preparing a fork, or creating or dropping a selector.
                let inherited = registrations();
                assert!(inherited.is_empty(), "{lost}: {inherited:?}");
            } else {
                assert!(atfork::failure().is_none(), "{}", atfork::failure().unwrap());
                check_table(&queue);
            }
            check_new_selector();
            exit_now(0);
        };
        beside_threads([|| create_and_drop(&kept); 2], || {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| (0..forks).for_each(|_| unplanned::in_child(child)));
                }
                for _ in 0..forks {
                    in_child(child);
                }
            });
        });
        check_eq("generation", generation(), 0);
        check_table(&queue);
        check_eq("registrations and descriptors", (registrations(), open_descriptors()), before);
    }

    /// If another thread holds the reactor's lock at the fork, inherited selectors fail with `InheritedState::InUse`.
    /// New selectors work.
    fn lock_held_by_another_thread() {
        let (mut selector, waker) = selector_with_waker();
        let mut server = registered(selector.registry(), listener(), 1);
        while_prepared_elsewhere(|| {
            let error = selector.poll(&mut Events::with_capacity(4), None).unwrap_err();
            let lost = error.get_ref().and_then(|error| error.downcast_ref::<InheritedState>());
            check_eq("the error", lost, Some(&InheritedState::InUse));
            check_eq("the reason", fork::glue::lost_state(), Some(InheritedState::InUse));
            waker.wake().unwrap();
            assert!(selector.registry().register(&mut udp(), Token(2), Interest::READABLE).is_err());
            selector.registry().deregister(&mut server).unwrap();
            let mut fresh = Poll::new().unwrap();
            let waker = Waker::new(fresh.registry(), Token(7)).unwrap();
            check_wake(&waker, &mut fresh, 7);
            unplanned::in_child(|| check_table(&fresh));
        });
        check_silent("events of the child's acts", &mut selector);
        check_table(&selector);
        check_wake(&waker, &mut selector, 0);
    }

    /// A thread that has no selector forks while another thread polls.
    fn thread_without_a_selector() {
        let (mut selector, waker) = selector_with_waker();
        let queue = selector.as_raw_fd();
        std::thread::scope(|scope| {
            let poller = scope.spawn(|| {
                check_eq("the wake", wait(&mut selector), tokens([0]));
                check_eq("generation", generation(), 0);
            });
            for _ in 0..10 {
                reap(unplanned::fork_on_thread(|| {
                    check_eq("generation", generation(), 1);
                    check_table(&queue);
                    // This wakes only the child, not the poller.
                    waker.wake().unwrap();
                    exit_now(0);
                }));
            }
            assert!(!poller.is_finished(), "a child has woken its parent");
            waker.wake().unwrap();
            poller.join().unwrap();
        });
        reap(unplanned::fork_on_thread(|| check_table(&queue)));
    }

    /// Other threads register at the moment of the fork. In the child, table and queue agree, and the selector works.
    fn beside_registrations() {
        let (mut selector, waker) = selector_with_waker();
        let registry = selector.registry().try_clone().unwrap();
        let register_all_the_time = || {
            let mut socket = registered(&registry, udp(), 2);
            registry.reregister(&mut socket, Token(3), Interest::WRITABLE).unwrap();
            registry.deregister(&mut socket).unwrap();
        };
        beside_threads([register_all_the_time; 2], || {
            for _ in 0..rounds(200) {
                unplanned::in_child(|| {
                    reconcile();
                    assert!(atfork::failure().is_none(), "{}", atfork::failure().unwrap());
                    check_eq("the lost state", fork::glue::lost_state(), None);
                    check_table(&selector);
                    waker.wake().unwrap();
                    assert!(wait(&mut selector).contains(&0), "the child's waker");
                    exit_now(0);
                });
            }
        });
    }

    /// A child that cannot use its inherited selectors makes new ones. Wakers and sources of the inherited selectors do not
    /// disturb the new ones.
    fn leftovers_of_lost_selectors() {
        let mut lost = Some(Poll::new().unwrap());
        let registry = lost.as_ref().unwrap().registry();
        let mut old_waker = Some(Waker::new(registry, Token(0)).unwrap());
        let mut socket = registered(registry, udp(), 1);
        while_prepared_elsewhere(|| {
            check_eq("the lost state", fork::glue::lost_state(), Some(InheritedState::InUse));
            drop(lost.take());
            let mut fresh = Poll::new().unwrap();
            let waker = Waker::new(fresh.registry(), Token(7)).unwrap();
            register(fresh.registry(), &mut socket, 8);
            drop(old_waker.take());
            check_wake(&waker, &mut fresh, 7);
            send_to(&socket);
            check_eq("the socket", wait(&mut fresh), tokens([8]));
        });
    }

    /// A child that cannot use its inherited selectors does not close a file that it has opened at a selector's descriptor.
    #[cfg(epoll)]
    fn file_at_the_descriptor_of_a_lost_selector() {
        let mut lost = Some(Poll::new().unwrap());
        let fd = lost.as_ref().unwrap().as_raw_fd();
        while_prepared_elsewhere(|| {
            // SAFETY: the selector notices that its descriptor no longer refers to its queue.
            unsafe { libc::close(fd) };
            let file = std::fs::File::open("/dev/null").unwrap();
            check_eq("the descriptor is used again", file.as_raw_fd(), fd);
            drop(lost.take());
            file.metadata().unwrap();
        });
    }

    /// In a child, a new thread may get the stack of one of the parent's threads. forkio does not mistake the new
    /// thread for that one.
    fn stack_of_a_thread_of_the_parent() {
        let _selector = Poll::new().unwrap();
        while_prepared_elsewhere(|| {
            std::thread::spawn(|| {
                check_eq("generation", generation(), 1);
                check_eq("the lost state", fork::glue::lost_state(), Some(InheritedState::InUse));
                drop(fork::glue::hold_off().unwrap());
                Poll::new().unwrap();
            })
            .join()
            .unwrap();
        });
    }

    /// A child's first use of forkio may be to hold forks off, even if a thread of the parent held them off at the fork.
    fn holding_off_first() {
        for has_selector in [false, true] {
            let _selector = has_selector.then(|| Poll::new().unwrap());
            let hold_off = || fork::glue::hold_off().unwrap();
            while_held_elsewhere(hold_off, || {
                unplanned::in_child(|| {
                    end_if_it_hangs();
                    drop(hold_off());
                    exit_now(0);
                });
            });
        }
    }

    /// A child can make a selector even if a thread of the parent was using forkio for the first time.
    fn first_use_elsewhere() {
        let first_use =
            || assert_eq!(fork::set_default_policy(SourceKind::Other, ForkPolicy::Inherit), ForkPolicy::Inherit);
        beside_threads([first_use], || {
            for _ in 0..rounds(100) {
                unplanned::in_child(|| {
                    end_if_it_hangs();
                    Poll::new().unwrap();
                    exit_now(0);
                });
            }
        });
    }

    /// A child that cannot use its inherited selectors can fork with new ones, even if a thread of the parent was changing a
    /// registration.
    fn change_under_way_in_a_lost_selector() {
        let lost = std::mem::ManuallyDrop::new(Poll::new().unwrap());
        let mut socket = udp();
        let make_and_drop = || drop(Poll::new().unwrap());
        let change = || {
            register(lost.registry(), &mut socket, 1);
            lost.registry().deregister(&mut socket).unwrap();
        };
        let works: [Box<dyn FnMut() + Send + '_>; 2] = [Box::new(make_and_drop), Box::new(change)];
        beside_threads(works, || {
            for _ in 0..rounds(100) {
                unplanned::in_child(|| {
                    end_if_it_hangs();
                    if fork::glue::lost_state().is_some() {
                        // SAFETY: nothing in this process uses the selector again.
                        drop(unsafe { std::ptr::read(&raw const *lost) });
                        // This selector gets the place of the dropped one.
                        let fresh = Poll::new().unwrap();
                        register(fresh.registry(), &mut udp(), 1);
                        prepare().unwrap().abort();
                    }
                    exit_now(0);
                });
            }
        });
    }

    /// If another thread was examining a descriptor at the fork, the child's timers work, or its selectors fail with an
    /// `InheritedState`.
    fn timer_while_a_thread_examines_descriptors() {
        let mut selector = Poll::new().unwrap();
        let mut timer = registered(selector.registry(), Timer::new(Clock::Monotonic).unwrap(), 1);
        timer.set_after(Duration::from_millis(1), Some(Duration::from_millis(1))).unwrap();
        let mut signals = Some(Signals::new([libc::SIGUSR1]).unwrap());
        let look = || drop(fork::glue::kind(&0));
        beside_threads([look], || {
            for round in 0..rounds(100) {
                unplanned::in_child(|| {
                    end_if_it_hangs();
                    if round % 2 == 0 {
                        look()
                    } else {
                        drop(signals.take())
                    }
                    match selector.poll(&mut Events::with_capacity(4), Some(limit())) {
                        Ok(()) => assert!(timer.expirations().unwrap() > 0),
                        Err(error) => {
                            assert!(error.get_ref().is_some_and(|error| error.is::<InheritedState>()), "{error}")
                        }
                    }
                    exit_now(0);
                });
            }
        });
    }
);
