//! Scenarios of [`forkio_reactor::fork::atfork`]: the bare reactor, and forks that a C library makes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use forkio_reactor::event::Source;
use forkio_reactor::fork::atfork::{self, Hooks};
use forkio_reactor::fork::{
    self, ForkPolicy, ForkResult, PrepareObject, generation, parent, prepare, registrations, selectors,
};
use forkio_reactor::net::{TcpListener, UdpSocket, UnixStream};
use forkio_reactor::{Events, Interest, Poll, Registry, Token, Waker};
use forkio_tests::reactor::{check_table, connect, connection, listener, tokens, udp};
use forkio_tests::{Turn, check_eq, fixture_main, foreign, is_kernel, open_descriptors, reap, wait_until};

const LONG: Option<Duration> = Some(Duration::from_secs(60));
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

fn main() {
    fixture_main(&[
        ("policies", policies),
        ("mixed", mixed),
        ("prepared-by-hand", prepared_by_hand),
        ("daemon", daemon),
        ("exec", exec),
        ("no-selectors", no_selectors),
        ("failed-prepare", failed_prepare),
        ("refused-policy", refused_policy),
        ("whose-failure", whose_failure),
        ("spawning-pays-nothing", spawning_pays_nothing),
        ("first-poll", first_poll),
        ("threads", threads),
        ("waiting-for-each-other", waiting_for_each_other),
        ("another-thread", another_thread),
        ("signal-handler", signal_handler),
        ("interrupted-with-the-lock", interrupted_with_the_lock),
        ("interrupted-while-registering", interrupted_while_registering),
        ("handlers-of-others", handlers_of_others),
        ("fork-in-a-handler", fork_in_a_handler),
        ("signals-wait", signals_wait),
        ("commit-allocates-nothing", commit_allocates_nothing),
        ("list-descriptors", list_descriptors),
        ("cost", cost),
    ]);
}

/// An allocator that sends this process a signal, or ends it, when it is told to.
struct Watched;

/// Sent before the next allocation; 0: none.
static SIGNAL_AT_ALLOCATION: AtomicI32 = AtomicI32::new(0);
static MAY_ALLOCATE: AtomicBool = AtomicBool::new(true);

// SAFETY: passes on to the system's allocator, or ends the process.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        notice();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        notice();
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn notice() {
    if !MAY_ALLOCATE.load(Ordering::Relaxed) && !is_kernel() {
        std::process::abort();
    }
    let signal = SIGNAL_AT_ALLOCATION.swap(0, Ordering::Relaxed);
    if signal != 0 {
        raise(signal);
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn raise(signal: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// Tokens of the events of one poll.
fn poll(poll: &mut Poll, timeout: Option<Duration>) -> BTreeSet<usize> {
    let mut events = Events::with_capacity(64);
    while let Err(error) = poll.poll(&mut events, timeout) {
        assert_eq!(error.kind(), ErrorKind::Interrupted, "polling: {error}");
    }
    events.iter().map(|event| event.token().0).collect()
}

fn poll_error(poll: &mut Poll) -> Option<i32> {
    poll.poll(&mut Events::with_capacity(8), LONG).expect_err("a poisoned selector").raw_os_error()
}

fn register(registry: &Registry, source: &mut impl Source, token: usize) {
    registry.register(source, Token(token), Interest::READABLE).unwrap();
}

/// A foreign fork follows every policy, as one of ours does.
fn policies() {
    atfork::install().unwrap();
    // Once more does nothing: two prepares would wait for each other.
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    let mut left_out = udp();
    register(selector.registry(), &mut left_out, 2);
    fork::set_policy(&left_out, ForkPolicy::NoFork).unwrap();
    let (mut severed, mut peer) = connection();
    register(selector.registry(), &mut severed, 3);
    fork::set_policy(&severed, ForkPolicy::Sever).unwrap();
    let (mut pair, mut other_end) = UnixStream::pair().unwrap();
    register(selector.registry(), &mut pair, 4);
    fork::set_policy(&pair, ForkPolicy::Renew).unwrap();
    let mut muted = listener();
    register(selector.registry(), &mut muted, 5);
    fork::mute(&muted).unwrap();
    waker.wake().unwrap();
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let before = open_descriptors();

    let child = foreign::fork_child(|| {
        check_eq("generation", generation(), 1);
        check_eq("parent", parent(), Some(std::os::unix::process::parent_id()));
        assert!(atfork::failure().is_none());
        check_table(selector.as_raw_fd());
        check_eq("what is ready at once", poll(&mut selector, LONG), tokens([0, 3]));
        check_eq("the severed end", severed.read(&mut [0; 8]).unwrap(), 0);
        // Neither felt by the parent.
        waker.wake().unwrap();
        other_end.write_all(b"child").unwrap();
        check_eq("the child's own", poll(&mut selector, LONG), tokens([0, 4]));
        check_eq("what came through the pair", pair.read(&mut [0; 8]).unwrap(), 5);
        let _client = connect(&muted);
        check_eq("muted in the parent alone", poll(&mut selector, LONG), tokens([5]));
        selector.registry().deregister(&mut server).unwrap();
        selector.registry().register(&mut left_out, Token(9), Interest::READABLE).unwrap();
        check_table(selector.as_raw_fd());
        to_parent.give();
        to_child.wait();
    });
    check_eq("the pending wake", poll(&mut selector, LONG), tokens([0]));
    to_parent.wait();
    check_eq("what the child did", poll(&mut selector, SHORT), tokens([]));
    check_eq("generation", generation(), 0);
    check_table(selector.as_raw_fd());
    let client = connect(&server);
    check_eq("the listener", poll(&mut selector, LONG), tokens([1]));
    // The child has let go of the connection, and goes on living.
    peer.write_all(b"to the parent").unwrap();
    check_eq("the connection", poll(&mut selector, LONG), tokens([3]));
    check_eq("the bytes", severed.read(&mut [0; 64]).unwrap(), 13);
    drop(severed);
    check_eq("the end", peer.read(&mut [0; 8]).unwrap(), 0);
    to_child.give();
    reap(child);
    drop(client);
    assert!(open_descriptors().iter().all(|fd| before.contains(fd)), "prepared objects are left");
}

/// Forks of ours and of others, in each other's children, all combinations down to the fourth generation.
fn mixed() {
    fn descend(selector: &mut Poll, waker: &Waker, server: &TcpListener, depth: u32) {
        check_eq("generation", generation(), depth);
        if depth > 0 {
            check_eq("parent", parent(), Some(std::os::unix::process::parent_id()));
        }
        check_table(selector.as_raw_fd());
        waker.wake().unwrap();
        check_eq("the waker", poll(selector, LONG), tokens([0]));
        check_eq("nothing else", poll(selector, SHORT), tokens([]));
        if depth == 4 {
            return;
        }
        reap(foreign::fork_child(|| descend(selector, waker, server, depth + 1)));
        // SAFETY: one thread.
        match unsafe { fork::fork() }.unwrap() {
            ForkResult::Parent { child } => reap(child),
            ForkResult::Child => {
                descend(selector, waker, server, depth + 1);
                std::process::exit(0);
            }
        }
        let _client = connect(server);
        check_eq("the listener", poll(selector, LONG), tokens([1]));
        drop(server.accept().unwrap());
    }
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    descend(&mut selector, &waker, &server, 0);
}

/// Who has prepared a fork ends it: the handlers leave it alone.
fn prepared_by_hand() {
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let prepared = prepare().unwrap();
    match foreign::fork() {
        None => {
            // SAFETY: the child of a fork after `prepare`.
            unsafe { prepared.commit() };
            check_eq("generation", generation(), 1);
            check_table(selector.as_raw_fd());
            waker.wake().unwrap();
            check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
            std::process::exit(0);
        }
        Some(child) => {
            prepared.abort();
            reap(child);
        }
    }
    check_eq("the child's wake", poll(&mut selector, SHORT), tokens([]));
    reap(foreign::fork_child(|| check_table(selector.as_raw_fd())));
}

/// The daemon goes on with what its grandparent had; that one lives on here, to see that it is not disturbed.
fn daemon() {
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    let (done, turn) = (Turn::new().unwrap(), Turn::new().unwrap());
    if foreign::daemon() {
        // SAFETY: no memory is involved. It is in a session of its own, so nobody else would end it if it hung.
        unsafe { libc::alarm(100) };
        check_eq("generation", generation(), 2);
        check_table(selector.as_raw_fd());
        check_eq("a client", poll(&mut selector, LONG), tokens([1]));
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
    check_eq("who serves", &name, b"daemon");
    done.wait();
    // Neither the client, which the daemon has taken, nor the daemon's wake.
    check_eq("what the daemon did", poll(&mut selector, SHORT), tokens([]));
    check_table(selector.as_raw_fd());
    turn.give();
}

/// A fork for another program: nothing of ours is open there, and nothing of ours has changed here.
fn exec() {
    let descriptors = format!("{:?}", open_descriptors());
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let (mut severed, _peer) = connection();
    register(selector.registry(), &mut severed, 1);
    fork::set_policy(&severed, ForkPolicy::Sever).unwrap();
    let program = std::env::current_exe().unwrap();
    for _ in 0..10 {
        check_eq("the program", foreign::run(program.to_str().unwrap(), &["list-descriptors", &descriptors]), 0);
    }
    check_eq("a program that is not there", foreign::run("/nonexistent", &[]), 127 << 8);
    check_table(selector.as_raw_fd());
    waker.wake().unwrap();
    check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
}

/// Run by other scenarios as a program of its own, which has what they were started with.
fn list_descriptors() {
    let expected = std::env::args().nth(2).unwrap_or_default();
    check_eq("descriptors", format!("{:?}", open_descriptors()), expected);
}

/// A fork before there is any selector; and selectors made in the child.
fn no_selectors() {
    atfork::install().unwrap();
    let child = || {
        check_eq("generation", generation(), 1);
        check_eq("selectors", selectors(), 0);
        let mut selector = Poll::new().unwrap();
        let waker = Waker::new(selector.registry(), Token(0)).unwrap();
        waker.wake().unwrap();
        check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
        reap(foreign::fork_child(|| check_table(selector.as_raw_fd())));
    };
    reap(foreign::fork_child(child));
    drop(Poll::new().unwrap());
    reap(foreign::fork_child(child));
}

/// Opens descriptors until there is none left.
fn use_up_descriptors() -> Vec<File> {
    let limits = libc::rlimit { rlim_cur: 512, rlim_max: 512 };
    // SAFETY: the kernel reads `limits`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limits) }, 0);
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// The fork goes ahead without its preparation. The child cannot poll, and the parent does not notice.
fn failed_prepare() {
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    // What a child needs a fresh object for, whatever the kernel.
    let (mut severed, _peer) = connection();
    register(selector.registry(), &mut severed, 6);
    fork::set_policy(&severed, ForkPolicy::Sever).unwrap();
    let mut second = udp();
    let mut dropped = Some(udp());
    register(selector.registry(), dropped.as_mut().unwrap(), 5);
    let queue = selector.as_raw_fd();
    let before = open_descriptors();
    let turn = Turn::new().unwrap();
    let mut fillers = use_up_descriptors();
    let child = foreign::fork_child(|| {
        check_eq("generation", generation(), 1);
        for _ in 0..3 {
            check_eq("polling", poll_error(&mut selector), Some(libc::EMFILE));
        }
        let failure = atfork::failure().expect("a reason");
        let (object, dead_endpoint) = (failure.object(), PrepareObject::DeadEndpoint(severed.as_raw_fd()));
        // A kqueue is made in the child.
        let is_queue = object == PrepareObject::Queue(queue);
        let is_other = object == dead_endpoint || matches!(object, PrepareObject::Waker(_));
        assert!(if cfg!(forkio_kqueue) { is_other } else { is_queue }, "what was being made: {object:?}");
        assert!(failure.to_string().contains("RLIMIT_NOFILE"), "{failure}");
        // None of it reaches the parent.
        waker.wake().unwrap();
        let error = selector.registry().register(&mut second, Token(2), Interest::READABLE).unwrap_err();
        check_eq("registering", error.raw_os_error(), Some(libc::EMFILE));
        let error = selector.registry().reregister(&mut server, Token(3), Interest::READABLE).unwrap_err();
        check_eq("reregistering", error.raw_os_error(), Some(libc::EMFILE));
        check_eq("muting", fork::mute(&server).unwrap_err().raw_os_error(), Some(libc::EMFILE));
        selector.registry().deregister(&mut server).unwrap();
        drop(dropped.take());
        // Its own children have what it has: nothing. What they make anew works.
        fillers.clear();
        reap(foreign::fork_child(|| {
            check_eq("generation", generation(), 2);
            check_eq("polling", poll_error(&mut selector), Some(libc::EMFILE));
            waker.wake().unwrap();
            let mut fresh = Poll::new().unwrap();
            register(fresh.registry(), &mut second, 4);
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            sender.send_to(b"x", second.local_addr().unwrap()).unwrap();
            check_eq("a selector made here", poll(&mut fresh, LONG), tokens([4]));
        }));
        turn.give();
    });
    turn.wait();
    fillers.clear();
    check_table(queue);
    check_eq("what the child did", poll(&mut selector, SHORT), tokens([]));
    reap(child);
    check_eq("generation", generation(), 0);
    assert!(atfork::failure().is_none());
    drop(turn);
    check_eq("descriptors", open_descriptors(), before);
    waker.wake().unwrap();
    check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
    reap(foreign::fork_child(|| check_table(queue)));
}

/// As [`failed_prepare`], where the reason is not an error of the system's.
fn refused_policy() {
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let mut socket = udp();
    register(selector.registry(), &mut socket, 1);
    fork::set_policy(&socket, ForkPolicy::Renew).unwrap();
    let child = foreign::fork_child(|| {
        check_eq("polling", poll_error(&mut selector), Some(libc::EOPNOTSUPP));
        let failure = atfork::failure().expect("a reason");
        check_eq("what was being made", failure.object(), PrepareObject::Pair(socket.as_raw_fd()));
        assert!(failure.to_string().contains("give it another policy"), "{failure}");
    });
    reap(child);
    check_table(selector.as_raw_fd());
    fork::set_policy(&socket, ForkPolicy::Inherit).unwrap();
    reap(foreign::fork_child(|| check_table(selector.as_raw_fd())));
}

/// A failure is a process's own, and its children's for as long as they have what it was about.
fn whose_failure() {
    atfork::install().unwrap();
    let selector = Poll::new().unwrap();
    let mut socket = udp();
    register(selector.registry(), &mut socket, 1);
    fork::set_policy(&socket, ForkPolicy::Renew).unwrap();
    let has_failed = || atfork::failure().is_some();
    reap(foreign::fork_child(|| {
        assert!(has_failed());
        selector.registry().deregister(&mut socket).unwrap();
        reap(foreign::fork_child(|| {
            assert!(has_failed(), "of a selector that cannot be polled");
            let mut selector = selector;
            check_eq("polling", poll_error(&mut selector), Some(libc::EOPNOTSUPP));
        }));
    }));
    let selector = Poll::new().unwrap();
    let mut socket = udp();
    register(selector.registry(), &mut socket, 1);
    fork::set_policy(&socket, ForkPolicy::Renew).unwrap();
    reap(foreign::fork_child(|| {
        drop((selector, socket));
        assert!(has_failed(), "it is how this process was made");
        let mut fresh = Poll::new().unwrap();
        reap(foreign::fork_child(|| {
            assert!(!has_failed(), "the fork was prepared");
            check_eq("polling", poll(&mut fresh, SHORT), tokens([]));
        }));
        // SAFETY: one thread.
        match unsafe { fork::fork() }.unwrap() {
            fork::ForkResult::Child => std::process::exit(i32::from(has_failed())),
            fork::ForkResult::Parent { child } => reap(child),
        }
        assert!(has_failed());
    }));
}

static PREPARED: AtomicU32 = AtomicU32::new(0);
static FIRST_POLLS: AtomicU32 = AtomicU32::new(0);

const COUNTING: Hooks = Hooks {
    before: || {
        PREPARED.fetch_add(1, Ordering::Relaxed);
    },
    first_poll: || {
        FIRST_POLLS.fetch_add(1, Ordering::Relaxed);
    },
};

fn prepared() -> u32 {
    PREPARED.load(Ordering::Relaxed)
}

/// Programs that are started without fork(2) cost nothing; those that do pay, and are well.
fn spawning_pays_nothing() {
    let descriptors = format!("{:?}", open_descriptors());
    assert!(atfork::set_hooks(COUNTING) && !atfork::set_hooks(COUNTING));
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let program = std::env::current_exe().unwrap();
    let command = || {
        let mut command = Command::new(&program);
        command.args(["list-descriptors", &descriptors]);
        command
    };
    for _ in 0..3 {
        assert!(command().status().unwrap().success());
        assert!(command().current_dir("/").env("A", "b").process_group(0).status().unwrap().success());
    }
    // SAFETY: the command is a string, and nobody handles SIGCHLD.
    check_eq("system(3)", unsafe { libc::system(c"exit 3".as_ptr()) }, 3 << 8);
    check_eq("forks prepared", prepared(), 0);

    let selectors_of_its_own = || {
        // In the child, before exec.
        if generation() == 1 && atfork::failure().is_none() { Ok(()) } else { Err(ErrorKind::Other.into()) }
    };
    let mut with_hook = command();
    // SAFETY: the hook reads two atomics.
    unsafe { with_hook.pre_exec(selectors_of_its_own) };
    assert!(with_hook.status().unwrap().success());
    check_eq("forks prepared", prepared(), 1);
    check_eq("a plain fork", foreign::run(program.to_str().unwrap(), &["list-descriptors", &descriptors]), 0);
    check_eq("forks prepared", prepared(), 2);
    // SAFETY: one thread.
    match unsafe { fork::fork() }.unwrap() {
        ForkResult::Parent { child } => reap(child),
        ForkResult::Child => std::process::exit(0),
    }
    check_eq("forks prepared", prepared(), 2);
    check_table(selector.as_raw_fd());
    waker.wake().unwrap();
    check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
}

/// The hook runs in the child of a foreign fork, before it waits for events for the first time, and not elsewhere.
fn first_poll() {
    let hook = || FIRST_POLLS.load(Ordering::Relaxed);
    atfork::set_hooks(COUNTING);
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    // SAFETY: one thread.
    match unsafe { fork::fork() }.unwrap() {
        ForkResult::Parent { child } => reap(child),
        ForkResult::Child => {
            check_eq("ours", poll(&mut selector, SHORT), tokens([]));
            check_eq("hooks", hook(), 0);
            std::process::exit(0);
        }
    }
    reap(foreign::fork_child(|| {
        check_eq("registering is no poll", selector.registry().try_clone().is_ok(), true);
        let mut socket = udp();
        register(selector.registry(), &mut socket, 1);
        check_eq("hooks", hook(), 0);
        // It would wait for ever if it did not come back after the hook.
        check_eq("the first poll", poll(&mut selector, None), tokens([]));
        check_eq("hooks", hook(), 1);
        waker.wake().unwrap();
        check_eq("the second poll", poll(&mut selector, None), tokens([0]));
        check_eq("hooks", hook(), 1);
        let mut fresh = Poll::new().unwrap();
        check_eq("a later selector", poll(&mut fresh, SHORT), tokens([]));
        check_eq("hooks", hook(), 1);
    }));
    reap(foreign::fork_child(|| {
        // A selector that the child makes before any poll.
        let mut fresh = Poll::new().unwrap();
        check_eq("the first poll", poll(&mut fresh, None), tokens([]));
        check_eq("hooks", hook(), 1);
    }));
    check_eq("in the parent", (poll(&mut selector, SHORT), hook()), (tokens([]), 0));
}

/// Threads fork by themselves and through us, while others make, register and drop: nobody waits for ever, and every child
/// finds a whole selector.
fn threads() {
    const FORKS: usize = 300;
    atfork::install().unwrap();
    let kept = Poll::new().unwrap();
    let _waker = Waker::new(kept.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(kept.registry(), &mut server, 1);
    let queue = kept.as_raw_fd();
    let before = (registrations(), open_descriptors());
    let is_over = AtomicBool::new(false);
    let child = || {
        check_eq("generation", generation(), 1);
        check_eq("parent", parent(), Some(std::os::unix::process::parent_id()));
        assert!(atfork::failure().is_none(), "{}", atfork::failure().unwrap());
        check_table(queue);
        let mut fresh = Poll::new().unwrap();
        let waker = Waker::new(fresh.registry(), Token(7)).unwrap();
        waker.wake().unwrap();
        check_eq("a fresh selector", poll(&mut fresh, LONG), tokens([7]));
        // SAFETY: ends the process at once; its scope would wait for threads that are not there.
        unsafe { libc::_exit(0) };
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let selector = Poll::new().unwrap();
                    let _waker = Waker::new(selector.registry(), Token(0)).unwrap();
                    let (mut a, _b) = UnixStream::pair().unwrap();
                    register(selector.registry(), &mut a, 1);
                    let mut socket = udp();
                    register(kept.registry(), &mut socket, 2);
                }
            });
        }
        let foreign = (0..2).map(|_| scope.spawn(|| (0..FORKS).for_each(|_| reap(foreign::fork_child(child)))));
        let foreign: Vec<_> = foreign.collect();
        for _ in 0..FORKS {
            if takes_turns() {
                // Ours would make the others give up: see `waiting_for_each_other`.
                reap(foreign::fork_child(child));
                continue;
            }
            // SAFETY: the child makes selectors, whose allocations are safe with glibc, and ends.
            match unsafe { fork::fork() }.unwrap() {
                ForkResult::Parent { child } => reap(child),
                ForkResult::Child => child(),
            }
        }
        for thread in foreign {
            thread.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    check_eq("generation", generation(), 0);
    check_table(queue);
    check_eq("registrations and descriptors", (registrations(), open_descriptors()), before);
}

/// Whether the C library lets one thread at a time into the handlers of forks: musl does, and glibc 2.28 to 2.35.
fn takes_turns() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: a string that is there for as long as the program.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str().unwrap();
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        (28..36).contains(&minor)
    }
    #[cfg(not(target_env = "gnu"))]
    true
}

/// A thread has prepared, and waits for its turn in the C library; the thread whose turn it is waits for that one. It gives
/// up, so nobody waits for ever.
fn waiting_for_each_other() {
    static IS_IN: AtomicBool = AtomicBool::new(false);
    extern "C" fn before() {
        IS_IN.store(true, Ordering::Relaxed);
    }
    atfork::install().unwrap();
    // Runs before ours.
    at_fork(before, nothing, nothing);
    let mut selector = Poll::new().unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    let queue = selector.as_raw_fd();
    std::thread::scope(|scope| {
        let blocked = fork::block_signals();
        let prepared = prepare().unwrap();
        let foreign = scope.spawn(|| {
            reap(foreign::fork_child(|| {
                match atfork::failure().filter(|_| takes_turns()) {
                    None => check_table(queue),
                    Some(failure) => {
                        check_eq("what it waited for", failure.object(), PrepareObject::OtherThreads);
                        check_eq("polling", poll_error(&mut selector), Some(libc::ETIMEDOUT));
                    }
                }
                // SAFETY: its scope would wait for a thread that is not there.
                unsafe { libc::_exit(0) };
            }));
        });
        wait_until("the other thread is in its handlers", || IS_IN.load(Ordering::Relaxed));
        // SAFETY: signals are blocked; the child makes little, and ends.
        match unsafe { prepared.fork() }.unwrap() {
            ForkResult::Parent { child } => reap(child),
            ForkResult::Child => {
                check_eq("generation", generation(), 1);
                check_table(queue);
                // SAFETY: as above.
                unsafe { libc::_exit(0) };
            }
        }
        drop(blocked);
        foreign.join().unwrap();
    });
    check_table(queue);
}

/// A thread forks that never had to do with selectors, while the one that polls is in the kernel.
fn another_thread() {
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let queue = selector.as_raw_fd();
    std::thread::scope(|scope| {
        let poller = scope.spawn(|| {
            check_eq("what wakes", poll(&mut selector, LONG), tokens([0]));
            check_eq("generation", generation(), 0);
        });
        for _ in 0..10 {
            reap(foreign::fork_on_thread(|| {
                check_eq("generation", generation(), 1);
                check_table(queue);
                // The child's own: the poller goes on sleeping.
                waker.wake().unwrap();
                // SAFETY: its scope would wait for a thread that is not there.
                unsafe { libc::_exit(0) };
            }));
        }
        assert!(!poller.is_finished(), "a child has woken its parent");
        waker.wake().unwrap();
        poller.join().unwrap();
    });
    reap(foreign::fork_on_thread(|| check_table(queue)));
}

/// A handler forks, and has interrupted nothing of ours: as any other fork.
fn signal_handler() {
    atfork::install().unwrap();
    foreign::fork_on_signal(libc::SIGUSR2);
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    raise(libc::SIGUSR2);
    let child = foreign::forked_in_handler();
    check_eq("generation", generation(), u32::from(child == 0));
    check_table(selector.as_raw_fd());
    if child == 0 {
        waker.wake().unwrap();
        check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
        return;
    }
    reap(child);
    check_eq("the child's wake", poll(&mut selector, SHORT), tokens([]));
}

/// A handler forks, and has interrupted a thread that has the selectors locked.
fn interrupted_with_the_lock() {
    atfork::install().unwrap();
    foreign::fork_on_signal(libc::SIGUSR2);
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    let before = registrations();
    SIGNAL_AT_ALLOCATION.store(libc::SIGUSR2, Ordering::Relaxed);
    // The list is allocated with the lock held.
    check_eq("registrations", registrations(), before);
    after_an_interruption(&mut selector, &waker);
}

/// A handler forks, and has interrupted a thread in the middle of a registration, of the two kinds that there are.
fn interrupted_while_registering() {
    atfork::install().unwrap();
    foreign::fork_on_signal(libc::SIGUSR2);
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let waiting = Turn::new().unwrap();
    std::thread::scope(|scope| {
        // The process has another thread, so registrations are counted.
        let other = scope.spawn(|| waiting.wait());
        let mut far = far_away(2_000);
        SIGNAL_AT_ALLOCATION.store(libc::SIGUSR2, Ordering::Relaxed);
        // Room for a number that is far from the others is allocated by the registration.
        let registered = selector.registry().register(&mut far, Token(1), Interest::READABLE);
        if foreign::forked_in_handler() == 0 {
            after_an_interruption(&mut selector, &waker);
            // SAFETY: its scope would wait for a thread that is not there.
            unsafe { libc::_exit(0) };
        }
        registered.unwrap();
        after_an_interruption(&mut selector, &waker);
        waiting.give();
        other.join().unwrap();
    });
}

/// A socket at `number`.
fn far_away(number: i32) -> UdpSocket {
    use std::os::fd::{FromRawFd, IntoRawFd};
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    // SAFETY: the number is free, and the duplicate the socket's alone.
    unsafe {
        assert_eq!(libc::dup2(socket.as_raw_fd(), number), number);
        drop(socket);
        UdpSocket::from_raw_fd(number.into_raw_fd())
    }
}

/// Both sides of a fork in a handler that would have waited for the thread which it interrupted.
fn after_an_interruption(selector: &mut Poll, waker: &Waker) {
    let child = foreign::forked_in_handler();
    assert!(child >= 0, "the handler has not run");
    if child == 0 {
        check_eq("generation", generation(), 1);
        check_eq("polling", poll_error(selector), Some(libc::EDEADLK));
        let failure = atfork::failure().expect("a reason");
        check_eq("what was being made", failure.object(), PrepareObject::Interrupted);
        waker.wake().unwrap();
        // Neither the lock nor the gates are stuck.
        assert!(selectors() >= 1);
        assert!(selector.registry().register(&mut udp(), Token(2), Interest::READABLE).is_err());
        let mut fresh = Poll::new().unwrap();
        let _waker = Waker::new(fresh.registry(), Token(3)).unwrap();
        reap(foreign::fork_child(|| {
            check_table(fresh.as_raw_fd());
            check_eq("a selector made there", poll(&mut fresh, SHORT), tokens([]));
        }));
        // SAFETY: ends the process at once: the caller may have threads that are not there.
        unsafe { libc::_exit(0) };
    }
    reap(child);
    check_eq("generation", generation(), 0);
    check_table(selector.as_raw_fd());
    check_eq("the child's wake", poll(selector, SHORT), tokens([]));
    waker.wake().unwrap();
    check_eq("the waker", poll(selector, LONG), tokens([0]));
    reap(foreign::fork_child(|| check_table(selector.as_raw_fd())));
}

fn at_fork(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    // SAFETY: the functions are there for as long as the program.
    assert_eq!(unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) }, 0);
}

extern "C" fn nothing() {}

/// What handlers of another library find that run between prepare and the end of the fork.
fn handlers_of_others() {
    static SELECTOR: OnceLock<Mutex<Poll>> = OnceLock::new();
    static SEEN: AtomicU32 = AtomicU32::new(0);
    extern "C" fn before() {
        let selector = SELECTOR.get().unwrap().lock().unwrap();
        // It may look around, and make what is not registered.
        assert_eq!((registrations().len(), selectors()), (1, 1));
        let (mut a, _b) = UnixStream::pair().unwrap();
        let mut socket = udp();
        // The rest is refused, rather than left to wait for the end of the fork.
        for error in [
            Poll::new().err().unwrap(),
            selector.registry().register(&mut a, Token(1), Interest::READABLE).unwrap_err(),
            selector.registry().register(&mut socket, Token(1), Interest::READABLE).unwrap_err(),
        ] {
            assert!(error.to_string().contains("end the fork before"), "{error}");
        }
        SEEN.fetch_add(1, Ordering::Relaxed);
    }
    extern "C" fn in_child() {
        // Before ours: still the parent's generation.
        SEEN.fetch_add(10 + generation(), Ordering::Relaxed);
    }
    extern "C" fn before_ours() {
        // Registered after ours: it runs first, and nothing is locked.
        drop(Poll::new().unwrap());
        SEEN.fetch_add(100, Ordering::Relaxed);
    }
    at_fork(before, nothing, in_child);
    atfork::install().unwrap();
    at_fork(before_ours, nothing, nothing);
    let selector = Poll::new().unwrap();
    let queue = selector.as_raw_fd();
    let mut server = listener();
    register(selector.registry(), &mut server, 1);
    SELECTOR.set(Mutex::new(selector)).unwrap();
    reap(foreign::fork_child(|| {
        check_eq("handlers", SEEN.load(Ordering::Relaxed), 111);
        check_table(queue);
        assert!(atfork::failure().is_none());
    }));
    check_eq("handlers", SEEN.load(Ordering::Relaxed), 101);
    check_table(queue);
}

/// A handler of another library forks, in the middle of somebody's fork.
fn fork_in_a_handler() {
    static IS_NESTED: AtomicBool = AtomicBool::new(false);
    static INNER: AtomicI32 = AtomicI32::new(-1);
    extern "C" fn before() {
        if !IS_NESTED.swap(true, Ordering::Relaxed) {
            INNER.store(foreign::fork().unwrap_or(0), Ordering::Relaxed);
            IS_NESTED.store(false, Ordering::Relaxed);
            if INNER.load(Ordering::Relaxed) == 0 {
                assert_eq!(generation(), 1);
                assert_eq!(atfork::failure().unwrap().object(), PrepareObject::NestedFork);
                // Its lock and gates are free, and it can do without the selectors.
                drop(Poll::new().unwrap());
                // SAFETY: the process it was made for is another one.
                unsafe { libc::_exit(0) };
            }
        }
    }
    at_fork(before, nothing, nothing);
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    let waker = Waker::new(selector.registry(), Token(0)).unwrap();
    let outer = foreign::fork_child(|| {
        check_eq("generation", generation(), 1);
        check_table(selector.as_raw_fd());
        waker.wake().unwrap();
        check_eq("the waker", poll(&mut selector, LONG), tokens([0]));
    });
    reap(INNER.load(Ordering::Relaxed));
    reap(outer);
    check_table(selector.as_raw_fd());
    check_eq("what the children did", poll(&mut selector, SHORT), tokens([]));
}

/// A signal that arrives in the middle of a fork is handled after it: the waker is the child's own by then.
fn signals_wait() {
    static WAKER: OnceLock<Waker> = OnceLock::new();
    extern "C" fn wake(_: i32) {
        // Two atomics and a write(2).
        WAKER.get().unwrap().wake().unwrap();
    }
    extern "C" fn in_child() {
        raise(libc::SIGUSR1);
    }
    at_fork(nothing, nothing, in_child);
    atfork::install().unwrap();
    let mut selector = Poll::new().unwrap();
    WAKER.set(Waker::new(selector.registry(), Token(0)).unwrap()).unwrap();
    // SAFETY: the handler is async-signal-safe.
    unsafe { libc::signal(libc::SIGUSR1, wake as extern "C" fn(i32) as libc::sighandler_t) };
    reap(foreign::fork_child(|| {
        check_eq("the child's wake", poll(&mut selector, LONG), tokens([0]));
    }));
    check_eq("the child's wake", poll(&mut selector, SHORT), tokens([]));
    raise(libc::SIGUSR1);
    check_eq("signals are not blocked", poll(&mut selector, LONG), tokens([0]));
}

/// Handlers of the child, from the first to the last one, with an allocator that aborts.
fn commit_allocates_nothing() {
    extern "C" fn arm() {
        MAY_ALLOCATE.store(false, Ordering::Relaxed);
    }
    extern "C" fn disarm() {
        MAY_ALLOCATE.store(true, Ordering::Relaxed);
    }
    at_fork(nothing, nothing, arm);
    assert!(atfork::set_hooks(COUNTING));
    atfork::install().unwrap();
    at_fork(nothing, nothing, disarm);
    let mut selectors: Vec<Poll> = (0..3).map(|_| Poll::new().unwrap()).collect();
    let waker = Waker::new(selectors[1].registry(), Token(0)).unwrap();
    waker.wake().unwrap();
    let mut sockets: Vec<UdpSocket> = (0..300).map(|_| udp()).collect();
    let policies = [ForkPolicy::Inherit, ForkPolicy::NoFork, ForkPolicy::Sever];
    for (index, socket) in sockets.iter_mut().enumerate() {
        register(selectors[0].registry(), socket, index);
        fork::set_policy(socket, policies[index % 3]).unwrap();
    }
    let child = foreign::fork_child(|| {
        check_eq("generation", generation(), 1);
        check_eq("the pending wake", poll(&mut selectors[1], None), tokens([0]));
    });
    reap(child);
    // The same for a child that does without.
    let _fillers = use_up_descriptors();
    reap(foreign::fork_child(|| check_eq("polling", poll_error(&mut selectors[1]), Some(libc::EMFILE))));
}

/// Prints what a fork costs, by what there is to prepare: microseconds until the parent has it behind itself. The lower
/// quartile of many, because whatever else the machine does adds to it.
fn cost() {
    fn measure(what: &str) {
        let fork = |_| {
            let start = Instant::now();
            match foreign::fork() {
                // SAFETY: ends the process at once.
                None => unsafe { libc::_exit(0) },
                Some(child) => {
                    let elapsed = start.elapsed();
                    reap(child);
                    elapsed
                }
            }
        };
        let mut times: Vec<Duration> = (0..2_000).map(fork).collect();
        times.sort_unstable();
        println!("{what}: {:?}", times[times.len() / 4]);
    }
    measure("bare");
    atfork::install().unwrap();
    measure("no selector");
    let selector = Poll::new().unwrap();
    measure("a selector without registrations");
    let _waker = Waker::new(selector.registry(), Token(0)).unwrap();
    measure("a selector with a waker");
    let mut sockets: Vec<UdpSocket> = (0..100).map(|_| udp()).collect();
    for (index, socket) in sockets.iter_mut().enumerate() {
        register(selector.registry(), socket, index);
    }
    measure("and 100 sockets");
}
