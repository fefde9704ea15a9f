//! Changes between prepare and the fork, and other descriptors, selectors and wakers that are closed or made again.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use forkio_tests::reactor::*;

/// A file with `text` in it, at the lowest free descriptor.
fn file_with(text: &str) -> File {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    File::from(std::os::fd::OwnedFd::from(reader))
}

/// Forks after `prepare`, and calls `close` in between. Both processes check that the queue and the table of `kept` agree. The
/// child checks that its new file is not replaced, that it has no other new descriptor, and that it can make a selector.
fn close_and_reuse(kept: Option<&Poll>, fd: i32, close: impl FnOnce()) {
    let open = open_descriptors();
    let blocked = fork::block_signals();
    let prepared = prepare().unwrap();
    close();
    let mut file = file_with("of this process");
    check_eq("the descriptor is used again", file.as_raw_fd(), fd);
    // SAFETY: signals are blocked, and this process has one thread.
    match unsafe { prepared.fork() }.unwrap() {
        ForkResult::Parent { child } => {
            reap(child.cast_signed());
            drop(blocked);
            kept.into_iter().for_each(check_table);
        }
        ForkResult::Child => {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            check_eq("the file", text.as_str(), "of this process");
            check_eq("descriptors", open_descriptors(), open);
            kept.into_iter().for_each(check_table);
            check_new_selector();
            exit_now(0);
        }
    }
}

scenarios!(
    /// A severed stream that is closed after prepare leaves its descriptor to the next file, in the child too.
    fn closed_stream() {
        let mut selector = Poll::new().unwrap();
        let _kept = registered(selector.registry(), listener(), 1);
        let (mut severed, _peer) = connection();
        register_with(selector.registry(), &mut severed, 2, ForkPolicy::Sever);
        close_and_reuse(Some(&selector), severed.as_raw_fd(), || drop(severed));
        check_silent("the selector", &mut selector);
    }

    /// The ends of a renewed pair that are closed after prepare leave their descriptors to the next files, registered or not.
    fn closed_pair() {
        let selector = Poll::new().unwrap();
        let (mut end, other_end) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut end, 1, ForkPolicy::Renew);
        close_and_reuse(Some(&selector), end.as_raw_fd(), || drop(end));
        drop(other_end);
        let (mut end, other_end) = UnixStream::pair().unwrap();
        register_with(selector.registry(), &mut end, 1, ForkPolicy::Renew);
        close_and_reuse(Some(&selector), other_end.as_raw_fd(), || drop(other_end));
    }

    /// A timer, a waker and an inherited socket that are closed after prepare leave their descriptors to the next files.
    fn closed_timer_waker_and_socket() {
        let selector = Poll::new().unwrap();
        let timer = registered(selector.registry(), Timer::new(Clock::Monotonic).unwrap(), 1);
        close_and_reuse(Some(&selector), timer.as_raw_fd(), || drop(timer));
        let before = open_descriptors();
        let waker = Waker::new(selector.registry(), Token(0)).unwrap();
        // A waker has one descriptor, two if it is a pipe, or none.
        let own: Vec<_> = open_descriptors().into_iter().filter(|fd| !before.contains(fd)).collect();
        let mut files = Vec::new();
        if let Some(last) = own.last() {
            close_and_reuse(Some(&selector), *last, || {
                drop(waker);
                files.extend(own[1..].iter().map(|_| file_with("")));
            });
        }
        drop(files);
        let socket = registered(selector.registry(), udp(), 2);
        // The duplicate keeps the socket open. Otherwise the kernel would end the registration itself.
        let _duplicate = socket.as_fd().try_clone_to_owned().unwrap();
        close_and_reuse(Some(&selector), socket.as_raw_fd(), || drop(socket));
    }

    /// A selector that is dropped after prepare leaves its descriptor to the next file, in the child too.
    fn dropped_selector() {
        let selector = Poll::new().unwrap();
        let mut socket = registered(selector.registry(), udp(), 1);
        close_and_reuse(None, selector.as_raw_fd(), || drop(selector));
        let selector = Poll::new().unwrap();
        register(selector.registry(), &mut socket, 1);
        fork::glue::retire_in_children(&socket).unwrap();
        close_and_reuse(None, selector.as_raw_fd(), || drop(selector));
    }

    /// A thread that holds forks off gets an error if it holds them off again or prepares a fork. Otherwise it would wait
    /// for itself.
    fn holding_off() {
        let held = fork::glue::hold_off().unwrap();
        assert!(fork::glue::hold_off().is_err());
        check_eq("preparing", prepare().unwrap_err().object(), PrepareObject::HeldOff);
        check_eq("preparing ahead", prepare_ahead().unwrap_err().object(), PrepareObject::HeldOff);
        drop(held);
        let prepared = prepare().unwrap();
        assert!(fork::glue::hold_off().is_err());
        prepared.abort();
        drop(fork::glue::hold_off().unwrap());
        in_child(|| check_eq("generation", generation(), 1));
    }

    /// Each fork determines the kind of a bare descriptor again, because a socket may have begun to listen.
    fn bare_socket_that_listens_later() {
        let selector = Poll::new().unwrap();
        fork::set_default_policy(SourceKind::Stream, ForkPolicy::Sever);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let fd = socket.as_raw_fd();
        selector.registry().register(&mut SourceFd(&fd), Token(1), Interest::READABLE).unwrap();
        in_child(|| check_eq("a stream is severed", socket.local_addr().unwrap().is_unix(), true));
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(8).unwrap();
        in_child(|| check_eq("a listener is inherited", socket.local_addr().unwrap().is_ipv4(), true));
    }

    /// A fork examines bare descriptors without causing an event, even for a pipe that has hung up.
    #[cfg(epoll)]
    fn bare_descriptor_that_hung_up() {
        let mut selector = Poll::new().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let fd = reader.as_raw_fd();
        selector.registry().register(&mut SourceFd(&fd), Token(7), Interest::READABLE).unwrap();
        // The descriptor is closed without being deregistered, and used again for a pipe that has hung up.
        drop(reader);
        let (reader, other_writer) = std::io::pipe().unwrap();
        check_eq("the descriptor is used again", reader.as_raw_fd(), fd);
        drop((writer, other_writer));
        for _ in 0..3 {
            in_child(|| check_eq("registrations", registrations().len(), 0));
        }
        check_silent("the parent", &mut selector);
    }

    /// A child can create a selector even if the parent, like a daemon, dropped its last one before the fork.
    fn last_selector_is_gone() {
        drop(Poll::new().unwrap());
        unplanned::in_child(|| {
            let mut selector = Poll::new().unwrap();
            let waker = Waker::new(selector.registry(), Token(3)).unwrap();
            check_wake(&waker, &mut selector, 3);
            in_child(|| check_table(&selector));
            check_eq("generation", generation(), 1);
        });
    }

    /// A source of a dropped selector is not registered with the next selector, even if the source's bare descriptor is.
    fn source_of_a_selector_that_is_gone() {
        let mut socket = udp();
        let fd = socket.as_raw_fd();
        let selector = Poll::new().unwrap();
        register(selector.registry(), &mut socket, 1);
        drop(selector);
        let selector = Poll::new().unwrap();
        register(selector.registry(), &mut SourceFd(&fd), 2);
        let refused = selector.registry().reregister(&mut socket, Token(3), Interest::WRITABLE);
        check_eq("reregister", refused.unwrap_err().kind(), ErrorKind::NotFound);
        let refused = selector.registry().deregister(&mut socket);
        check_eq("deregister", refused.unwrap_err().kind(), ErrorKind::NotFound);
        check_table(&selector);
    }

    /// A bare descriptor is registered and muted, and then moves to another owner. The child has its registration.
    fn given_away_while_muted() {
        let selector = Poll::new().unwrap();
        let (end, _other_end) = UnixStream::pair().unwrap();
        let fd = end.as_raw_fd();
        register(selector.registry(), &mut SourceFd(&fd), 1);
        fork::glue::mute(&fd).unwrap();
        let end: std::os::unix::net::UnixStream = end.into();
        in_child(|| check_eq("the child's registrations", registrations().len(), 1));
        drop(end);
    }

    /// Debug builds panic at a second waker, as mio does. After the first is dropped, another one can be made.
    fn one_waker() {
        let mut selector = Poll::new().unwrap();
        let waker = Waker::new(selector.registry(), Token(1)).unwrap();
        let second = std::panic::catch_unwind(|| Waker::new(selector.registry(), Token(2)));
        match second {
            Ok(result) => check_eq("in release builds", result.unwrap_err().kind(), ErrorKind::AlreadyExists),
            Err(_) => check_eq("a panic is for debug builds", cfg!(debug_assertions), true),
        }
        drop(waker);
        let waker = Waker::new(selector.registry(), Token(2)).unwrap();
        check_wake(&waker, &mut selector, 2);
    }
);
