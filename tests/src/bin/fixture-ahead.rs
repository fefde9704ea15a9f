//! Forks that were prepared ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use forkio::{Distribution, Fork, Listener, Prefork, ProcessRuntime};
use forkio_reactor::fork::{self, ForkPolicy, ForkResult, PrepareObject, SourceKind, atfork};
use forkio_reactor::fork::{is_prepared_ahead, prepare, prepare_ahead};
use forkio_reactor::net::{UnixDatagram, UnixStream};
use forkio_reactor::unix::{Clock, SourceFd, Timer, pipe};
use forkio_reactor::{Events, Interest, Poll, Token, Waker};
use forkio_tests::reactor::{in_child, udp};
use forkio_tests::{LIMIT, check_eq, fixture_main, foreign, open_descriptors, reap, watched_descriptors};

fn main() {
    fixture_main(&[
        ("is-used", is_used),
        ("what-gives-it-up", what_gives_it_up),
        ("what-changes-without-a-word", what_changes_without_a_word),
        ("closed-by-number", closed_by_number),
        ("muted", muted),
        ("muted-and-closed-by-number", muted_and_closed_by_number),
        ("in-an-executed-program", in_an_executed_program),
        ("after-a-plain-fork", after_a_plain_fork),
        ("fork-by-others", fork_by_others),
        ("hook-that-tags", hook_that_tags),
        ("interrupted", interrupted),
        ("no-descriptor-left", no_descriptor_left),
        ("limit-lowered", limit_lowered),
        ("nested", nested),
        ("threads", threads),
        ("runtime", runtime),
        ("runtime-with-threads", runtime_with_threads),
        ("prefork", || prefork(Prefork::new(), true)),
        ("prefork-unless-told-otherwise", || prefork(Prefork::new().prepare_ahead(false), false)),
        ("prefork-lets-go-of-workers", prefork_lets_go_of_workers),
        ("prefork-with-listeners-of-their-own", || {
            prefork(Prefork::new().distribution(Distribution::ReusePort), false);
        }),
    ]);
}

/// What a poll gives that does not wait, or at least one event if `some`.
fn tokens(selector: &mut Poll, some: bool) -> BTreeSet<usize> {
    let mut events = Events::with_capacity(16);
    selector.poll(&mut events, Some(if some { LIMIT } else { Duration::ZERO })).expect("polling");
    events.iter().map(|event| event.token().0).collect()
}

fn register(selector: &Poll, source: &mut dyn forkio_reactor::event::Source, token: usize, policy: ForkPolicy) {
    selector.registry().register_with_policy(source, Token(token), Interest::READABLE, policy).unwrap();
}

/// What is open under which number: a socket made anew is another one.
fn objects() -> BTreeMap<RawFd, PathBuf> {
    let link = |fd| (fd, std::fs::read_link(format!("/proc/self/fd/{fd}")).expect("reading a link"));
    open_descriptors().into_iter().map(link).collect()
}

/// The fork makes nothing anew, and nothing is left of what was made, in either process.
fn is_used() {
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut socket = udp();
    let (mut pair, _peer) = UnixStream::pair().unwrap();
    let (mut severed, _other) = UnixStream::pair().unwrap();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    register(&selector, &mut pair, 2, ForkPolicy::Renew);
    register(&selector, &mut severed, 3, ForkPolicy::Sever);
    let before = open_descriptors();
    for _ in 0..2 {
        check_eq("prepared", is_prepared_ahead(), false);
        prepare_ahead().unwrap();
        check_eq("prepared", is_prepared_ahead(), true);
        let with_spares = open_descriptors();
        // The queue, the waker, a pair and the dead end. (A kqueue is made in the child, and a waker may be a part of it.)
        let spares = if cfg!(not(epoll)) { 3..=5 } else { 5..=5 };
        assert!(spares.contains(&(with_spares.len() - before.len())), "{with_spares:?} after {before:?}");
        prepare_ahead().unwrap();
        check_eq("asked for twice", open_descriptors(), with_spares.clone());
        let objects = objects();
        let prepared = prepare().unwrap();
        check_eq("in the fork", self::objects(), objects);
        check_eq("in use", is_prepared_ahead(), false);
        prepared.abort();
        check_eq("after a fork that is not made", open_descriptors(), before.clone());
        prepare_ahead().unwrap();
        in_child(|| {
            check_eq("in the child", open_descriptors(), before.clone());
            check_eq("prepared", is_prepared_ahead(), false);
            socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
            waker.wake().unwrap();
            let mut seen = BTreeSet::new();
            while seen.len() < 3 {
                seen.append(&mut tokens(&mut selector, true));
            }
            check_eq("events", seen, BTreeSet::from([0, 1, 3]));
            socket.recv(&mut [0]).unwrap();
            // As its parent.
            prepare_ahead().unwrap();
            in_child(|| check_eq("in the grandchild", open_descriptors(), before.clone()));
        });
        check_eq("in the parent", open_descriptors(), before.clone());
    }
    // The datagrams are read, and what the children did with their wakers is theirs.
    check_eq("events of the parent", tokens(&mut selector, false).contains(&0), false);
}

/// Whatever changes what a child is to have; the next one has it as it is then.
fn what_gives_it_up() {
    let mut selector = Poll::new().unwrap();
    let mut socket = udp();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    let own = [selector.as_raw_fd(), socket.as_raw_fd()];
    let registry = selector.registry().try_clone().unwrap();
    let ahead = |what: &str, is_kept: bool, act: &mut dyn FnMut()| {
        prepare_ahead().unwrap();
        act();
        check_eq(what, is_prepared_ahead(), is_kept);
    };
    let mut timer = Timer::new(Clock::Monotonic).unwrap();
    let waker = Waker::new(&registry, Token(0)).unwrap();

    ahead("polling", true, &mut || drop(tokens(&mut selector, false)));
    ahead("waking", true, &mut || waker.wake().unwrap());
    ahead("sending", true, &mut || drop(socket.send_to(b"x", socket.local_addr().unwrap())));
    ahead("setting a timer", true, &mut || timer.set_after(Duration::from_secs(60), None).unwrap());
    ahead("looking", true, &mut || drop((fork::registrations(), fork::policy(&own[1]), fork::selectors())));
    ahead("a source that is not registered", true, &mut || drop(udp()));

    let mut other = Some(udp());
    ahead("registering", false, &mut || register(&selector, other.as_mut().unwrap(), 2, ForkPolicy::Inherit));
    ahead("registering in vain", false, &mut || {
        registry.register(&mut SourceFd(&own[1]), Token(3), Interest::READABLE).unwrap_err();
    });
    ahead("reregistering", false, &mut || {
        registry.reregister(other.as_mut().unwrap(), Token(2), Interest::WRITABLE).unwrap();
    });
    ahead("tagging", false, &mut || fork::set_policy(&own[1], ForkPolicy::NoFork).unwrap());
    ahead("a default", false, &mut || {
        let _before = fork::set_default_policy(SourceKind::Other, ForkPolicy::NoFork);
    });
    ahead("muting", false, &mut || fork::mute(&own[1]).unwrap());
    ahead("unmuting", false, &mut || fork::unmute(&own[1]).unwrap());
    ahead("exclusively", false, &mut || fork::set_exclusive(&own[1], true).unwrap());
    ahead("deregistering", false, &mut || registry.deregister(other.as_mut().unwrap()).unwrap());
    registry.register(other.as_mut().unwrap(), Token(2), Interest::READABLE).unwrap();
    ahead("closing what is registered", false, &mut || drop(other.take()));
    let mut stream = UnixDatagram::unbound().ok();
    registry.register(stream.as_mut().unwrap(), Token(4), Interest::READABLE).unwrap();
    let mut given = None;
    ahead("giving away", false, &mut || given = stream.take().map(OwnedFd::from));
    let given = given.unwrap();
    registry.deregister(&mut SourceFd(&given.as_raw_fd())).unwrap();
    let mut pair = None;
    ahead("a pair", false, &mut || pair = UnixStream::pair().ok());
    ahead("one that is for each process", false, &mut || {
        fork::renew_pair_in_children(&pair.as_ref().unwrap().0).unwrap();
    });
    ahead("half a pair", false, &mut || drop(pair.take()));
    let mut another = None;
    ahead("a timer", false, &mut || another = Timer::new(Clock::Monotonic).ok());
    ahead("a timer less", false, &mut || drop(another.take()));
    let mut more = None;
    ahead("a waker", false, &mut || more = Waker::new(&registry, Token(9)).ok());
    ahead("a waker less", false, &mut || drop(more.take()));
    let mut second = None;
    ahead("a selector", false, &mut || second = Poll::new().ok());
    ahead("a selector less", false, &mut || drop(second.take()));

    // All of it is in order.
    prepare_ahead().unwrap();
    in_child(|| {
        check_eq("no-fork", watched_descriptors(own[0]).iter().flatten().any(|(fd, _)| *fd == own[1]), false);
        check_eq("the wake", tokens(&mut selector, true), BTreeSet::from([0]));
        assert!(timer.remaining().is_some_and(|rest| rest > Duration::ZERO));
    });
    prepare_ahead().unwrap();
    fork::retire_in_children(&own[1]).unwrap();
    check_eq("retiring", is_prepared_ahead(), false);
}

/// What happens to renewed objects between the plan and the fork.
fn what_changes_without_a_word() {
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let (mut pair, mut peer) = UnixStream::pair().unwrap();
    let mut timers = [Timer::new(Clock::Monotonic).unwrap(), Timer::new(Clock::Monotonic).unwrap()];
    let (ready, read) = (udp(), udp());
    let mut sockets = [ready, read];
    register(&selector, &mut pair, 1, ForkPolicy::Renew);
    for (token, timer) in (2..).zip(&mut timers) {
        register(&selector, timer, token, ForkPolicy::Renew);
    }
    for (token, socket) in (4..).zip(&mut sockets) {
        register(&selector, socket, token, ForkPolicy::Inherit);
    }
    peer.write_all(b"ab").unwrap();
    timers[0].set_at(Duration::ZERO, None).unwrap();
    sockets[1].send_to(b"x", sockets[1].local_addr().unwrap()).unwrap();
    prepare_ahead().unwrap();
    waker.wake().unwrap();
    check_eq("reading", pair.read(&mut [0]).unwrap(), 1);
    peer.write_all(b"c").unwrap();
    let mut seen = BTreeSet::new();
    while !seen.is_superset(&BTreeSet::from([0, 1, 2, 5])) {
        seen.append(&mut tokens(&mut selector, true));
    }
    timers[0].expirations().unwrap();
    timers[1].set_at(Duration::ZERO, None).unwrap();
    sockets[1].recv(&mut [0]).unwrap();
    sockets[0].send_to(b"y", sockets[0].local_addr().unwrap()).unwrap();
    waker.wake().unwrap();
    check_eq("prepared", is_prepared_ahead(), true);
    in_child(|| {
        let mut seen = BTreeSet::new();
        while seen.len() < 4 {
            seen.append(&mut tokens(&mut selector, true));
        }
        check_eq("events", seen, BTreeSet::from([0, 1, 3, 4]));
        let mut both = [0; 3];
        check_eq("reading", pair.read(&mut both).unwrap(), 2);
        check_eq("what was pending", both, *b"bc\0");
        check_eq("taken", timers[0].expirations().unwrap_err().kind(), ErrorKind::WouldBlock);
        check_eq("expired", timers[1].expirations().unwrap(), 1);
        check_eq("read", sockets[1].recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        check_eq("sent", sockets[0].recv(&mut [0]).unwrap(), 1);
    });
    check_eq("the parent's", pair.read(&mut [0; 3]).unwrap(), 2);
    check_eq("the parent's", timers[1].expirations().unwrap(), 1);
}

/// A number that is closed behind the selector's back, and used again: the child is to have neither, also where the old
/// object lives on.
fn closed_by_number() {
    let mut selector = Poll::new().unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (other, _other_writer) = std::io::pipe().unwrap();
    let lives_on = reader.try_clone().unwrap();
    let number = reader.as_raw_fd();
    register(&selector, &mut SourceFd(&number), 1, ForkPolicy::Inherit);
    prepare_ahead().unwrap();
    // SAFETY: both are open, and the number goes on to have an owner.
    check_eq("taking the number", unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
    writer.write_all(b"x").unwrap();
    check_eq("prepared", is_prepared_ahead(), true);
    in_child(|| {
        check_eq("watched", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), Vec::new());
        check_eq("events", tokens(&mut selector, false), BTreeSet::new());
    });
    // The parent's queue still has the one that lives on: so it is with epoll.
    drop(lives_on);
}

/// What the parent has muted is no event of the waiting queue's either, and is armed in the child.
fn muted() {
    let mut selector = Poll::new().unwrap();
    let mut socket = udp();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    fork::mute(&socket).unwrap();
    prepare_ahead().unwrap();
    let spares = open_descriptors();
    for queue in spares.into_iter().filter(|fd| is_queue(*fd)) {
        check_eq("watched meanwhile", watched_descriptors(queue).unwrap_or_default(), Vec::new());
    }
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    in_child(|| {
        check_eq("events", tokens(&mut selector, true), BTreeSet::from([1]));
        socket.recv(&mut [0]).unwrap();
    });
    check_eq("events", tokens(&mut selector, false), BTreeSet::new());
}

/// The kernel does not have what is muted, and yet a fork finds out that it was closed: the child does not get what stands at
/// the number now.
fn muted_and_closed_by_number() {
    for is_ahead in [false, true] {
        let selector = Poll::new().unwrap();
        let [closed, kept, given] = [udp(), udp(), udp()];
        let [closed, kept] = [closed, kept].map(OwnedFd::from);
        let numbers = [closed.as_raw_fd(), kept.as_raw_fd(), given.as_raw_fd()];
        let mut given = given;
        for (token, number) in (1..).zip(&numbers[..2]) {
            register(&selector, &mut SourceFd(number), token, ForkPolicy::Inherit);
        }
        register(&selector, &mut given, 3, ForkPolicy::Inherit);
        numbers.iter().for_each(|number| fork::mute(number).unwrap());
        // Muted, and registered by number from now on.
        let given = OwnedFd::from(given);
        if is_ahead {
            prepare_ahead().unwrap();
        }
        let other = udp();
        // SAFETY: both are open, and the number goes on to have an owner.
        check_eq("taking the number", unsafe { libc::dup2(other.as_raw_fd(), numbers[0]) }, numbers[0]);
        check_eq("prepared", is_prepared_ahead(), is_ahead);
        in_child(|| {
            // Not every kernel lists it.
            if let Some(watched) = watched_descriptors(selector.as_raw_fd()) {
                let watched = BTreeSet::from_iter(watched.into_iter().map(|(fd, _)| fd));
                check_eq("watched", watched, BTreeSet::from([numbers[1], numbers[2]]));
            }
        });
        let listed = fork::registrations().into_iter().map(|registration| registration.fd);
        check_eq("listed", BTreeSet::from_iter(listed), BTreeSet::from([numbers[1], numbers[2]]));
        drop((closed, kept, given));
    }
}

fn is_queue(fd: RawFd) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{fd}"))
        .is_ok_and(|name| name.to_string_lossy() == "anon_inode:[eventpoll]")
}

/// It has none of the spares.
fn in_an_executed_program() {
    let selector = Poll::new().unwrap();
    let _waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let (mut pair, _peer) = UnixStream::pair().unwrap();
    register(&selector, &mut pair, 1, ForkPolicy::Renew);
    let before = open_descriptors();
    prepare_ahead().unwrap();
    for fd in open_descriptors().into_iter().filter(|fd| !before.contains(fd)) {
        // SAFETY: no memory is involved.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        check_eq("close-on-exec", flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

/// A child of a fork that nobody prepared has its parent's plan in its memory, and does not follow it.
fn after_a_plain_fork() {
    let mut selector = Poll::new().unwrap();
    let mut socket = udp();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    let before = open_descriptors();
    prepare_ahead().unwrap();
    reap(foreign::fork_child(|| {
        check_eq("prepared", is_prepared_ahead(), false);
        let inherited = open_descriptors();
        in_child(|| {
            // Its own queue, not the one that the first process's next child has.
            check_eq("open", open_descriptors(), inherited.clone());
            selector.registry().deregister(&mut socket).unwrap();
        });
    }));
    check_eq("prepared", is_prepared_ahead(), true);
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    in_child(|| check_eq("events", tokens(&mut selector, true), BTreeSet::from([1])));
    // What such a child has at the numbers meanwhile is not the plan's.
    prepare_ahead().unwrap();
    reap(foreign::fork_child(|| {
        for fd in open_descriptors().iter().filter(|fd| !before.contains(fd)) {
            // SAFETY: the plan's, which is given up below; what is put in its place is this child's own.
            check_eq("reusing a number", unsafe { libc::dup2(2, *fd) }, *fd);
        }
        let inherited = open_descriptors();
        let mut timer = Timer::new(Clock::Monotonic).unwrap();
        timer.disarm().unwrap();
        drop(timer);
        check_eq("open", open_descriptors(), inherited);
    }));
    in_child(|| check_eq("events", tokens(&mut selector, true), BTreeSet::from([1])));
}

/// With the handlers installed they follow the plan as a fork of ours does.
fn fork_by_others() {
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let mut socket = udp();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    let before = open_descriptors();
    prepare_ahead().unwrap();
    reap(foreign::fork_child(|| {
        check_eq("generation", fork::generation(), 1);
        check_eq("open", open_descriptors(), before.clone());
        selector.registry().deregister(&mut socket).unwrap();
    }));
    check_eq("prepared", is_prepared_ahead(), false);
    check_eq("open", open_descriptors(), before);
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    check_eq("events", tokens(&mut selector, true), BTreeSet::from([1]));
}

/// The hook of such a fork tags, which gives the plan up; the child is as tagged.
fn hook_that_tags() {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    atfork::install().unwrap();
    let hooks = atfork::Hooks {
        before: || {
            let number = NUMBER.load(Ordering::Relaxed) as RawFd;
            fork::set_policy(&number, ForkPolicy::NoFork).expect("tagging");
        },
        first_poll: || (),
    };
    check_eq("hooks", atfork::set_hooks(hooks), true);
    let selector = Poll::new().unwrap();
    let mut socket = udp();
    NUMBER.store(socket.as_raw_fd() as usize, Ordering::Relaxed);
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    prepare_ahead().unwrap();
    reap(foreign::fork_child(|| {
        check_eq("watched", watched_descriptors(selector.as_raw_fd()).unwrap_or_default(), Vec::new());
    }));
}

/// A fork in a signal handler that interrupts a thread with the plan, and may not touch it.
fn interrupted() {
    extern "C" fn fork_here(_: libc::c_int) {
        // SAFETY: one thread; the child ends at once.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(i32::from(atfork::failure().is_none()));
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            FAILED.store(status != 0, Ordering::Relaxed);
        }
    }
    static FAILED: AtomicBool = AtomicBool::new(true);
    atfork::install().unwrap();
    let handler: extern "C" fn(libc::c_int) = fork_here;
    // SAFETY: the handler does what it may in a program of one thread.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    let mut selector = Poll::new().unwrap();
    let mut socket = udp();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    prepare_ahead().unwrap();
    let held = fork::hold_off();
    // SAFETY: this process, and a signal that is handled.
    unsafe { libc::raise(libc::SIGUSR1) };
    drop(held);
    check_eq("the child without a queue", FAILED.load(Ordering::Relaxed), false);
    check_eq("prepared", is_prepared_ahead(), true);
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    in_child(|| check_eq("events", tokens(&mut selector, true), BTreeSet::from([1])));
}

/// The number that the next descriptor gets.
fn lowest_unused() -> libc::rlim_t {
    let (reader, _writer) = std::io::pipe().unwrap();
    reader.as_raw_fd() as libc::rlim_t
}

fn set_descriptor_limit(limit: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: 1024 };
    // SAFETY: the kernel reads the limit.
    check_eq("setting the limit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Looking ahead may fail, which is all there is to it.
fn no_descriptor_left() {
    let selector = Poll::new().unwrap();
    let _waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut socket = udp();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    let before = open_descriptors();
    // Room for the queue, and not for the waker.
    set_descriptor_limit(lowest_unused() + 1);
    let error = prepare_ahead().unwrap_err();
    assert!(matches!(error.object(), PrepareObject::Waker(_)), "{error}");
    set_descriptor_limit(1024);
    check_eq("prepared", is_prepared_ahead(), false);
    check_eq("open", open_descriptors(), before);
    selector.registry().deregister(&mut socket).unwrap();
    in_child(|| ());
}

/// What is still missing cannot be made any more: the fork is refused, and nothing is left of the plan.
fn limit_lowered() {
    let selector = Poll::new().unwrap();
    let mut timer = Timer::new(Clock::Monotonic).unwrap();
    register(&selector, &mut timer, 1, ForkPolicy::Renew);
    let before = open_descriptors();
    prepare_ahead().unwrap();
    set_descriptor_limit(lowest_unused());
    let error = prepare().unwrap_err();
    check_eq("what is missing", error.object(), PrepareObject::Timer(timer.as_raw_fd()));
    set_descriptor_limit(1024);
    check_eq("open", open_descriptors(), before);
    in_child(|| ());
}

/// Inside a fork there is no looking ahead.
fn nested() {
    let selector = Poll::new().unwrap();
    let prepared = prepare().unwrap();
    check_eq("nested", prepare_ahead().unwrap_err().object(), PrepareObject::NestedFork);
    prepared.abort();
    prepare_ahead().unwrap();
    drop(selector);
    check_eq("prepared", is_prepared_ahead(), false);
}

/// Others register all the time: what they do waits for nobody, and a child has what is registered when it is forked.
fn threads() {
    const ROUNDS: usize = 200;
    let selector = Arc::new(Poll::new().unwrap());
    let mut socket = udp();
    register(&selector, &mut socket, 1, ForkPolicy::Inherit);
    let is_over = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let others = [0, 1].map(|thread| {
        let (selector, is_over, count) = (Arc::clone(&selector), Arc::clone(&is_over), Arc::clone(&count));
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let (_sender, mut receiver) = pipe::new().unwrap();
                selector.registry().register(&mut receiver, Token(10 + thread), Interest::READABLE).unwrap();
                selector.registry().deregister(&mut receiver).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let mut used = 0;
    for _ in 0..ROUNDS {
        prepare_ahead().unwrap();
        used += usize::from(is_prepared_ahead());
        // SAFETY: the child uses nothing that the other threads may have locked, and ends at once.
        match unsafe { fork::fork() }.expect("forking") {
            ForkResult::Child => {
                let watched = fork::registrations().len();
                let is_well = (1..=3).contains(&watched) && fork::policy(&socket).is_some();
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(i32::from(!is_well)) };
            }
            ForkResult::Parent { child } => reap(child),
        }
    }
    is_over.store(true, Ordering::Relaxed);
    for other in others {
        other.join().unwrap();
    }
    assert!(count.load(Ordering::Relaxed) > 0 && used > 0, "nobody registered, or no plan was seen");
}

/// How many forks there were, and whether the last one was prepared ahead: as of right before it.
static FORKS: AtomicUsize = AtomicUsize::new(0);
static WAS_AHEAD: AtomicBool = AtomicBool::new(false);

fn note_forks() {
    forkio::before_fork(|| {
        FORKS.fetch_add(1, Ordering::Relaxed);
        WAS_AHEAD.store(is_prepared_ahead(), Ordering::Relaxed);
        Ok(())
    });
}

/// A supervisor of one's own: the waiting, and the end of what it waits for, change nothing.
fn runtime() {
    note_forks();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1()).unwrap();
        let before = open_descriptors();
        let mut previous = None;
        for round in 0..4 {
            let mut child = match forkio::fork().await.expect("forking") {
                Fork::Parent(child) => child,
                Fork::Child(_) => {
                    check_eq("this one was prepared", WAS_AHEAD.load(Ordering::Relaxed), round > 0);
                    check_eq("the next is not", is_prepared_ahead(), false);
                    // SAFETY: this process, and a signal that is handled.
                    unsafe { libc::raise(libc::SIGUSR1) };
                    signal.recv().await.expect("a signal");
                    let connect = tokio::spawn(tokio::net::TcpStream::connect(address));
                    listener.accept().await.expect("a connection");
                    connect.await.expect("a task").expect("connecting");
                    std::process::exit(0);
                }
            };
            drop(previous.take());
            child.watch().unwrap();
            forkio::prepare_ahead().unwrap();
            check_eq("the child", child.wait().await.unwrap().code(), Some(0));
            check_eq("after its end", is_prepared_ahead(), true);
            check_eq("of the dead", (child.watch().is_ok(), child.kill().is_ok()), (true, false));
            previous = Some(child);
        }
        drop(previous);
        check_eq("without the handle", is_prepared_ahead(), false);
        check_eq("open", open_descriptors(), before);
        // Another process's.
        let Fork::Parent(mut child) = forkio::fork().await.expect("forking") else { std::process::exit(0) };
        match forkio::fork().await.expect("forking") {
            Fork::Child(_) => {
                assert!(child.watch().is_err(), "watching another process's child");
                std::process::exit(0);
            }
            Fork::Parent(mut other) => check_eq("the other", other.wait().await.unwrap().code(), Some(0)),
        }
        check_eq("the child", child.wait().await.unwrap().code(), Some(0));
    });
}

/// Outside of the runtime, whose threads go on.
fn runtime_with_threads() {
    static RUNTIME: ProcessRuntime =
        ProcessRuntime::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build());
    note_forks();
    RUNTIME.block_on(async { tokio::task::yield_now().await }).unwrap();
    forkio::prepare_ahead().unwrap();
    // SAFETY: the child uses nothing but the runtime that it builds, and exits.
    match unsafe { forkio::fork_with_threads() }.expect("forking") {
        Fork::Child(_) => {
            check_eq("prepared", WAS_AHEAD.load(Ordering::Relaxed), true);
            RUNTIME.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await }).unwrap();
            std::process::exit(0);
        }
        Fork::Parent(mut child) => {
            let status = RUNTIME.block_on(child.wait()).unwrap().unwrap();
            check_eq("the child", status.code(), Some(0));
        }
    }
}

/// Two workers, one of which ends and is replaced. The one that takes its place ends the server.
fn prefork(prefork: Prefork, is_ahead: bool) {
    note_forks();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stopped = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parent = std::process::id();
        let prefork = prefork.listener(listener).workers(2);
        let work = |mut worker: forkio::Worker| async move {
            let forks = FORKS.load(Ordering::Relaxed);
            check_eq("prepared", WAS_AHEAD.load(Ordering::Relaxed), is_ahead && forks > 2);
            match (worker.index(), forks) {
                (0, 1) => {}
                (0, _) => {
                    check_eq("forks", forks, 3);
                    let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { panic!("no listener") };
                    let connect = tokio::spawn(tokio::net::TcpStream::connect(address));
                    if is_ahead {
                        worker.acceptor(listener).accept().await.expect("a connection");
                    }
                    connect.await.expect("a task").expect("connecting");
                    // SAFETY: the parent, which stops.
                    unsafe { libc::kill(parent.cast_signed(), libc::SIGTERM) };
                    worker.shutdown().await;
                }
                _ => worker.shutdown().await,
            }
        };
        prefork.run(work).await.expect("a server that runs")
    });
    check_eq("the server's exit code", stopped.exit_code(), 0);
    check_eq("how it was forked", FORKS.load(Ordering::Relaxed), 3);
}

/// While one worker or another is always due, handles of those that have ended do not pile up.
fn prefork_lets_go_of_workers() {
    const WORKERS: usize = 3;
    static MOST: AtomicUsize = AtomicUsize::new(0);
    forkio::before_fork(|| {
        MOST.fetch_max(open_descriptors().len(), Ordering::Relaxed);
        Ok(())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let before = open_descriptors().len();
    let prefork = Prefork::new().workers(WORKERS).crash_limit(5);
    let error = runtime.block_on(prefork.run(async |_| -> u8 { 3 })).expect_err("a crash loop");
    check_eq("exit code", error.exit_code(), 3);
    // What watches a worker, for those that run, and those that have ended since the last fork; and what the server has.
    let most = MOST.load(Ordering::Relaxed);
    assert!(most <= before + 2 * WORKERS + 4, "{most} descriptors, {before} before");
}
