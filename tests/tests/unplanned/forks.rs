//! Forks that succeed.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, parent_id};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forkio_reactor::fork::{atfork, glue, reconcile};
use forkio_tests::reactor::*;

static FIRST_POLLS: AtomicU32 = AtomicU32::new(0);

fn count_first_polls() {
    glue::set_first_poll_hook(|| {
        FIRST_POLLS.fetch_add(1, Ordering::Relaxed);
    });
}

scenarios!(
    /// The child of an unplanned fork follows every policy, as the child of a planned one does.
    fn policies() {
        let (mut selector, waker) = selector_with_waker();
        let mut server = registered(selector.registry(), listener(), 1);
        let mut left_out = registered_with(selector.registry(), udp(), 2, ForkPolicy::NoFork);
        let (mut severed, mut peer) = connection();
        register_with(selector.registry(), &mut severed, 3, ForkPolicy::Sever);
        let (mut pair, mut other_end) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut pair, 4, ForkPolicy::Renew);
        let muted = registered(selector.registry(), listener(), 5);
        fork::glue::mute(&muted).unwrap();
        waker.wake().unwrap();
        let (to_parent, to_child) = Turn::both_ways();
        let before = open_descriptors();

        let child = unplanned::fork_child(|| {
            check_eq("generation", generation(), 1);
            check_eq("parent", parent(), Some(parent_id()));
            assert!(atfork::failure().is_none());
            check_table(&selector);
            check_eq("ready at once", wait(&mut selector), tokens([0, 3]));
            check_eq("the severed end", severed.read(&mut [0; 8]).unwrap(), 0);
            // The parent notices neither the wake nor the bytes.
            waker.wake().unwrap();
            other_end.write_all(b"child").unwrap();
            check_eq("the child's own events", wait(&mut selector), tokens([0, 4]));
            check_eq("bytes from the pair", pair.read(&mut [0; 8]).unwrap(), 5);
            let _client = connect(&muted);
            check_eq("muted in the parent alone", wait(&mut selector), tokens([5]));
            selector.registry().deregister(&mut server).unwrap();
            register(selector.registry(), &mut left_out, 9);
            check_table(&selector);
            to_parent.give();
            to_child.wait();
        });
        check_eq("the pending wake", wait(&mut selector), tokens([0]));
        to_parent.wait();
        check_silent("events of the child's acts", &mut selector);
        check_eq("generation", generation(), 0);
        check_table(&selector);
        let client = connect(&server);
        check_eq("the listener", wait(&mut selector), tokens([1]));
        // The child still runs, and does not hold the connection open.
        peer.write_all(b"to the parent").unwrap();
        check_eq("the connection", wait(&mut selector), tokens([3]));
        check_eq("the bytes", severed.read(&mut [0; 64]).unwrap(), 13);
        drop(severed);
        check_eq("the end", peer.read(&mut [0; 8]).unwrap(), 0);
        to_child.give();
        reap(child);
        drop(client);
        assert!(open_descriptors().iter().all(|fd| before.contains(fd)), "prepared objects are still open");
    }

    /// If the parent closes two connections, one of them muted, before the child reconciles, the child severs both:
    /// their peers see the end.
    fn closed_before_reconciling() {
        let selector = Poll::new().unwrap();
        let (mut severed, mut peer) = connection();
        register_with(selector.registry(), &mut severed, 1, ForkPolicy::Sever);
        let (mut muted, mut muted_peer) = connection();
        register_with(selector.registry(), &mut muted, 2, ForkPolicy::Sever);
        glue::mute(&muted).unwrap();
        let (to_parent, to_child) = Turn::both_ways();
        let child = unplanned::fork_child(|| {
            to_child.wait();
            reconcile();
            to_parent.give();
            to_child.wait();
        });
        drop((severed, muted));
        to_child.give();
        to_parent.wait();
        for peer in [&mut peer, &mut muted_peer] {
            peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            check_eq("the end, although the child lives", peer.read(&mut [0; 8]).unwrap(), 0);
        }
        to_child.give();
        reap(child);
    }

    /// Planned and unplanned forks work in each other's children, in all combinations down to the fourth generation.
    fn planned_and_unplanned() {
        fn descend(selector: &mut Poll, waker: &Waker, server: &TcpListener, depth: u32) {
            check_eq("generation", generation(), depth);
            if depth > 0 {
                check_eq("parent", parent(), Some(parent_id()));
            }
            check_table(selector);
            check_wake(waker, selector, 0);
            check_silent("events after the wake", selector);
            if depth == 4 {
                return;
            }
            unplanned::in_child(|| descend(selector, waker, server, depth + 1));
            in_child(|| descend(selector, waker, server, depth + 1));
            let _client = connect(server);
            check_eq("the listener", wait(selector), tokens([1]));
            drop(server.accept().unwrap());
        }
        let (mut selector, waker) = selector_with_waker();
        let server = registered(selector.registry(), listener(), 1);
        descend(&mut selector, &waker, &server, 0);
    }

    /// If the parent has called `prepare`, the child commits. It does not reconcile.
    fn prepared_by_the_caller() {
        let (mut selector, waker) = selector_with_waker();
        let (mut stream, mut peer) = connection();
        register(selector.registry(), &mut stream, 1);
        let (to_parent, to_child) = Turn::both_ways();
        let prepared = prepare().unwrap();
        match unplanned::fork() {
            None => {
                // SAFETY: this is the child of a fork after `prepare`.
                unsafe { prepared.commit() };
                check_eq("generation", generation(), 1);
                check_table(&selector);
                check_wake(&waker, &mut selector, 0);
                to_parent.give();
                to_child.wait();
                std::process::exit(0);
            }
            Some(child) => {
                prepared.abort();
                to_parent.wait();
                drop(stream);
                peer.write_all(b"x").unwrap();
                check_silent("a dropped stream that the child has", &mut selector);
                to_child.give();
                reap(child);
            }
        }
        check_silent("the child's wake", &mut selector);
        unplanned::in_child(|| check_table(&selector));
    }

    /// A daemon continues with its grandparent's registrations. The grandparent is not affected.
    fn daemon() {
        let (mut selector, waker) = selector_with_waker();
        let server = registered(selector.registry(), listener(), 1);
        let (done, turn) = Turn::both_ways();
        if unplanned::daemon() {
            // The process between the daemon and its grandparent used no selector, so it does not count as a generation.
            check_eq("generation", generation(), 1);
            check_table(&selector);
            check_eq("a client", wait(&mut selector), tokens([1]));
            server.accept().unwrap().0.write_all(b"daemon").unwrap();
            waker.wake().unwrap();
            done.give();
            turn.wait();
            std::process::exit(0);
        }
        check_eq("generation", generation(), 0);
        let mut client = connect(&server);
        let mut name = [0; 6];
        client.read_exact(&mut name).unwrap();
        check_eq("the serving process", &name, b"daemon");
        done.wait();
        check_silent("events of the daemon's acts", &mut selector);
        check_table(&selector);
        turn.give();
    }

    /// A program that is executed after the fork has none of the reactor's descriptors. The parent notices nothing.
    fn executed_program() {
        let descriptors = format!("{:?}", open_descriptors());
        let (mut selector, waker) = selector_with_waker();
        let (mut severed, _peer) = connection();
        register_with(selector.registry(), &mut severed, 1, ForkPolicy::Sever);
        let program = std::env::current_exe().unwrap();
        for _ in 0..10 {
            check_eq(
                "the program",
                unplanned::run(program.to_str().unwrap(), &["--run", "forks::check_descriptors", &descriptors]),
                0,
            );
        }
        check_eq("a program that does not exist", unplanned::run("/nonexistent", &[]), 127 << 8);
        check_table(&selector);
        check_wake(&waker, &mut selector, 0);
    }

    /// If a process has no selector yet, or has dropped its last one, its child can create one.
    fn no_selectors() {
        // This process has no selector, so this call makes forkio begin to detect forks.
        check_eq("generation", generation(), 0);
        let child = || {
            check_eq("generation", generation(), 1);
            check_eq("selectors", fork::glue::selector_count(), 0);
            let (mut selector, waker) = selector_with_waker();
            check_wake(&waker, &mut selector, 0);
            unplanned::in_child(|| check_table(&selector));
        };
        unplanned::in_child(child);
        drop(Poll::new().unwrap());
        unplanned::in_child(child);
    }

    /// A child may use the reactor in a `pre_exec` hook. Whether it does or not, the executed program has none of the
    /// reactor's descriptors.
    fn spawned_programs() {
        let descriptors = format!("{:?}", open_descriptors());
        let (mut selector, waker) = selector_with_waker();
        let program = std::env::current_exe().unwrap();
        for uses_selector in [false, true] {
            let mut command = Command::new(&program);
            command.args(["--run", "forks::check_descriptors", &descriptors]);
            let hook = move || match !uses_selector || (generation() == 1 && atfork::failure().is_none()) {
                true => Ok(()),
                false => Err(ErrorKind::Other.into()),
            };
            // SAFETY: the hook makes system calls and allocates, in a process whose parent has one thread.
            unsafe { command.pre_exec(hook) };
            assert!(command.status().unwrap().success());
        }
        check_table(&selector);
        check_wake(&waker, &mut selector, 0);
    }

    /// The hook for the first poll runs once in the child of an unplanned fork, before its first poll.
    fn first_poll() {
        let hook = || FIRST_POLLS.load(Ordering::Relaxed);
        count_first_polls();
        let (mut selector, waker) = selector_with_waker();
        in_child(|| {
            check_silent("after a planned fork", &mut selector);
            check_eq("hooks", hook(), 0);
        });
        unplanned::in_child(|| {
            check_eq("cloning a registry is not a poll", selector.registry().try_clone().is_ok(), true);
            let _socket = registered(selector.registry(), udp(), 1);
            let prepared = prepare().unwrap();
            selector.poll(&mut Events::with_capacity(8), None).unwrap_err();
            check_eq("hooks between prepare and commit", hook(), 0);
            prepared.abort();
            // After the hook, the poll returns instead of waiting.
            check_eq("the first poll", poll(&mut selector, None), tokens([]));
            check_eq("hooks", hook(), 1);
            waker.wake().unwrap();
            check_eq("the second poll", poll(&mut selector, None), tokens([0]));
            check_eq("hooks", hook(), 1);
            let mut fresh = Poll::new().unwrap();
            check_silent("a later selector", &mut fresh);
            check_eq("hooks", hook(), 1);
        });
        unplanned::in_child(|| {
            // The child creates this selector before its first poll.
            let mut fresh = Poll::new().unwrap();
            check_eq("the first poll", poll(&mut fresh, None), tokens([]));
            check_eq("hooks", hook(), 1);
        });
        check_eq("in the parent", (ready(&mut selector), hook()), (tokens([]), 0));
    }

    /// Checks that the open descriptors of this process are those that the first argument lists.
    #[program]
    fn check_descriptors() {
        let [expected] = arguments().try_into().expect("one argument");
        check_eq("descriptors", format!("{:?}", open_descriptors()), expected);
    }

    /// A pending wake is pending in both processes, and neither process takes the other's wake.
    fn pending_wake() {
        let (mut selector, waker) = selector_with_waker();
        waker.wake().unwrap();
        unplanned::in_child(|| {
            check_eq("the child's copy of the wake", wait(&mut selector), tokens([0]));
            check_silent("a second event", &mut selector);
        });
        // The child's poll has not taken the parent's pending wake, and later wakes arrive too.
        check_eq("the parent's wake", wait(&mut selector), tokens([0]));
        for _ in 0..3 {
            check_wake(&waker, &mut selector, 0);
        }
    }

    /// After a child has polled its copy of a pending wake, the next wake in the parent still arrives.
    fn wake_after_the_child_polled() {
        let (mut selector, waker) = selector_with_waker();
        let _exposed = selector.as_raw_fd(); // Each wake now makes a system call.
        waker.wake().unwrap();
        unplanned::in_child(|| check_eq("the child's copy of the wake", wait(&mut selector), tokens([0])));
        check_wake(&waker, &mut selector, 0);
    }

    /// Any first use of a selector in the child reconciles, and does not affect the parent.
    fn first_use() {
        let (mut selector, waker) = selector_with_waker();
        let mut kept = registered(selector.registry(), listener(), 1);
        let mut other = udp();
        type Use = fn(&mut Poll, &Waker, &mut TcpListener, &mut UdpSocket);
        let uses: [(&str, Use); 9] = [
            ("polling", |selector, _, _, _| drop(ready(selector))),
            ("registering", |selector, _, _, other| register(selector.registry(), other, 2)),
            ("reregistering", |selector, _, kept, _| {
                selector.registry().reregister(kept, Token(9), Interest::WRITABLE).unwrap();
            }),
            ("deregistering", |selector, _, kept, _| selector.registry().deregister(kept).unwrap()),
            ("waking", |_, waker, _, _| waker.wake().unwrap()),
            ("a new selector", |_, _, _, _| drop(Poll::new().unwrap())),
            ("muting", |_, _, kept, _| glue::mute(kept).unwrap()),
            ("setting a policy", |_, _, kept, _| fork::set_policy(kept, ForkPolicy::NoFork).unwrap()),
            ("reconciling", |_, _, _, _| reconcile()),
        ];
        for (what, first) in uses {
            unplanned::in_child(|| {
                first(&mut selector, &waker, &mut kept, &mut other);
                check_eq(what, generation(), 1);
                check_table(&selector);
            });
            check_table(&selector);
        }
        unplanned::in_child(|| {
            drop(kept);
            drop(waker);
            drop(selector);
            check_eq("dropping", fork::glue::selector_count(), 0);
        });
    }

    /// Dropping sources and selectors in the child does not affect the parent.
    fn dropping() {
        let (mut selector, waker) = selector_with_waker();
        let server = registered(selector.registry(), listener(), 1);
        let address = server.local_addr().unwrap();
        let mut parts = Some((selector, waker, server));
        unplanned::in_child(|| drop(parts.take()));
        let (mut selector_again, waker, _server) = parts.take().unwrap();
        selector = {
            let _client = std::net::TcpStream::connect(address).unwrap();
            check_eq("the parent's listener", wait(&mut selector_again), tokens([1]));
            selector_again
        };
        check_wake(&waker, &mut selector, 0);
    }
);
