//! Scenarios of runtimes with threads in a process that forks.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener as StdTcpListener;
use std::net::TcpStream as StdTcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use forkio::{
    Child, Fork, ForkError, ForkPolicy, Listener, Prefork, PreforkError, ProcessRuntime, RuntimeError, Worker,
};
use forkio_reactor::event::Source;
use forkio_reactor::fork::{self, ForkResult, registrations};
use forkio_reactor::{Events, Interest, Poll, Registry, Token, Waker, net};
use forkio_tests::{Turn, check_eq, fixture_main, open_descriptors, processes, reap, wait_until};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep, timeout};

const LONG: Duration = Duration::from_secs(60);

/// What a library would have.
static RUNTIME: ProcessRuntime = ProcessRuntime::new(multi_thread);

fn multi_thread() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn main() {
    fixture_main(&[
        ("retired-selector", retired_selector),
        ("everything-works", everything_works),
        ("grandchildren", grandchildren),
        ("signals", signals),
        ("ghost-signals", ghost_signals),
        ("processes", child_processes),
        ("inherited-connections", inherited_connections),
        ("connections-that-come-and-go", connections_that_come_and_go),
        ("handles-of-the-parent", handles_of_the_parent),
        ("first-use-by-many-threads", first_use_by_many_threads),
        ("fork-during-build", fork_during_build),
        ("many-forks", many_forks),
        ("descriptors", descriptors),
        ("stray", stray),
        ("foreign-fork", foreign_fork),
        ("inside-inherited", inside_inherited),
        ("build-errors", build_errors),
        ("beside-a-current-thread-runtime", beside_a_current_thread_runtime),
        ("dropped", dropped),
        ("prefork-on-threads", || supervise(prefork_on_threads())),
        ("prefork-on-threads-fails", || supervise(prefork_on_threads_fails())),
    ]);
}

/// Runs the parent of a prefork server.
fn supervise(scenario: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LONG, scenario).await.expect("a scenario that hangs") });
}

fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(async { timeout(LONG, future).await.expect("in time") }).expect("a runtime")
}

/// Forks a process that has threads. The child runs `child` and exits.
fn fork_with_threads(child: impl FnOnce()) -> Child {
    // SAFETY: the child uses what it makes itself.
    match unsafe { forkio::fork_with_threads() }.expect("forking") {
        Fork::Parent(child) => child,
        Fork::Child(_) => {
            child();
            std::process::exit(0)
        }
    }
}

fn wait(mut child: Child) {
    let status = block_on(child.wait()).unwrap();
    assert!(status.success(), "{status}");
}

fn listen() -> StdTcpListener {
    let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Says on each connection which process this is, until the client closes it.
async fn serve(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            stream.write_u32(std::process::id()).await.unwrap();
            let _ = stream.read(&mut [0; 1]).await;
        });
    }
}

/// Starts serving on a duplicate of `listener`, in this process's runtime.
fn start_serving(listener: &StdTcpListener) {
    let listener = listener.try_clone().unwrap();
    RUNTIME.spawn(async { serve(TcpListener::from_std(listener).unwrap()).await }).unwrap();
}

fn ask(listener: &StdTcpListener) -> u32 {
    let mut stream = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut id = [0; 4];
    stream.read_exact(&mut id).unwrap();
    u32::from_be_bytes(id)
}

/// Tasks, timers, the blocking pool, sockets and signals of this process's runtime.
fn use_everything() {
    let listener = listen();
    start_serving(&listener);
    check_eq("a server of its own", ask(&listener), std::process::id());
    block_on(async {
        let start = Instant::now();
        let mut ticks = interval(Duration::from_millis(1));
        let slept = tokio::spawn(sleep(Duration::from_millis(5)));
        for _ in 0..3 {
            ticks.tick().await;
        }
        slept.await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5));
        check_eq("blocking", tokio::task::spawn_blocking(|| 6 * 7).await.unwrap(), 42);
        let mut signals = signal(SignalKind::user_defined2()).unwrap();
        send(std::process::id(), libc::SIGUSR2);
        signals.recv().await;
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        check_eq("a client of its own", client.read_u32().await.unwrap(), std::process::id());
    });
}

fn send(pid: u32, signal: i32) {
    // SAFETY: no memory is involved; the process is this one, or a child that is not reaped.
    check_eq("kill", unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// Forks by the reactor's means. The child's process id; `None` in the child.
fn fork_process() -> Option<i32> {
    // SAFETY: the child does nothing that another thread could hold a lock for.
    match unsafe { fork::fork() }.expect("forking") {
        ForkResult::Parent { child } => Some(child),
        ForkResult::Child => None,
    }
}

/// Forks; the child runs `child` and exits. In the parent: the child's process id.
fn fork_child(child: impl FnOnce()) -> i32 {
    fork_process().unwrap_or_else(|| {
        child();
        std::process::exit(0)
    })
}

/// Children do without one of two selectors: they have its descriptors as the policies say, and nothing of it disturbs
/// them or the parent.
fn retired_selector() {
    let register = |registry: &Registry, source: &mut dyn Source, token| {
        registry.register(source, Token(token), Interest::READABLE).expect("registering");
    };
    let poll = |selector: &mut Poll| {
        let mut events = Events::with_capacity(8);
        selector.poll(&mut events, Some(LONG)).expect("polling");
        events.iter().map(|event| event.token().0).collect::<BTreeSet<_>>()
    };
    let mut kept = Poll::new().unwrap();
    let kept_waker = Waker::new(kept.registry(), Token(0)).unwrap();
    let mut retired = Poll::new().unwrap();
    let waker = Waker::new(retired.registry(), Token(0)).unwrap();
    let mut listener = net::TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let (mut end, mut other_end) = net::UnixStream::pair().unwrap();
    for (source, token) in [(&mut listener as &mut dyn Source, 1), (&mut stream, 2), (&mut end, 3)] {
        register(retired.registry(), source, token);
    }
    fork::set_policy(&stream, ForkPolicy::Sever).unwrap();
    fork::set_policy(&end, ForkPolicy::Renew).unwrap();
    check_eq("unregistered", fork::retire_in_children(&other_end).unwrap_err().kind(), ErrorKind::NotFound);
    fork::retire_in_children(&listener).unwrap();
    other_end.write_all(b"pending").unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([3]));

    let (looked, closed) = (Turn::new().unwrap(), Turn::new().unwrap());
    let Some(child) = fork_process() else {
        let polled = retired.poll(&mut Events::with_capacity(1), Some(LONG)).unwrap_err();
        check_eq("polling", polled.raw_os_error(), Some(libc::ECANCELED));
        let mut socket = net::UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let registered = retired.registry().register(&mut socket, Token(4), Interest::READABLE).unwrap_err();
        check_eq("registering", registered.raw_os_error(), Some(libc::ECANCELED));
        check_eq("selectors", fork::selectors(), 1);
        check_eq("registrations", registrations().iter().filter(|entry| entry.token != Token(0)).count(), 0);
        waker.wake().unwrap();

        let mut buffer = [0; 16];
        check_eq("severed", stream.read(&mut buffer).unwrap(), 0);
        check_eq("renewed", end.read(&mut buffer).unwrap(), b"pending".len());
        other_end.write_all(b"child").unwrap();
        check_eq("renewed", end.read(&mut buffer).unwrap(), b"child".len());
        retired.registry().deregister(&mut end).unwrap();
        // A listener can be served in another selector.
        retired.registry().deregister(&mut listener).unwrap();
        register(kept.registry(), &mut listener, 5);
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        check_eq("serving", poll(&mut kept), BTreeSet::from([5]));
        drop((listener.accept().unwrap(), client));
        kept_waker.wake().unwrap();
        check_eq("waking", poll(&mut kept), BTreeSet::from([0]));

        let descriptors = open_descriptors();
        reap(fork_child(|| check_eq("selectors", fork::selectors(), 1)));
        check_eq("descriptors", open_descriptors(), descriptors);
        looked.give();
        closed.wait();
        drop((stream, end, waker, retired));
        kept_waker.wake().unwrap();
        check_eq("waking", poll(&mut kept), BTreeSet::from([0]));
        std::process::exit(0);
    };
    looked.wait();
    let mut buffer = [0; 16];
    check_eq("the parent's own", end.read(&mut buffer).unwrap(), b"pending".len());
    check_eq("nothing else", end.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    peer.write_all(b"for the parent").unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([2]));
    check_eq("the parent's own", stream.read(&mut buffer).unwrap(), b"for the parent".len());
    drop(stream);
    check_eq("the end, although the child lives", peer.read(&mut buffer).unwrap(), 0);
    closed.give();
    reap(child);
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([1]));
    waker.wake().unwrap();
    check_eq("the parent goes on", poll(&mut retired), BTreeSet::from([0]));
}

/// All that a runtime does, before a fork and after it, in both processes; a listener that both serve.
fn everything_works() {
    let listener = listen();
    start_serving(&listener);
    use_everything();
    let (ready, end) = (Turn::new().unwrap(), Turn::new().unwrap());
    let child = fork_with_threads(|| {
        check_eq("lineage", forkio::lineage().parent(), Some(std::os::unix::process::parent_id()));
        use_everything();
        start_serving(&listener);
        ready.give();
        end.wait();
    });
    use_everything();
    ready.wait();
    let both = BTreeSet::from([std::process::id(), child.id()]);
    let mut seen = BTreeSet::new();
    wait_until("both processes serve", || {
        seen.insert(ask(&listener));
        seen == both
    });
    end.give();
    wait(child);
    check_eq("the parent serves on", ask(&listener), std::process::id());
    use_everything();
}

fn grandchildren() {
    fn descend(depth: u32) {
        check_eq("generation", forkio::lineage().generation(), depth);
        if depth.is_multiple_of(2) {
            use_everything();
        }
        if depth < 5 {
            // At odd depths the runtime is first used after the fork, by the parent and maybe not by the child.
            let child = fork_with_threads(|| descend(depth + 1));
            wait(child);
        }
        use_everything();
    }
    descend(0);
}

/// A signal reaches the streams of the process that it was sent to.
fn signals() {
    let parent = std::process::id();
    let mut before = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
    let turns = [(); 3].map(|()| Turn::new().unwrap());
    let [ready, received, sent] = &turns;
    let child = fork_with_threads(|| {
        let mut stream = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
        ready.give();
        block_on(stream.recv()).unwrap();
        received.give();
        sent.wait();
        // The parent's has been delivered there.
        let mut other = block_on(async { signal(SignalKind::user_defined2()) }).unwrap();
        send(std::process::id(), libc::SIGUSR2);
        block_on(other.recv()).unwrap();
        assert!(stream.recv().now_or_never().is_none(), "the parent's signal in the child");
        send(parent, libc::SIGHUP);
    });
    let mut hangup = block_on(async { signal(SignalKind::hangup()) }).unwrap();
    ready.wait();
    send(child.id(), libc::SIGUSR1);
    received.wait();
    assert!(before.recv().now_or_never().is_none(), "the child's signal in the parent");
    send(parent, libc::SIGUSR1);
    block_on(before.recv()).unwrap();
    sent.give();
    block_on(hangup.recv()).unwrap();
    assert!(before.recv().now_or_never().is_none(), "the child's signal in the parent");
    wait(child);
}

/// The parent is signalled all the time, and forks: no child is told of a signal that it was not sent.
fn ghost_signals() {
    let stop = AtomicBool::new(false);
    let mut stream = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
    // Made once, so that children find the handlers installed.
    drop(block_on(async { signal(SignalKind::user_defined2()) }).unwrap());
    let parent = std::process::id();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                send(parent, libc::SIGUSR1);
            }
        });
        for _ in 0..100 {
            let child = fork_with_threads(|| {
                let [mut ghost, mut own] = [SignalKind::user_defined1(), SignalKind::user_defined2()]
                    .map(|kind| block_on(async { signal(kind) }).unwrap());
                send(std::process::id(), libc::SIGUSR2);
                block_on(own.recv()).unwrap();
                let is_quiet = ghost.recv().now_or_never().is_none();
                // SAFETY: ends the process at once; its scope would wait for a thread that is not there.
                unsafe { libc::_exit(if is_quiet { 0 } else { 9 }) };
            });
            wait(child);
            block_on(stream.recv()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// `tokio::process` in a child, beside children of the parent.
fn child_processes() {
    let own = || std::process::id().cast_signed();
    let spawn = || {
        block_on(async {
            let output = Command::new("echo").arg("hello").output().await.unwrap();
            check_eq("output", output.stdout.as_slice(), b"hello\n");
            let mut cat = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
            drop(cat.stdin.take());
            assert!(cat.wait().await.unwrap().success());
            // Dropped unwaited: the runtime reaps it.
            drop(Command::new("true").spawn().unwrap());
        });
        wait_until("the dropped one is reaped", || {
            // The runtime looks when it has been woken.
            block_on(async { sleep(Duration::from_millis(1)).await });
            processes().values().all(|stat| stat.parent != own() || stat.state != 'Z')
        });
    };
    spawn();
    let mut running = block_on(async { Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap() });
    let child = fork_with_threads(|| {
        spawn();
        wait(fork_with_threads(spawn));
    });
    wait(child);
    spawn();
    drop(running.stdin.take());
    assert!(block_on(running.wait()).unwrap().success());
}

/// Peers see the end of a connection when the parent closes it, although the child lives; and the child reads none of
/// its bytes.
fn inherited_connections() {
    const CONNECTIONS: usize = 20;
    let listener = listen();
    let echoes = listener.try_clone().unwrap();
    RUNTIME
        .spawn(async {
            let listener = TcpListener::from_std(echoes).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                });
            }
        })
        .unwrap();
    let mut peers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut peer = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
            peer.set_read_timeout(Some(LONG)).unwrap();
            peer.write_all(b"x").unwrap();
            peer.read_exact(&mut [0]).unwrap();
            peer
        })
        .collect();
    let children: Vec<_> = [true, false]
        .into_iter()
        .map(|uses_runtime| {
            let (ready, end) = (Turn::new().unwrap(), Turn::new().unwrap());
            let child = fork_with_threads(|| {
                if uses_runtime {
                    use_everything();
                }
                ready.give();
                end.wait();
            });
            ready.wait();
            (child, end)
        })
        .collect();
    for peer in &mut peers {
        peer.write_all(b"for the parent").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        peer.read_to_end(&mut back).unwrap();
        check_eq("what came back", back.as_slice(), b"for the parent");
    }
    for (child, end) in children {
        end.give();
        wait(child);
    }
}

/// The same for connections that the parent's workers are accepting and closing as it forks.
fn connections_that_come_and_go() {
    const CHILDREN: usize = 30;
    let listener = listen();
    let echoes = listener.try_clone().unwrap();
    RUNTIME
        .spawn(async {
            let listener = TcpListener::from_std(echoes).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move { stream.write_all(b"to the end").await.unwrap() });
            }
        })
        .unwrap();
    let (stop, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut children = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
                    stream.set_read_timeout(Some(LONG)).unwrap();
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).unwrap();
                    check_eq("what came", all.as_slice(), b"to the end");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = |count| {
            let enough = seen.load(Ordering::Relaxed) + count;
            wait_until("connections end while the children live", || seen.load(Ordering::Relaxed) >= enough);
        };
        for _ in 0..CHILDREN {
            more(5);
            let end = Turn::new().unwrap();
            children.push((
                fork_with_threads(|| {
                    end.wait();
                    // SAFETY: ends the process at once; its scope would wait for threads that are not there.
                    unsafe { libc::_exit(0) };
                }),
                end,
            ));
        }
        more(50);
        stop.store(true, Ordering::Relaxed);
    });
    for (child, end) in children {
        end.give();
        wait(child);
    }
}

/// Handles of the parent's tasks and runtime, dropped in the child.
fn handles_of_the_parent() {
    let started = Arc::new(AtomicU32::new(0));
    let waiting = RUNTIME.spawn(std::future::pending::<()>()).unwrap();
    let done = RUNTIME.spawn(async { vec![1, 2, 3] }).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = {
        let (started, stop) = (Arc::clone(&started), Arc::clone(&stop));
        let turn = move || {
            started.fetch_add(1, Ordering::Relaxed);
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let blocking = turn.clone();
        (RUNTIME.spawn(async move { turn() }).unwrap(), RUNTIME.get().unwrap().spawn_blocking(blocking))
    };
    let handle = RUNTIME.handle().unwrap().clone();
    wait_until("all run", || done.is_finished() && started.load(Ordering::Relaxed) == 2);
    match fork_process() {
        Some(child) => {
            stop.store(true, Ordering::Relaxed);
            block_on(async {
                busy.0.await.unwrap();
                busy.1.await.unwrap();
                check_eq("the parent's", done.await.unwrap(), vec![1, 2, 3]);
            });
            reap(child);
            drop((waiting, handle));
        }
        None => {
            use_everything();
            drop((waiting, done, busy, handle));
            use_everything();
            std::process::exit(0);
        }
    }
}

fn first_use_by_many_threads() {
    use_everything();
    let race = || {
        let barrier = Barrier::new(16);
        let runtimes: BTreeSet<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        let runtime = RUNTIME.get().unwrap();
                        check_eq("a task", block_on(async { tokio::spawn(async { 7 }).await.unwrap() }), 7);
                        std::ptr::from_ref(runtime).addr()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        check_eq("how many were built", runtimes.len(), 1);
    };
    for _ in 0..20 {
        wait(fork_with_threads(race));
    }
}

/// Another thread is building the runtime as this one forks.
fn fork_during_build() {
    static BUILDING: AtomicBool = AtomicBool::new(false);
    static GO_ON: AtomicBool = AtomicBool::new(false);
    static SLOW: ProcessRuntime = ProcessRuntime::new(|| {
        if fork::generation() == 0 {
            BUILDING.store(true, Ordering::Relaxed);
            wait_until("the fork is over", || GO_ON.load(Ordering::Relaxed));
        }
        multi_thread()
    });
    let builder = std::thread::spawn(|| SLOW.block_on(async { tokio::spawn(async { 1 }).await.unwrap() }).unwrap());
    wait_until("it is being built", || BUILDING.load(Ordering::Relaxed));
    let mut child = fork_with_threads(|| {
        check_eq("a task", SLOW.block_on(async { tokio::spawn(async { 2 }).await.unwrap() }).unwrap(), 2);
        use_everything();
    });
    // Without the runtime that is being built.
    wait_until("the child has ended", || child.try_wait().unwrap().is_some_and(|status| status.success()));
    GO_ON.store(true, Ordering::Relaxed);
    check_eq("the parent's", builder.join().unwrap(), 1);

    // And at any point of the first use in a process. A thread that was just starting or ending then may have left the child
    // without a lock that it needs; it finds out.
    const WITHOUT_LOCK: i32 = 77;
    let mut without_lock = 0;
    for round in 0..40 {
        let child = fork_with_threads(|| {
            let first = std::thread::spawn(|| RUNTIME.get().is_ok());
            let pause = std::time::Instant::now();
            while pause.elapsed() < Duration::from_micros(10 * round) {
                std::hint::spin_loop();
            }
            let mut grandchild = fork_with_threads(|| {
                if matches!(RUNTIME.get(), Err(RuntimeError::InheritedLock)) {
                    // SAFETY: ends the process at once. The library's `exit` would wait for the lock.
                    unsafe { libc::_exit(WITHOUT_LOCK) };
                }
                use_everything();
            });
            assert!(first.join().unwrap());
            let status = block_on(grandchild.wait()).unwrap();
            std::process::exit(status.code().unwrap_or(-1));
        });
        match block_on({ child }.wait()).unwrap().code() {
            Some(WITHOUT_LOCK) => without_lock += 1,
            status => check_eq("the child's status", status, Some(0)),
        }
    }
    assert!(without_lock < 10, "{without_lock} of 40 children were left without a lock");
}

/// A parent under load forks again and again; every child has a working runtime, and the parent loses nothing.
fn many_forks() {
    const CLIENTS: usize = 4;
    let listener = listen();
    start_serving(&listener);
    let stop = AtomicBool::new(false);
    let answers = AtomicUsize::new(0);
    use_everything();
    wait(fork_with_threads(use_everything));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    check_eq("who answers", ask(&listener), std::process::id());
                    RUNTIME.get().unwrap().spawn_blocking(|| ());
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..200 {
            let child = fork_with_threads(|| {
                if round % 4 == 0 {
                    use_everything();
                } else {
                    block_on(async { tokio::task::spawn_blocking(|| ()).await.unwrap() });
                }
                // SAFETY: ends the process at once; its scope would wait for threads that are not there.
                unsafe { libc::_exit(0) };
            });
            wait(child);
        }
        let enough = answers.load(Ordering::Relaxed) + 100;
        wait_until("the load goes on", || answers.load(Ordering::Relaxed) >= enough);
        stop.store(true, Ordering::Relaxed);
    });
    use_everything();
    let own = std::process::id().cast_signed();
    let children: Vec<_> = processes().into_values().filter(|stat| stat.parent == own).collect();
    assert!(children.is_empty(), "{children:?}");
}

/// What the inherited runtime leaves behind in a child is the descriptors of its selector, its waker and its duplicate of the
/// signal pipe's receiver, and the numbers of its I/O objects.
fn descriptors() {
    let none = open_descriptors().len();
    let poll = forkio_reactor::Poll::new().unwrap();
    let waker = Waker::new(poll.registry(), Token(0)).unwrap();
    let runtime = open_descriptors().len() - none + 1;
    drop((waker, poll));
    block_on(async {});
    let idle = open_descriptors().len();
    check_eq("a runtime, and the signal pipe", idle, none + runtime + 2);
    let socket = block_on(async { tokio::net::UdpSocket::bind("127.0.0.1:0").await }).unwrap();
    fn descend(depth: usize, expected: usize, runtime: usize) {
        check_eq("inherited", open_descriptors().len(), expected);
        block_on(async {});
        check_eq("with a runtime", open_descriptors().len(), expected + runtime);
        if depth > 0 {
            wait(fork_with_threads(|| descend(depth - 1, expected + runtime, runtime)));
            check_eq("after a fork", open_descriptors().len(), expected + runtime);
        }
    }
    wait(fork_with_threads(|| descend(4, idle + 1, runtime)));
    drop(socket);
    check_eq("after a fork", open_descriptors().len(), idle);
}

/// The child of a fork that nobody has told forkio of: an error at once, and nothing happens to the parent.
fn stray() {
    use_everything();
    // SAFETY: the child does little, and ends.
    let Some(child) = (unsafe { forkio_tests::fork_behind_libc() }) else { return };
    if child == 0 {
        let refused = matches!(RUNTIME.get(), Err(RuntimeError::StrayProcess))
            && matches!(RUNTIME.block_on(async {}), Err(RuntimeError::StrayProcess));
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(if refused { 0 } else { 9 }) };
    }
    reap(child);
    use_everything();
    wait(fork_with_threads(use_everything));
    let error = RuntimeError::StrayProcess.to_string();
    assert!(error.contains("fork_with_threads"), "{error}");
}

/// A `fork(2)` by somebody else, under load, with the handlers installed: as good as one of the reactor's.
fn foreign_fork() {
    static HOOKS: AtomicU32 = AtomicU32::new(0);
    forkio::atfork::install().unwrap();
    forkio::on_child(|_| {
        HOOKS.fetch_add(1, Ordering::Relaxed);
    });
    let listener = listen();
    start_serving(&listener);
    use_everything();
    let mut peer = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.read_exact(&mut [0; 4]).unwrap();
    let fork_by_others = |child: &dyn Fn()| {
        // SAFETY: the child uses what it makes itself.
        match unsafe { libc::fork() } {
            0 => {
                child();
                std::process::exit(0)
            }
            pid => pid,
        }
    };
    let turns = [Turn::new().unwrap(), Turn::new().unwrap()];
    let [ready, end] = &turns;
    let lives = fork_by_others(&|| {
        check_eq("generation", fork::generation(), 1);
        use_everything();
        check_eq("hooks", HOOKS.load(Ordering::Relaxed), 1);
        reap(fork_by_others(&|| {
            use_everything();
            check_eq("hooks", HOOKS.load(Ordering::Relaxed), 2);
        }));
        wait(fork_with_threads(use_everything));
        ready.give();
        end.wait();
    });
    ready.wait();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    check_eq("the end, although the child lives", peer.read(&mut [0; 1]).unwrap(), 0);
    for _ in 0..20 {
        reap(fork_by_others(&use_everything));
        check_eq("the parent serves on", ask(&listener), std::process::id());
    }
    end.give();
    reap(lives);
    // A child that uses nothing, and forks, as daemons do it.
    reap(fork_by_others(&|| {
        reap(fork_by_others(&|| {
            check_eq("stray", fork::is_stray(), false);
            use_everything();
            reap(fork_by_others(&use_everything));
        }));
    }));
    use_everything();
}

/// The fork is made inside a task of the runtime that stays behind.
fn inside_inherited() {
    fn check() {
        assert!(matches!(RUNTIME.block_on(async {}), Err(RuntimeError::InsideInherited)));
        let (sender, receiver) = std::sync::mpsc::channel();
        RUNTIME.spawn(async move { sender.send(7) }).unwrap();
        check_eq("a spawned task", receiver.recv_timeout(LONG), Ok(7));
        std::thread::scope(|scope| scope.spawn(use_everything).join().unwrap());
    }
    let child = block_on(async {
        tokio::spawn(async {
            // SAFETY: it refuses.
            let refused = unsafe { forkio::fork_with_threads() };
            assert!(matches!(refused, Err(ForkError::InsideRuntime)), "{refused:?}");
            let refused = forkio::fork().await;
            let Err(ForkError::MultiThreadRuntime(_)) = &refused else { panic!("{refused:?}") };
            assert!(refused.unwrap_err().to_string().contains("ProcessRuntime"));
            // From here on the child is the worker thread that polls this task.
            fork_child(check)
        })
        .await
        .unwrap()
    });
    reap(child);
    reap(block_on(async { fork_child(check) }));
}

fn build_errors() {
    static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
    static MOODY: ProcessRuntime = ProcessRuntime::new(|| match ATTEMPTS.fetch_add(1, Ordering::Relaxed) {
        0 => Err(io::Error::other("not yet")),
        1 => panic!("the second attempt"),
        2 => Builder::new_current_thread().enable_time().build(),
        3 => match MOODY.get() {
            Err(error @ RuntimeError::InsideBuild) => Err(io::Error::other(error)),
            result => panic!("{result:?}"),
        },
        _ => multi_thread(),
    });
    let fails = || MOODY.get().unwrap_err();
    assert!(matches!(fails(), RuntimeError::Build(error) if error.to_string() == "not yet"));
    std::thread::spawn(|| MOODY.get().is_ok()).join().unwrap_err();
    assert!(matches!(fails(), RuntimeError::NoIoDriver));
    assert!(matches!(fails(), RuntimeError::Build(_)));
    check_eq("in the end", MOODY.block_on(async { 5 }).unwrap(), 5);
    check_eq("attempts", ATTEMPTS.load(Ordering::Relaxed), 5);
}

/// `forkio::fork` in a current-thread runtime that goes on in the child, and a runtime per process beside it.
fn beside_a_current_thread_runtime() {
    static OTHER: ProcessRuntime = ProcessRuntime::new(|| Builder::new_current_thread().enable_all().build());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // Outside of it: a runtime cannot be driven inside another one.
    check_eq("before", OTHER.block_on(async { tokio::spawn(async { 1 }).await.unwrap() }).unwrap(), 1);
    let addresses = OnceLock::new();
    let child = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.set(listener.local_addr().unwrap()).unwrap();
        tokio::spawn(serve(listener));
        match forkio::fork().await.unwrap() {
            Fork::Parent(child) => Some(child),
            Fork::Child(_) => None,
        }
    });
    check_eq("after", OTHER.block_on(async { tokio::spawn(async { 2 }).await.unwrap() }).unwrap(), 2);
    runtime.block_on(async {
        sleep(Duration::from_millis(1)).await;
        if let Some(mut child) = child {
            assert!(child.wait().await.unwrap().success());
        }
        // Whoever of the two: they share the queue.
        let mut client = TcpStream::connect(addresses.get().unwrap()).await.unwrap();
        client.read_u32().await.unwrap();
    });
}

/// One that is no static: dropped in the child, it leaves what it has inherited alone.
fn dropped() {
    let mut runtime = ProcessRuntime::new(multi_thread);
    assert!(runtime.take().is_none());
    let ended = Arc::new(AtomicBool::new(false));
    struct Ends(Arc<AtomicBool>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let spawn = |runtime: &ProcessRuntime<fn() -> io::Result<Runtime>>| {
        let ends = Ends(Arc::clone(&ended));
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime
            .spawn(async move {
                let _ends = ends;
                sender.send(()).unwrap();
                std::future::pending::<()>().await;
            })
            .unwrap();
        receiver.recv_timeout(LONG).unwrap();
    };
    let mut runtime: ProcessRuntime<fn() -> io::Result<Runtime>> = {
        drop(runtime);
        ProcessRuntime::new(multi_thread)
    };
    spawn(&runtime);
    match fork_process() {
        Some(child) => {
            reap(child);
            assert!(!ended.load(Ordering::Relaxed));
            drop(runtime);
            assert!(ended.load(Ordering::Relaxed), "the task is gone with its runtime");
        }
        None => {
            assert!(runtime.take().is_none(), "the inherited one stays");
            spawn(&runtime);
            drop(runtime.take().expect("its own"));
            assert!(ended.load(Ordering::Relaxed));
            drop(runtime);
            std::process::exit(0);
        }
    }
}

/// Workers with threads serve on both listeners, on several of their threads; what else the parent's runtime does stands
/// still in them, and its connections are severed.
async fn prefork_on_threads() {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    const AT_ONCE: usize = 6;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let path = std::env::temp_dir().join(format!("forkio-threads-{}", std::process::id()));
    let unix = tokio::net::UnixListener::bind(&path).unwrap();
    let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut peer, connection) = (peer.unwrap(), accepted.unwrap().0);
    // Runs in the parent alone.
    let ticker = tokio::spawn(async {
        let parent = std::process::id();
        loop {
            sleep(Duration::from_millis(1)).await;
            check_eq("where the parent's task runs", std::process::id(), parent);
        }
    });
    let client = tokio::spawn(forkio::no_fork(async move {
        let mut pids = BTreeSet::new();
        while pids.len() < 4 {
            let (mut answers, mut threads) = (BTreeSet::new(), BTreeSet::new());
            while threads.len() < 2 {
                let mut streams = Vec::new();
                for _ in 0..AT_ONCE {
                    streams.push(TcpStream::connect(address).await.unwrap());
                }
                for stream in &mut streams {
                    answers.insert(stream.read_u32().await.unwrap());
                    threads.insert(stream.read_u64().await.unwrap());
                }
            }
            check_eq("how many workers answered", answers.len(), 1);
            let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
            check_eq("who answers on the other", Some(&stream.read_u32().await.unwrap()), answers.first());
            let open = peer.try_read(&mut [0; 1]).unwrap_err();
            check_eq("the parent's connection", open.kind(), ErrorKind::WouldBlock);
            let worker = *answers.first().unwrap();
            if pids.insert(worker) {
                send(worker, if pids.len() % 2 == 0 { libc::SIGKILL } else { libc::SIGTERM });
                // Until then it may go on accepting.
                while processes().values().any(|stat| stat.pid == worker.cast_signed()) {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
        drop(connection);
        check_eq("the end", peer.read(&mut [0; 1]).await.unwrap(), 0);
        std::fs::remove_file(&path).unwrap();
        send(std::process::id(), libc::SIGTERM);
    }));
    let runtime = || Builder::new_multi_thread().worker_threads(3).enable_all().build();
    let prefork = Prefork::new().listener(listener).listener(unix).workers(1).crash_limit(0);
    let stopped = prefork
        .run_on(runtime, async |mut worker: Worker| {
            let shutdown = worker.shutdown();
            for listener in worker.take_listeners() {
                tokio::spawn(async move {
                    match listener {
                        Listener::Tcp(listener) => loop {
                            let (mut stream, _) = listener.accept().await.unwrap();
                            tokio::spawn(async move {
                                stream.write_u32(std::process::id()).await.unwrap();
                                tokio::task::yield_now().await;
                                let thread = MARK.with(|mark| std::ptr::from_ref(mark).addr());
                                stream.write_u64(thread as u64).await.unwrap();
                            });
                        },
                        Listener::Unix(listener) => loop {
                            let (mut stream, _) = listener.accept().await.unwrap();
                            stream.write_u32(std::process::id()).await.unwrap();
                        },
                        _ => unreachable!("there is no other kind"),
                    }
                });
            }
            check_eq("blocking", tokio::task::spawn_blocking(|| 6 * 7).await.unwrap(), 42);
            shutdown.await;
        })
        .await
        .unwrap();
    check_eq("exit code", stopped.exit_code(), 0);
    client.await.unwrap().unwrap();
    assert!(!ticker.is_finished());
}

/// How a worker ends whose runtime cannot be built, or who panics.
async fn prefork_on_threads_fails() {
    let once = || Prefork::new().workers(1).crash_limit(1);
    let exit_code = |result: Result<forkio::Stopped, PreforkError>| result.unwrap_err().exit_code();
    let refused = once().run_on(|| Err(io::Error::other("on purpose")), async |_| ()).await;
    check_eq("no runtime", exit_code(refused), 1);
    check_eq("a panic", exit_code(once().run_on(multi_thread, async |_| -> () { panic!("on purpose") }).await), 101);
    let panics = once().run_on(|| panic!("on purpose"), async |_| ()).await;
    check_eq("a panic of the builder", exit_code(panics), 101);
    check_eq("its own status", exit_code(once().run_on(multi_thread, async |_| 7).await), 7);
    // Dropping what another thread of the worker holds is not waited for.
    let busy = once().run_on(multi_thread, async |_| {
        tokio::task::spawn_blocking(|| std::thread::sleep(LONG));
        3
    });
    check_eq("with busy threads", exit_code(busy.await), 3);
}
