//! Reconciling at once, signal handlers, and fork handlers of other libraries.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use forkio_reactor::fork::atfork;
use forkio_tests::reactor::*;
use forkio_tests::unplanned::{nothing, pthread_atfork};

scenarios!(
    /// A fork in a signal handler that interrupts no code of the reactor is like any other fork.
    fn fork_in_a_signal_handler() {
        unplanned::fork_on_signal(libc::SIGUSR2);
        let (mut selector, waker) = selector_with_waker();
        raise(libc::SIGUSR2);
        let child = unplanned::forked_in_handler();
        check_eq("generation", generation(), u32::from(child == 0));
        check_table(&selector);
        if child == 0 {
            check_wake(&waker, &mut selector, 0);
            return;
        }
        reap(child);
        check_silent("the child's wake", &mut selector);
    }

    /// After `atfork::install` the child has reconciled when fork(2) returns. So the peer of a severed connection sees the end
    /// as soon as the parent closes it.
    fn at_once() {
        atfork::install().unwrap();
        // A second call has no effect.
        atfork::install().unwrap();
        let selector = Poll::new().unwrap();
        let (mut severed, mut peer) = connection();
        register_with(selector.registry(), &mut severed, 1, ForkPolicy::Sever);
        let turn = Turn::new();
        let before = open_descriptors();
        prepare_ahead().unwrap();
        let child = unplanned::fork_child(|| {
            // The child has closed the parent's prepared objects. This is safe, because the child cannot have opened a
            // file yet.
            check_eq("descriptors", open_descriptors(), before.clone());
            turn.wait();
        });
        drop(severed);
        check_eq("the end, although the child lives", peer.read(&mut [0; 8]).unwrap(), 0);
        turn.give();
        reap(child);
    }

    /// A handler of another library, which runs in the child before forkio's handler, can use the selectors.
    fn other_handlers() {
        static SELECTOR: OnceLock<Mutex<Poll>> = OnceLock::new();
        static SEEN: AtomicU32 = AtomicU32::new(0);
        extern "C" fn before() {
            // This would wait forever if forkio held a lock here.
            drop(Poll::new().unwrap());
            SEEN.fetch_add(1, Ordering::Relaxed);
        }
        extern "C" fn in_child() {
            let mut selector = SELECTOR.get().unwrap().lock().unwrap();
            check_silent("the child's selector", &mut selector);
            SEEN.fetch_add(10 * generation(), Ordering::Relaxed);
        }
        pthread_atfork(before, nothing, in_child);
        atfork::install().unwrap();
        let selector = Poll::new().unwrap();
        let queue = selector.as_raw_fd();
        let _server = registered(selector.registry(), listener(), 1);
        SELECTOR.set(Mutex::new(selector)).unwrap();
        unplanned::in_child(|| {
            check_eq("handlers", SEEN.load(Ordering::Relaxed), 11);
            check_table(&queue);
        });
        check_eq("handlers", SEEN.load(Ordering::Relaxed), 1);
        check_table(&queue);
    }

    /// Another library's handler forks during a fork. Both children work.
    fn fork_in_a_handler() {
        static IS_NESTED: AtomicBool = AtomicBool::new(false);
        static INNER: AtomicI32 = AtomicI32::new(-1);
        extern "C" fn before() {
            if !IS_NESTED.swap(true, Ordering::Relaxed) {
                INNER.store(unplanned::fork().unwrap_or(0), Ordering::Relaxed);
                IS_NESTED.store(false, Ordering::Relaxed);
                if INNER.load(Ordering::Relaxed) == 0 {
                    assert_eq!(generation(), 1);
                    assert!(atfork::failure().is_none());
                    // This would wait forever if forkio held a lock.
                    drop(Poll::new().unwrap());
                    exit_now(0);
                }
            }
        }
        pthread_atfork(before, nothing, nothing);
        atfork::install().unwrap();
        let (mut selector, waker) = selector_with_waker();
        let outer = unplanned::fork_child(|| {
            check_eq("generation", generation(), 1);
            check_table(&selector);
            check_wake(&waker, &mut selector, 0);
        });
        reap(INNER.load(Ordering::Relaxed));
        reap(outer);
        check_table(&selector);
        check_silent("events of the children's acts", &mut selector);
    }

    /// If a signal handler in the child wakes a selector that the child has not used yet, only the child gets the event.
    fn wake_in_a_signal_handler() {
        static WAKER: OnceLock<Waker> = OnceLock::new();
        extern "C" fn wake(_: i32) {
            WAKER.get().unwrap().wake().unwrap();
        }
        extern "C" fn in_child() {
            raise(libc::SIGUSR1);
        }
        pthread_atfork(nothing, nothing, in_child);
        let mut selector = Poll::new().unwrap();
        WAKER.set(Waker::new(selector.registry(), Token(0)).unwrap()).unwrap();
        // SAFETY: the child has one thread, and the handler does not interrupt an allocation.
        unsafe { libc::signal(libc::SIGUSR1, wake as extern "C" fn(i32) as libc::sighandler_t) };
        unplanned::in_child(|| {
            check_eq("the child's wake", wait(&mut selector), tokens([0]));
        });
        check_silent("the child's wake", &mut selector);
        raise(libc::SIGUSR1);
        check_eq("the parent's wake", wait(&mut selector), tokens([0]));
    }
);
