//! Forks that use a preparation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use forkio_reactor::fork::atfork;
use forkio_tests::reactor::*;

/// Returns the name of the object behind each open descriptor. A new socket has a new name, even at the same descriptor.
fn objects() -> BTreeMap<RawFd, String> {
    open_descriptors().into_iter().map(|fd| (fd, name_of(&fd))).collect()
}

scenarios!(
    /// The next fork creates nothing new, and leaves no prepared object behind in parent or child.
    fn next_fork_uses_the_preparation() {
        let (mut selector, waker) = selector_with_waker();
        let mut socket = udp();
        let (mut pair, _peer) = UnixStream::pair().unwrap();
        let (mut severed, _other) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut socket, 1, ForkPolicy::Inherit);
        register_with(selector.registry(), &mut pair, 2, ForkPolicy::Renew);
        register_with(selector.registry(), &mut severed, 3, ForkPolicy::Sever);
        let before = open_descriptors();
        for _ in 0..2 {
            check_eq("prepared", is_prepared_ahead(), false);
            prepare_ahead().unwrap();
            check_eq("prepared", is_prepared_ahead(), true);
            let prepared = open_descriptors();
            // The prepared objects are the queue, the waker, a pair and the dead endpoint. A kqueue is created in the child,
            // and may contain the waker.
            let expected = if cfg!(epoll) { 5..=5 } else { 3..=5 };
            assert!(expected.contains(&(prepared.len() - before.len())), "{prepared:?} after {before:?}");
            prepare_ahead().unwrap();
            check_eq("prepared twice", open_descriptors(), prepared);
            let objects = objects();
            let prepared = prepare().unwrap();
            check_eq("objects during the fork", self::objects(), objects);
            check_eq("prepared, during the fork", is_prepared_ahead(), false);
            prepared.abort();
            check_eq("after an aborted fork", open_descriptors(), before.clone());
            prepare_ahead().unwrap();
            in_child(|| {
                check_eq("in the child", open_descriptors(), before.clone());
                check_eq("prepared", is_prepared_ahead(), false);
                send_to(&socket);
                waker.wake().unwrap();
                wait_for_all(&mut selector, [0, 1, 3]);
                socket.recv(&mut [0]).unwrap();
                prepare_ahead().unwrap();
                in_child(|| check_eq("in the grandchild", open_descriptors(), before.clone()));
            });
            check_eq("in the parent", open_descriptors(), before.clone());
        }
        check_eq("the children's wakes", ready(&mut selector).contains(&0), false);
    }

    /// The child has the wakes, bytes and expirations that are pending at the fork, not those at the preparation.
    fn state_changes_in_between() {
        let (mut selector, waker) = selector_with_waker();
        let (mut pair, mut peer) = UnixStream::pair().unwrap();
        let mut timers = [Timer::new(Clock::Monotonic).unwrap(), Timer::new(Clock::Monotonic).unwrap()];
        let mut sockets = [udp(), udp()];
        register_with(selector.registry(), &mut pair, 1, ForkPolicy::Renew);
        for (token, timer) in (2..).zip(&mut timers) {
            register_with(selector.registry(), timer, token, ForkPolicy::Renew);
        }
        for (token, socket) in (4..).zip(&mut sockets) {
            register_with(selector.registry(), socket, token, ForkPolicy::Inherit);
        }
        peer.write_all(b"ab").unwrap();
        timers[0].set_at(Duration::ZERO, None).unwrap();
        send_to(&sockets[1]);
        prepare_ahead().unwrap();
        waker.wake().unwrap();
        check_eq("reading", pair.read(&mut [0]).unwrap(), 1);
        peer.write_all(b"c").unwrap();
        let mut seen = BTreeSet::new();
        while !seen.is_superset(&tokens([0, 1, 2, 5])) {
            seen.append(&mut wait(&mut selector));
        }
        timers[0].expirations().unwrap();
        timers[1].set_at(Duration::ZERO, None).unwrap();
        sockets[1].recv(&mut [0]).unwrap();
        send_to(&sockets[0]);
        waker.wake().unwrap();
        check_eq("prepared", is_prepared_ahead(), true);
        in_child(|| {
            wait_for_all(&mut selector, [0, 1, 3, 4]);
            let mut both = [0; 3];
            check_eq("reading", pair.read(&mut both).unwrap(), 2);
            check_eq("what was pending", both, *b"bc\0");
            check_eq("taken by the parent", timers[0].expirations().unwrap_err().kind(), ErrorKind::WouldBlock);
            check_eq("expirations since the preparation", timers[1].expirations().unwrap(), 1);
            check_eq("read by the parent", sockets[1].recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            check_eq("the datagram since the preparation", sockets[0].recv(&mut [0]).unwrap(), 1);
        });
        check_eq("the bytes that the parent reads", pair.read(&mut [0; 3]).unwrap(), 2);
        check_eq("the parent's expirations", timers[1].expirations().unwrap(), 1);
    }

    /// A registration is not inherited if its descriptor was closed and reused after the preparation, even if the old file is
    /// still open elsewhere.
    fn descriptor_closed_and_reused() {
        let mut selector = Poll::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (other, _other_writer) = std::io::pipe().unwrap();
        let duplicate = reader.try_clone().unwrap();
        let fd = reader.as_raw_fd();
        register_with(selector.registry(), &mut SourceFd(&fd), 1, ForkPolicy::Inherit);
        prepare_ahead().unwrap();
        // SAFETY: both descriptors are open, and `reader` owns `fd` afterwards too.
        check_eq("reusing the descriptor", unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        writer.write_all(b"x").unwrap();
        check_eq("prepared", is_prepared_ahead(), true);
        in_child(|| {
            check_eq("watched", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), Vec::new());
            check_eq("events", ready(&mut selector), tokens([]));
        });
        // The duplicate keeps the first pipe open until now, so that the epoll instance still watches it.
        drop(duplicate);
    }

    /// A registration that the parent has muted is not in the prepared queue yet, and is armed in the child.
    fn muted() {
        let mut selector = Poll::new().unwrap();
        let socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Inherit);
        fork::glue::mute(&socket).unwrap();
        prepare_ahead().unwrap();
        for queue in open_descriptors().into_iter().filter(|fd| name_of(fd) == "anon_inode:[eventpoll]") {
            check_eq("watched by a queue", watched_descriptors(queue).unwrap_or_default(), Vec::new());
        }
        send_to(&socket);
        in_child(|| {
            check_eq("events", wait(&mut selector), tokens([1]));
            socket.recv(&mut [0]).unwrap();
        });
        check_eq("events", ready(&mut selector), tokens([]));
    }

    /// The kernel does not watch a muted descriptor. The fork still detects that it was closed and reused.
    fn muted_descriptor_closed_and_reused() {
        for is_ahead in [false, true] {
            let selector = Poll::new().unwrap();
            let [closed, kept, given] = [udp(), udp(), udp()];
            let [closed, kept] = [closed, kept].map(OwnedFd::from);
            let fds = [closed.as_raw_fd(), kept.as_raw_fd(), given.as_raw_fd()];
            let mut given = given;
            for (token, fd) in (1..).zip(&fds[..2]) {
                register_with(selector.registry(), &mut SourceFd(fd), token, ForkPolicy::Inherit);
            }
            register_with(selector.registry(), &mut given, 3, ForkPolicy::Inherit);
            fds.iter().for_each(|fd| fork::glue::mute(fd).unwrap());
            // `given` is muted, and from now on a bare descriptor.
            let given = OwnedFd::from(given);
            if is_ahead {
                prepare_ahead().unwrap();
            }
            let other = udp();
            // SAFETY: both descriptors are open, and `closed` owns `fds[0]` afterwards too.
            check_eq("reusing the descriptor", unsafe { libc::dup2(other.as_raw_fd(), fds[0]) }, fds[0]);
            check_eq("prepared", is_prepared_ahead(), is_ahead);
            in_child(|| {
                if let Some(watched) = watched_descriptors(selector.as_raw_fd()) {
                    let watched = BTreeSet::from_iter(watched.into_iter().map(|(fd, _)| fd));
                    check_eq("watched", watched, BTreeSet::from([fds[1], fds[2]]));
                }
            });
            let listed = fork::registrations().into_iter().map(|registration| registration.fd);
            check_eq("listed", BTreeSet::from_iter(listed), BTreeSet::from([fds[1], fds[2]]));
            drop((closed, kept, given));
        }
    }

    /// A program that is executed after the preparation has none of the prepared descriptors.
    fn close_on_exec() {
        let (selector, _waker) = selector_with_waker();
        let (mut pair, _peer) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut pair, 1, ForkPolicy::Renew);
        let before = open_descriptors();
        prepare_ahead().unwrap();
        for fd in open_descriptors().into_iter().filter(|fd| !before.contains(fd)) {
            // SAFETY: no memory is involved.
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
            check_eq("close-on-exec", flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }

    /// The child of an unplanned fork does not use its parent's preparation.
    #[cfg(epoll)]
    fn child_of_an_unplanned_fork() {
        let mut selector = Poll::new().unwrap();
        let mut socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Inherit);
        let before = open_descriptors();
        prepare_ahead().unwrap();
        unplanned::in_child(|| {
            check_eq("prepared", is_prepared_ahead(), false);
            let inherited = open_descriptors();
            in_child(|| {
                // This child has a queue of its own, not the one that was prepared for the first process's next child.
                check_eq("open descriptors", open_descriptors(), inherited.clone());
                selector.registry().deregister(&mut socket).unwrap();
            });
        });
        check_eq("prepared", is_prepared_ahead(), true);
        send_to(&socket);
        in_child(|| check_eq("events", wait(&mut selector), tokens([1])));
        // The child of an unplanned fork may reuse the descriptors of the prepared objects.
        prepare_ahead().unwrap();
        unplanned::in_child(|| {
            for fd in open_descriptors().iter().filter(|fd| !before.contains(fd)) {
                // SAFETY: nothing in this child uses the prepared object.
                check_eq("reusing a descriptor", unsafe { libc::dup2(2, *fd) }, *fd);
            }
            let inherited = open_descriptors();
            let mut timer = Timer::new(Clock::Monotonic).unwrap();
            timer.disarm().unwrap();
            drop(timer);
            check_eq("open descriptors", open_descriptors(), inherited);
        });
        in_child(|| check_eq("events", wait(&mut selector), tokens([1])));
    }

    /// A child that reconciles at once closes the prepared objects. The parent keeps its preparation.
    fn unplanned_fork_at_once() {
        atfork::install().unwrap();
        let mut selector = Poll::new().unwrap();
        let mut socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Inherit);
        let before = open_descriptors();
        prepare_ahead().unwrap();
        unplanned::in_child(|| {
            check_eq("generation", fork::generation(), 1);
            check_eq("open descriptors", open_descriptors(), before.clone());
            selector.registry().deregister(&mut socket).unwrap();
        });
        check_eq("prepared", is_prepared_ahead(), true);
        send_to(&socket);
        check_eq("events", wait(&mut selector), tokens([1]));
    }

    /// A fork in a signal handler does not touch the preparation, even if the interrupted thread holds forks off.
    fn fork_in_a_signal_handler() {
        atfork::install().unwrap();
        unplanned::fork_on_signal(libc::SIGUSR1);
        let mut selector = Poll::new().unwrap();
        let socket = registered_with(selector.registry(), udp(), 1, ForkPolicy::Inherit);
        prepare_ahead().unwrap();
        let held = fork::glue::hold_off().unwrap();
        raise(libc::SIGUSR1);
        let child = unplanned::forked_in_handler();
        if child == 0 {
            exit_now(i32::from(atfork::failure().is_some() || generation() != 1));
        }
        reap(child);
        drop(held);
        check_eq("prepared", is_prepared_ahead(), true);
        send_to(&socket);
        in_child(|| check_eq("events", wait(&mut selector), tokens([1])));
    }
);
