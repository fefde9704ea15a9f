//! The four policies, muting, and the defaults of each kind of source.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use forkio_tests::reactor::*;

scenarios!(
    /// *Inherit*: the child has the registration, armed. A source that was ready at the fork is ready in both
    /// processes.
    fn inherit() {
        let mut selector = Poll::new().unwrap();
        let (mut stream, mut peer) = connection();
        let mut server = listener();
        register(selector.registry(), &mut stream, 1);
        register(selector.registry(), &mut server, 2);
        peer.write_all(b"before").unwrap();
        let (to_parent, to_child) = Turn::both_ways();
        let child = fork_child(|| {
            check_eq("ready at the fork", wait(&mut selector), tokens([1]));
            to_parent.give();
            to_child.wait();
            check_eq("after the fork", wait(&mut selector), tokens([2]));
        });
        check_eq("ready at the fork", wait(&mut selector), tokens([1]));
        to_parent.wait();
        let _client = connect(&server);
        check_eq("after the fork", wait(&mut selector), tokens([2]));
        to_child.give();
        reap(child);
    }

    /// *No-fork*: the child does not have the registration. It can deregister the source once, and register it again.
    fn no_fork() {
        let mut selector = Poll::new().unwrap();
        let mut sockets = [udp(), udp(), udp()];
        for (index, socket) in sockets.iter_mut().enumerate() {
            register_with(selector.registry(), socket, index, ForkPolicy::NoFork);
        }
        for socket in &sockets {
            send_to(socket);
        }
        let child = fork_child(|| {
            check_table(&selector);
            check_eq("registrations", registrations().len(), 0);
            check_silent("events", &mut selector);
            // The first socket still considers itself registered, so it can be deregistered once.
            selector.registry().deregister(&mut sockets[0]).unwrap();
            let again = selector.registry().deregister(&mut sockets[0]).unwrap_err();
            check_eq("deregistering twice", again.kind(), ErrorKind::NotFound);
            let changed = selector.registry().reregister(&mut sockets[1], Token(1), Interest::READABLE).unwrap_err();
            check_eq("reregistering", changed.kind(), ErrorKind::NotFound);
            // The descriptor is open, and can be registered again.
            register(selector.registry(), &mut sockets[2], 8);
            check_eq("registered again", wait(&mut selector), tokens([8]));
            check_table(&selector);
            // The grandchild has only the registration that the child has made.
            in_child(|| {
                check_table(&selector);
                // If the kernel has copied the queue, the first datagram was already reported.
                send_to(&sockets[2]);
                check_eq("in the grandchild", wait(&mut selector), tokens([8]));
            });
        });
        wait_for_all(&mut selector, [0, 1, 2]);
        reap(child);
        check_table(&selector);
        // With another policy, the next child has the registration.
        fork::set_policy(&sockets[0], ForkPolicy::Inherit).unwrap();
        in_child(|| {
            check_table(&selector);
            check_eq("registrations", registrations().len(), 1);
        });
    }

    /// `renew_receivers` applies only to streams that belong to a pair made in this process, not to every stream with the
    /// token.
    fn renewed_receivers() {
        let selector = Poll::new().unwrap();
        let (end, _peer) = UnixStream::pair().unwrap();
        let mut receiver = UnixStream::from(end.as_fd().try_clone_to_owned().unwrap());
        let (mut stream, _peer) = connection();
        register(selector.registry(), &mut receiver, 7);
        register(selector.registry(), &mut stream, 7);
        fork::glue::renew_receivers(Token(7));
        let listed = |fd| registrations().iter().find(|listed| listed.fd == fd).map(|listed| listed.policy);
        check_eq("policy of the receiver", fork::policy(&receiver), Some(ForkPolicy::Renew));
        check_eq("listed policy of the receiver", listed(receiver.as_raw_fd()), Some(ForkPolicy::Renew));
        check_eq("policy of the other stream", fork::policy(&stream), Some(ForkPolicy::Inherit));
        check_eq("listed policy of the other stream", listed(stream.as_raw_fd()), Some(ForkPolicy::Inherit));
        let prepared = fork::prepare().unwrap();
        let private = prepared.private_descriptors();
        assert!(private.contains(&receiver.as_raw_fd()), "the fork renews the receiver");
        assert!(!private.contains(&stream.as_raw_fd()), "the fork leaves the other stream alone");
        prepared.abort();
    }

    /// `nudge_pair_end` succeeds even if the buffer of the end is full, because the end is then readable already.
    fn nudge() {
        let (end, mut peer) = UnixStream::pair().unwrap();
        for length in [4096, 1] {
            while peer.write(&[0; 4096][..length]).is_ok() {}
        }
        fork::glue::nudge_pair_end(&end).unwrap();
    }

    /// *Sever*: the child reads end of file, and the peer sees the end when the parent closes the connection.
    fn sever() {
        let mut selector = Poll::new().unwrap();
        let (mut stream, mut peer) = connection();
        register_with(selector.registry(), &mut stream, 1, ForkPolicy::Sever);
        let (mut sender, mut receiver) = pipe::new().unwrap();
        register(selector.registry(), &mut receiver, 2);
        selector.registry().register(&mut sender, Token(3), Interest::WRITABLE).unwrap();
        check_eq("writable", wait(&mut selector), tokens([3]));
        for end in [sender.as_raw_fd(), receiver.as_raw_fd()] {
            fork::set_policy(&end, ForkPolicy::Sever).unwrap();
        }
        peer.write_all(b"for the parent only").unwrap();
        let (severed, parent_closed) = Turn::both_ways();
        let child = fork_child(|| {
            let mut events = Events::with_capacity(8);
            selector.poll(&mut events, Some(limit())).unwrap();
            check_eq("the woken sources", events.iter().map(|event| event.token().0).collect(), tokens([1, 2, 3]));
            assert!(events.iter().all(|event| event.is_read_closed() || event.is_write_closed()));
            let mut buffer = [0; 32];
            check_eq("reading", stream.read(&mut buffer).unwrap(), 0);
            check_eq("writing", stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
            check_eq("reading the pipe", receiver.read(&mut buffer).unwrap(), 0);
            check_eq("writing the pipe", sender.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
            check_table(&selector);
            severed.give();
            parent_closed.wait();
            selector.registry().deregister(&mut stream).unwrap();
            check_table(&selector);
        });
        severed.wait();
        check_eq("the parent's event", wait(&mut selector), tokens([1]));
        let mut buffer = [0; 32];
        let read = stream.read(&mut buffer).unwrap();
        check_eq("the parent's bytes", &buffer[..read], b"for the parent only");
        stream.write_all(b"answer").unwrap();
        sender.write_all(b"y").unwrap();
        check_eq("the parent's pipe", receiver.read(&mut buffer).unwrap(), 1);
        selector.registry().deregister(&mut stream).unwrap();
        drop(stream);
        // The child still runs, and does not hold the connection open.
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        check_eq("what the peer saw", rest, b"answer".to_vec());
        parent_closed.give();
        reap(child);
    }

    /// *Renew*: the child gets its own pair, with the pending bytes, behind the descriptors of both ends and of a duplicate.
    /// tokio's signal pipe is such a pair.
    fn renew_pair() {
        let mut selector = Poll::new().unwrap();
        let (receiver, mut sender) = UnixStream::pair().unwrap();
        // SAFETY: the socket is open until the descriptor has been duplicated.
        let original = unsafe { BorrowedFd::borrow_raw(receiver.as_raw_fd()) };
        let duplicate = registered_with(
            selector.registry(),
            UnixStream::from(original.try_clone_to_owned().unwrap()),
            1,
            ForkPolicy::Renew,
        );
        assert!(fork::glue::can_renew(&duplicate.as_raw_fd()));
        sender.write_all(b"pending").unwrap();
        let (to_parent, to_child) = Turn::both_ways();
        let read = |mut from: &UnixStream| {
            let mut buffer = [0; 32];
            match from.read(&mut buffer) {
                Ok(read) => String::from_utf8_lossy(&buffer[..read]).into_owned(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => String::new(),
                Err(error) => panic!("reading: {error}"),
            }
        };
        let child = fork_child(|| {
            check_eq("pending at the fork", wait(&mut selector), tokens([1]));
            check_eq("by the duplicate", read(&duplicate).as_str(), "pending");
            sender.write_all(b"child").unwrap();
            check_eq("own bytes", wait(&mut selector), tokens([1]));
            check_eq("by the original", read(&receiver).as_str(), "child");
            to_parent.give();
            to_child.wait();
            check_eq("the parent's bytes", read(&receiver).as_str(), "");
            // The pair is renewed again.
            in_child(|| {
                sender.write_all(b"grandchild").unwrap();
                check_eq("own bytes", wait(&mut selector), tokens([1]));
                check_eq("by the duplicate", read(&duplicate).as_str(), "grandchild");
            });
            check_eq("the grandchild's bytes", read(&receiver).as_str(), "");
        });
        to_parent.wait();
        check_eq("pending at the fork", wait(&mut selector), tokens([1]));
        check_eq("by the original", read(&receiver).as_str(), "pending");
        sender.write_all(b"parent").unwrap();
        check_eq("own bytes", wait(&mut selector), tokens([1]));
        to_child.give();
        reap(child);
        check_eq("by the duplicate", read(&duplicate).as_str(), "parent");
    }

    /// A fork that would have to renew a connection returns an error that names the connection, and leaks no descriptor.
    fn renew_refused() {
        let selector = Poll::new().unwrap();
        let (mut stream, _peer) = connection();
        register_with(selector.registry(), &mut stream, 1, ForkPolicy::Renew);
        let descriptors = open_descriptors();
        let error = prepare().unwrap_err();
        check_eq("object", error.object(), PrepareObject::Pair(stream.as_raw_fd()));
        check_eq("kind", error.io_error().kind(), ErrorKind::Unsupported);
        check_eq("descriptors", open_descriptors(), descriptors);
        fork::set_policy(&stream, ForkPolicy::Sever).unwrap();
        in_child(|| {});
    }

    /// A registration without a policy follows the default of its kind, even if the program registered a bare descriptor.
    fn defaults_by_kind() {
        let selector = Poll::new().unwrap();
        let registry = selector.registry();
        let mut server = listener();
        let (mut stream, _peer) = connection();
        let mut datagrams = udp();
        let (mut pair, _other) = UnixDatagram::pair().unwrap();
        let process = Process::open(std::process::id()).unwrap();
        let files = inotify();
        let other_selector = Poll::new().unwrap();
        register(registry, &mut server, 1);
        register(registry, &mut stream, 2);
        register(registry, &mut datagrams, 3);
        register(registry, &mut pair, 4);
        let watched = [
            (5, Some(process.as_raw_fd())),
            (6, files.as_ref().map(AsRawFd::as_raw_fd)),
            (7, Some(other_selector.as_raw_fd())),
        ];
        for (token, fd) in watched {
            if let Some(fd) = fd {
                register(registry, &mut SourceFd(&fd), token);
            }
        }
        let is_watched = |token: &usize| *token != 6 || files.is_some();
        // The reactor must find the kind of this source from its descriptor.
        let (bare_stream, _bare_peer) = connection();
        let bare = bare_stream.as_raw_fd();
        register(registry, &mut SourceFd(&bare), 8);
        for (kind, policy) in [
            (SourceKind::Stream, ForkPolicy::Sever),
            (SourceKind::Datagram, ForkPolicy::NoFork),
            (SourceKind::Queue, ForkPolicy::NoFork),
        ] {
            check_eq("the reactor's default", fork::set_default_policy(kind, policy), ForkPolicy::Inherit);
        }
        check_eq("the default of pidfds", fork::default_policy(SourceKind::Process), ForkPolicy::NoFork);
        in_child(|| {
            check_table(&selector);
            let left: BTreeSet<usize> = registrations().iter().map(|registration| registration.token.0).collect();
            check_eq("the child's registrations", left, [1, 2, 4, 6, 8].into_iter().filter(is_watched).collect());
            let severed = |stream: &TcpStream| stream.peek(&mut [0; 1]).is_ok_and(|read| read == 0);
            assert!(severed(&stream) && severed(&bare_stream));
        });
        check_eq("the parent's registrations", registrations().len(), (1..=8).filter(is_watched).count());
        let kinds = [(5, SourceKind::Process), (6, SourceKind::Watch), (7, SourceKind::Queue), (8, SourceKind::Stream)];
        for (token, kind) in kinds.into_iter().filter(|(token, _)| is_watched(token)) {
            check_eq("kind", registrations().iter().find(|entry| entry.token.0 == token).unwrap().kind, Some(kind));
        }
    }

    /// A muted registration gives no events in this process, and is armed in the child. Changes take effect when it is
    /// unmuted.
    fn mute() {
        let mut selector = Poll::new().unwrap();
        let mut server = registered(selector.registry(), listener(), 1);
        fork::glue::mute(&server).unwrap();
        fork::glue::mute(&server).unwrap();
        let _first = connect(&server);
        check_silent("muted", &mut selector);
        in_child(|| {
            check_eq("armed in the child", wait(&mut selector), tokens([1]));
            check_table(&selector);
            assert!(!registrations()[0].muted);
            server.accept().unwrap();
        });
        check_silent("still muted", &mut selector);
        let again = selector.registry().register(&mut server, Token(5), Interest::READABLE).unwrap_err();
        check_eq("registering it again", again.kind(), ErrorKind::AlreadyExists);
        let fd = server.as_raw_fd();
        let again = selector.registry().register(&mut SourceFd(&fd), Token(5), Interest::READABLE).unwrap_err();
        check_eq("registering its descriptor", again.kind(), ErrorKind::AlreadyExists);
        selector.registry().reregister(&mut server, Token(2), Interest::READABLE).unwrap();
        let _second = connect(&server);
        check_silent("still muted", &mut selector);
        fork::glue::unmute(&server).unwrap();
        check_eq("unmuted", wait(&mut selector), tokens([2]));
        fork::glue::mute(&server).unwrap();
        selector.registry().deregister(&mut server).unwrap();
        check_eq("nothing to mute", fork::glue::mute(&server).unwrap_err().kind(), ErrorKind::NotFound);
        check_table(&selector);
    }

    /// A policy given at registration ends with that registration.
    fn register_with_policy() {
        let selector = Poll::new().unwrap();
        let mut socket = udp();
        let registry = selector.registry().try_clone().unwrap();
        register_with(&registry, &mut socket, 1, ForkPolicy::NoFork);
        check_eq("policy", fork::policy(&socket), Some(ForkPolicy::NoFork));
        in_child(|| check_eq("registrations", registrations().len(), 0));
        // The next registration follows the default.
        registry.deregister(&mut socket).unwrap();
        check_eq("policy", fork::policy(&socket), None);
        register(&registry, &mut socket, 1);
        check_eq("policy", fork::policy(&socket), Some(ForkPolicy::Inherit));
    }

    /// If one selector severs a descriptor that another one inherits, the descriptor is severed for both. If one end of a pair
    /// is renewed, the other end is renewed too, even if its policy is *no-fork*.
    fn conflicting_policies() {
        let mut severing = Poll::new().unwrap();
        let mut inheriting = Poll::new().unwrap();
        let (mut stream, mut peer) = connection();
        let fd = stream.as_raw_fd();
        register_with(severing.registry(), &mut stream, 1, ForkPolicy::Sever);
        register(inheriting.registry(), &mut SourceFd(&fd), 2);
        let (mut renewed, mut other_end) = UnixStream::pair().unwrap();
        let registry = severing.registry();
        register_with(registry, &mut renewed, 3, ForkPolicy::Renew);
        register_with(registry, &mut other_end, 4, ForkPolicy::NoFork);
        let (to_parent, to_child) = Turn::both_ways();
        let child = fork_child(|| {
            check_table(&severing);
            check_table(&inheriting);
            check_eq("severed", wait(&mut severing), tokens([1]));
            check_eq("severed in both", wait(&mut inheriting), tokens([2]));
            inheriting.registry().deregister(&mut SourceFd(&fd)).unwrap();
            severing.registry().deregister(&mut other_end).unwrap();
            to_parent.give();
            to_child.wait();
            check_silent("the parent's traffic", &mut inheriting);
            renewed.write_all(b"x").unwrap();
            check_silent("the end without a registration", &mut severing);
        });
        to_parent.wait();
        peer.write_all(b"for the parent").unwrap();
        check_eq("the parent's event", wait(&mut inheriting), tokens([2]));
        to_child.give();
        reap(child);
    }
);
