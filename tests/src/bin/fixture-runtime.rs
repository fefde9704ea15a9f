//! Scenarios of [`forkio::fork`] in a tokio runtime.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forkio::{Fork, ForkError, ForkOptions, ForkPolicy, Forked, Prefork, PreforkError, SourceKind, Worker};
use forkio_tests::runtime::{fork_child, reap, wait_for};
use forkio_tests::{Turn, check_eq, fixture_main, open_descriptors, processes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval, sleep, timeout};

const LONG: Duration = Duration::from_secs(60);

fn main() {
    fixture_main(&[
        ("both-serve", || run(both_serve())),
        ("timers", || run(timers())),
        ("tasks-go-on", || run(tasks_go_on())),
        ("wakes", || run(wakes())),
        ("nested", || run(nested())),
        ("ten-thousand", || run(ten_thousand())),
        ("under-load", || run(under_load())),
        ("default-policies", || run(default_policies())),
        ("set-policy", || run(set_policy())),
        ("signals", || run(signals())),
        ("signal-before-the-fork", || run(signal_before_the_fork())),
        ("spawn-blocking", || run(spawn_blocking())),
        ("refuses-threads", || run(refuses_threads())),
        ("refuses-multi-thread", refuses_multi_thread),
        ("refuses-no-runtime", refuses_no_runtime),
        ("refuses-no-io", refuses_no_io),
        ("refuses-descriptor-limit", || run(refuses_descriptor_limit())),
        ("refuses-process-limit", || run(refuses_process_limit())),
        ("no-fork", || run(no_fork())),
        ("on-child", || run(on_child())),
        ("child-handle", || run(child_handle())),
        ("child-handle-in-a-child", || run(child_handle_in_a_child())),
        ("tokio-child-in-a-child", || run(tokio_child_in_a_child())),
        ("buffered-output", || run(buffered_output())),
        ("two-runtimes", two_runtimes),
        ("local-set", || run(local_set())),
        ("prefork-crash-loop", || run(prefork_crash_loop())),
        ("prefork-replaces", || run(prefork_replaces())),
        ("prefork-exit-status", || run(prefork_exit_status())),
        ("prefork-panic", || run(prefork_panic())),
        ("prefork-no-workers", || run(prefork_no_workers())),
        ("prefork-kills-the-stuck", || run(prefork_kills_the_stuck())),
        ("prefork-beside-another-fork", || run(prefork_beside_another_fork())),
        ("prefork-has-no-way-back", || run(prefork_has_no_way_back())),
        ("prefork-in-no-fork", || run(prefork_in_no_fork())),
        ("prefork-drains-for-ever", || run(prefork_drains_for_ever())),
        ("prefork-orphans", || run(prefork_orphans())),
        ("prefork-stops-while-it-waits", || run(prefork_stops_while_it_waits())),
        ("no-fork-forks", || run(no_fork_forks())),
        ("threads-that-nobody-joined", || run(threads_that_nobody_joined())),
    ]);
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Short, so that a fork after `spawn_blocking` need not wait for tokio's ten seconds.
    builder.enable_all().thread_keep_alive(Duration::from_millis(20)).build().expect("a runtime")
}

fn run(scenario: impl Future<Output = ()>) {
    runtime().block_on(async { timeout(LONG, scenario).await.expect("a scenario that hangs") });
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The two ends of a connection within this process.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = bind().await;
    let (connected, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

async fn both_serve() {
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    let turn = Turn::new().unwrap();
    let serve = async |listener: &TcpListener, count: usize| {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&std::process::id().to_le_bytes()).await.unwrap();
        }
    };
    let child = fork_child(async || {
        serve(&listener, 50).await;
        wait_for(&turn).await;
    })
    .await;
    let ask = || async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.read_u32_le().await.unwrap()
    };
    // While the parent does not accept, the child does; then the child has had enough, and the parent does.
    for _ in 0..50 {
        check_eq("who serves", ask().await, child.id());
    }
    let (_, pids) = tokio::join!(serve(&listener, 50), async {
        let mut pids = BTreeSet::new();
        for _ in 0..50 {
            pids.insert(ask().await);
        }
        pids
    });
    check_eq("who serves", pids, BTreeSet::from([std::process::id()]));
    turn.give();
    reap(child).await;
}

/// What straddles the fork fires once per process, not before its time, and not long after it.
async fn timers() {
    const SLACK: Duration = Duration::from_secs(3);
    let start = Instant::now();
    let on_time = move |what: &str, due: Duration| {
        let elapsed = start.elapsed();
        assert!(elapsed >= due && elapsed < due + SLACK, "{what} in {}: {elapsed:?}", std::process::id());
    };
    let slept = Arc::new(AtomicU32::new(0));
    let timed_out = Arc::new(AtomicU32::new(0));
    let ticks = Arc::new(AtomicU32::new(0));
    tokio::spawn({
        let slept = Arc::clone(&slept);
        async move {
            sleep(Duration::from_millis(300)).await;
            on_time("sleep", Duration::from_millis(300));
            slept.fetch_add(1, Ordering::Relaxed);
        }
    });
    tokio::spawn({
        let timed_out = Arc::clone(&timed_out);
        async move {
            timeout(Duration::from_millis(400), std::future::pending::<()>()).await.unwrap_err();
            on_time("timeout", Duration::from_millis(400));
            timed_out.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut every = interval(Duration::from_millis(50));
    tokio::spawn({
        let ticks = Arc::clone(&ticks);
        async move {
            for tick in 0..20 {
                every.tick().await;
                on_time("interval", tick * Duration::from_millis(50));
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    sleep(Duration::from_millis(110)).await;
    let check = async || {
        while ticks.load(Ordering::Relaxed) < 20
            || slept.load(Ordering::Relaxed) + timed_out.load(Ordering::Relaxed) < 2
        {
            sleep(Duration::from_millis(5)).await;
        }
        let counts = [&slept, &timed_out, &ticks].map(|count| count.load(Ordering::Relaxed));
        check_eq("how often each fired", counts, [1, 1, 20]);
    };
    let child = fork_child(check).await;
    check().await;
    reap(child).await;
}

/// A channel, a task that waits for it, another one that sends: in both processes, after the fork.
async fn tasks_go_on() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<u32>(1);
    let echo = tokio::spawn(async move {
        let mut sum = 0;
        while let Some(number) = receiver.recv().await {
            sum += number;
        }
        sum
    });
    tokio::task::yield_now().await;
    let finish = async |number| {
        for _ in 0..1_000 {
            sender.send(number).await.unwrap();
        }
        drop(sender);
        check_eq("the sum", echo.await.unwrap(), 1_000 * number);
    };
    match forkio::fork().await.unwrap() {
        Fork::Parent(child) => {
            finish(1).await;
            reap(child).await;
        }
        Fork::Child(lineage) => {
            check_eq("generation", lineage.generation(), 1);
            finish(2).await;
            std::process::exit(0);
        }
    }
}

/// Wakes of the runtime from other threads, thousands in each process, reach the process they were meant for.
async fn wakes() {
    let storm = async || {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<u32>(1);
        let thread = std::thread::spawn(move || (0..3_000).for_each(|number| sender.blocking_send(number).unwrap()));
        for expected in 0..3_000 {
            check_eq("from the thread", receiver.recv().await, Some(expected));
        }
        thread.join().unwrap();
    };
    let child = fork_child(storm).await;
    storm().await;
    reap(child).await;
    // The thread is gone: it can be done again.
    reap(fork_child(storm).await).await;
}

async fn nested() {
    async fn descend(depth: u32, listener: &TcpListener) {
        let lineage = forkio::lineage();
        check_eq("generation", lineage.generation(), depth);
        check_eq("parent", lineage.parent().is_some(), depth > 0);
        if depth > 0 {
            check_eq("parent", lineage.parent(), Some(std::os::unix::process::parent_id()));
        }
        sleep(Duration::from_millis(10)).await;
        if depth < 5 {
            let child = fork_child(async || Box::pin(descend(depth + 1, listener)).await).await;
            reap(child).await;
        }
        let (connected, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        drop((connected.unwrap(), accepted.unwrap()));
    }
    descend(0, &bind().await).await;
}

async fn ten_thousand() {
    let _listener = bind().await;
    let (_a, _b) = connection().await;
    let _signal = signal(SignalKind::user_defined1()).unwrap();
    reap(fork_child(async || {}).await).await;
    let before = open_descriptors();
    for round in 0..10_000 {
        let mut child = match forkio::fork().await.unwrap() {
            Fork::Parent(child) => child,
            // SAFETY: ends the process at once: ten thousand times, so no longer than it must.
            Fork::Child(_) => unsafe { libc::_exit(if open_descriptors_match(&before, round) { 0 } else { 9 }) },
        };
        let status = child.wait().await.unwrap();
        assert!(status.success(), "round {round}: {status}");
    }
    check_eq("descriptors", open_descriptors(), before);
    let own = std::process::id().cast_signed();
    let children: Vec<_> = processes().into_values().filter(|stat| stat.parent == own).collect();
    assert!(children.is_empty(), "{children:?}");
}

/// In every thousandth child: it has what the parent has. (Listing them takes longer than the fork.)
fn open_descriptors_match(before: &[i32], round: u32) -> bool {
    !round.is_multiple_of(1_000) || open_descriptors() == before
}

/// An echo server; the test is its clients. Forks while they talk, and closes while the children live.
async fn under_load() {
    let listener = bind().await;
    println!("{}", listener.local_addr().unwrap());
    let mut echoes = tokio::task::JoinSet::new();
    let mut children = Vec::new();
    let end = Turn::new().unwrap();
    let mut forks = interval(Duration::from_millis(15));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut stream, _) = accepted.unwrap();
                echoes.spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    // The client ends by closing its half; then this end is closed.
                    tokio::io::copy(&mut reader, &mut writer).await.map(|_| std::process::id())
                });
            }
            Some(done) = echoes.join_next() => {
                check_eq("whose connection ended", done.unwrap().unwrap(), std::process::id());
                if echoes.is_empty() {
                    break;
                }
            }
            _ = forks.tick(), if children.len() < 40 => {
                match forkio::fork().await.unwrap() {
                    Fork::Parent(child) => children.push(child),
                    Fork::Child(_) => {
                        // Its copies of the connections have ended: each task has read the end, or was in the
                        // middle of an answer, which cannot be written.
                        while let Some(done) = echoes.join_next().await {
                            if let Err(error) = done.unwrap() {
                                check_eq("the task's error", error.kind(), ErrorKind::BrokenPipe);
                            }
                        }
                        drop(children);
                        wait_for(&end).await;
                        std::process::exit(0);
                    }
                }
            }
        }
    }
    // The clients have seen the end of every connection by now, or will: while all the children live.
    println!("closed with {} children", children.len());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    // All of them first: which child takes which is open.
    children.iter().for_each(|_| end.give());
    for child in children {
        reap(child).await;
    }
}

async fn default_policies() {
    let (mut ours, mut peer) = connection().await;
    let (mut pair, mut other_end) = UnixStream::pair().unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    peer.write_all(b"for the parent").await.unwrap();
    // A task that waits in both processes.
    let reader = tokio::spawn(async move {
        let mut bytes = Vec::new();
        ours.read_to_end(&mut bytes).await.map(|_| bytes)
    });
    let child = fork_child(async || {
        check_eq("a stream is severed", reader.await.unwrap().unwrap(), b"".to_vec());
        other_end.write_all(b"to the parent").await.unwrap();
        let mut buffer = [0; 8];
        let (read, _) = datagrams.recv_from(&mut buffer).await.unwrap();
        check_eq("datagrams are inherited", &buffer[..read], b"x");
    })
    .await;
    sender.send_to(b"x", datagrams.local_addr().unwrap()).await.unwrap();
    let mut buffer = [0; 13];
    pair.read_exact(&mut buffer).await.unwrap();
    check_eq("a pair is the channel to the parent", &buffer, b"to the parent");
    reap(child).await;
}

async fn set_policy() {
    let (ours, mut peer) = connection().await;
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    forkio::set_policy(&ours, ForkPolicy::Inherit).unwrap();
    forkio::set_policy(&datagrams, ForkPolicy::NoFork).unwrap();
    // Waiting at the fork, and not yet seen by the driver: the child's queue would tell.
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"x", datagrams.local_addr().unwrap()).unwrap();
    let child = fork_child(async || {
        let mut buffer = [0; 8];
        ours.readable().await.unwrap();
        check_eq("inherited", ours.try_read(&mut buffer).unwrap(), 5);
        let silence = timeout(Duration::from_millis(50), datagrams.readable()).await;
        assert!(silence.is_err(), "no events for a no-fork registration");
    })
    .await;
    peer.write_all(b"hello").await.unwrap();
    timeout(LONG, datagrams.readable()).await.expect("the parent's event").unwrap();
    reap(child).await;
    check_eq("default", forkio::default_policy(SourceKind::Stream), ForkPolicy::Sever);
    check_eq("before", forkio::set_default_policy(SourceKind::Stream, ForkPolicy::Inherit), ForkPolicy::Sever);
    check_eq("after", forkio::default_policy(SourceKind::Stream), ForkPolicy::Inherit);
}

fn send_signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    check_eq("kill", unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// Receives `count` signals, each sent when the one before has been received.
async fn receive(stream: &mut Signal, count: u32, send: impl Fn()) {
    for _ in 0..count {
        send();
        timeout(LONG, stream.recv()).await.expect("a signal").expect("a stream that goes on");
    }
}

async fn is_silent(stream: &mut Signal) -> bool {
    timeout(Duration::from_millis(30), stream.recv()).await.is_err()
}

async fn signals() {
    let mut first = signal(SignalKind::user_defined1()).unwrap();
    let (to_parent, to_child) = (Turn::new().unwrap(), Turn::new().unwrap());
    let own = std::process::id();
    let child = fork_child(async || {
        let own = std::process::id();
        receive(&mut first, 200, || send_signal(own, libc::SIGUSR1)).await;
        // One that the parent never asked for.
        let mut second = signal(SignalKind::user_defined2()).unwrap();
        receive(&mut second, 200, || send_signal(own, libc::SIGUSR2)).await;
        to_parent.give();
        wait_for(&to_child).await;
        assert!(is_silent(&mut first).await, "the parent's signals in the child");
        receive(&mut first, 1, || send_signal(own, libc::SIGUSR1)).await;
        reap(
            fork_child(async || receive(&mut first, 5, || send_signal(std::process::id(), libc::SIGUSR1)).await).await,
        )
        .await;
        assert!(is_silent(&mut first).await, "the grandchild's signals in the child");
    })
    .await;
    wait_for(&to_parent).await;
    assert!(is_silent(&mut first).await, "the child's signals in the parent");
    receive(&mut first, 200, || send_signal(own, libc::SIGUSR1)).await;
    to_child.give();
    reap(child).await;
    assert!(is_silent(&mut first).await, "the child's signals in the parent");
}

/// Sent to the parent before the fork, and not yet read: the parent's alone.
async fn signal_before_the_fork() {
    let received = Arc::new(AtomicU32::new(0));
    tokio::spawn({
        let received = Arc::clone(&received);
        let mut stream = signal(SignalKind::user_defined1()).unwrap();
        async move {
            while stream.recv().await.is_some() {
                received.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    tokio::task::yield_now().await;
    for round in 1..=200 {
        send_signal(std::process::id(), libc::SIGUSR1);
        let received = Arc::clone(&received);
        let at_fork = Arc::clone(&received);
        let child = fork_child(async || {
            check_eq("before the child was there", received.load(Ordering::Relaxed), round);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            sleep(Duration::from_millis(1)).await;
            check_eq("in the child", received.load(Ordering::Relaxed), round);
        })
        .await;
        check_eq("in the parent", at_fork.load(Ordering::Relaxed), round);
        reap(child).await;
    }
}

async fn spawn_blocking() {
    // Several at once, so that several threads come, and go when they have been idle.
    let blocking = async || {
        let tasks: Vec<_> = (0..3).map(|number| tokio::task::spawn_blocking(move || number)).collect();
        for (number, task) in tasks.into_iter().enumerate() {
            check_eq("blocking", task.await.unwrap(), number);
        }
    };
    reap(fork_child(blocking).await).await;
    for _ in 0..10 {
        blocking().await;
        // The parent's pool has threads now: the fork waits until they have gone.
        let child = fork_child(async || {
            for _ in 0..3 {
                blocking().await;
            }
            tokio::fs::metadata("/").await.unwrap();
            // The same here; what ended in the parent must not be in the way of what ends here.
            reap(fork_child(blocking).await).await;
            blocking().await;
        })
        .await;
        reap(child).await;
    }
}

/// Runs `attempt`, which is to be refused, and checks that nothing has changed.
async fn refused<F: Future<Output = Result<Fork, ForkError>>>(attempt: impl FnOnce() -> F) -> ForkError {
    let before = open_descriptors();
    let error = attempt().await.expect_err("a fork that is refused");
    check_eq("descriptors", open_descriptors(), before);
    check_eq("generation", forkio::lineage().generation(), 0);
    error
}

async fn refuses_threads() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("in-the-way".to_owned());
    let thread = thread.spawn(move || stopped.recv()).unwrap();
    // Whatever is opened once for all is opened by the first call.
    let options = ForkOptions::new().idle_threads(Duration::from_millis(60));
    options.fork().await.expect_err("refused");
    match refused(|| options.fork()).await {
        ForkError::Threads(threads) => {
            let names: Vec<_> = threads.iter().map(|thread| thread.name.as_str()).collect();
            check_eq("names", names, vec!["in-the-way"]);
        }
        error => panic!("{error:?}"),
    }
    let text = options.fork().await.unwrap_err().to_string();
    assert!(text.contains("`in-the-way`") && text.contains("thread_keep_alive"), "{text}");
    // One that goes while the fork waits is not in the way.
    let later = tokio::spawn(async move {
        sleep(Duration::from_millis(30)).await;
        stop.send(()).unwrap();
    });
    let child = fork_child(async || {}).await;
    later.await.unwrap();
    thread.join().unwrap().unwrap();
    reap(child).await;
}

fn refuses_multi_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(async {}).await.unwrap();
        let error = refused(forkio::fork).await;
        let text = error.to_string();
        assert!(text.contains("new_current_thread"), "{text}");
        match error {
            ForkError::MultiThreadRuntime(threads) => {
                assert!(threads.iter().any(|thread| thread.name == "tokio-rt-worker"), "{threads:?}");
            }
            error => panic!("{error:?}"),
        }
    });
}

fn refuses_no_runtime() {
    let error = forkio_tests::block_on(refused(forkio::fork));
    assert!(matches!(error, ForkError::NoRuntime), "{error:?}");
}

fn refuses_no_io() {
    // Another runtime has selectors; this one has none.
    let _other = runtime();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    std::panic::set_hook(Box::new(|_| {}));
    let error = runtime.block_on(refused(forkio::fork));
    assert!(matches!(error, ForkError::NoIoDriver), "{error:?}");
    drop(runtime);
    reap_in_fresh_runtime();
}

fn reap_in_fresh_runtime() {
    runtime().block_on(async { reap(fork_child(async || {}).await).await });
}

async fn refuses_descriptor_limit() {
    reap(fork_child(async || {}).await).await;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`.
    check_eq("getrlimit", unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    let before = open_descriptors();
    let narrow = libc::rlimit { rlim_cur: 0, ..limit };
    // SAFETY: the kernel reads its argument.
    check_eq("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &narrow) }, 0);
    let error = forkio::fork().await.expect_err("no descriptor left");
    // SAFETY: as above.
    check_eq("setrlimit", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    check_eq("descriptors", open_descriptors(), before);
    match &error {
        ForkError::Prepare(error) => {
            check_eq("error", error.io_error().raw_os_error(), Some(libc::EMFILE));
            // A kqueue is made in the child.
            let is_queue = matches!(error.object(), forkio::PrepareObject::Queue(_));
            assert!(is_queue || cfg!(not(epoll)), "{error:?}");
        }
        error => panic!("{error:?}"),
    }
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    reap(fork_child(async || {}).await).await;
}

/// fork(2) itself fails.
async fn refuses_process_limit() {
    reap(fork_child(async || {}).await).await;
    let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads `nothing`; this process has one thread. (The limit does not hold for root. Who is not
    // root has no privileges to give up.)
    unsafe {
        check_eq("setrlimit", libc::setrlimit(libc::RLIMIT_NPROC, &nothing), 0);
        libc::setuid(65_534);
    }
    let error = refused(forkio::fork).await;
    match &error {
        ForkError::Fork(error) => check_eq("error", error.raw_os_error(), Some(libc::EAGAIN)),
        error => panic!("{error:?}"),
    }
    assert!(error.to_string().contains("RLIMIT_NPROC"), "{error}");
    // The runtime is as it was.
    let (mut a, mut b) = connection().await;
    a.write_all(b"x").await.unwrap();
    check_eq("a connection", b.read_u8().await.unwrap(), b'x');
}

async fn no_fork() {
    struct Dropped(Arc<AtomicU32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let polls = Arc::new(AtomicU32::new(0));
    let drops = Arc::new(AtomicU32::new(0));
    let maintenance = tokio::spawn(forkio::no_fork({
        let (polls, dropped) = (Arc::clone(&polls), Dropped(Arc::clone(&drops)));
        async move {
            let _dropped = dropped;
            // An hour is not waited for: the child is told.
            for pause in [Duration::from_millis(10), Duration::from_secs(3_600)] {
                polls.fetch_add(1, Ordering::Relaxed);
                sleep(pause).await;
            }
        }
    }));
    while polls.load(Ordering::Relaxed) < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    let never_polled = forkio::no_fork(async { panic!("polled in the child") });
    match forkio::fork().await.unwrap() {
        Fork::Parent(child) => {
            reap(child).await;
            assert!(!maintenance.is_finished());
            check_eq("drops", drops.load(Ordering::Relaxed), 0);
            check_eq("made here", forkio::no_fork(async { 3 }).await, Ok(3));
        }
        Fork::Child(_) => {
            check_eq("in the child", maintenance.await.unwrap(), Err(Forked));
            check_eq("polls", polls.load(Ordering::Relaxed), 2);
            check_eq("drops", drops.load(Ordering::Relaxed), 1);
            check_eq("never polled", never_polled.await, Err(Forked));
            // What is made in the child is the child's.
            check_eq("made here", forkio::no_fork(async { 3 }).await, Ok(3));
            std::process::exit(0);
        }
    }
}

async fn on_child() {
    static CALLS: Mutex<Vec<(u32, &str)>> = Mutex::new(Vec::new());
    let note = |name| move |lineage: &forkio::Lineage| CALLS.lock().unwrap().push((lineage.generation(), name));
    forkio::on_child(note("first"));
    forkio::on_child(move |lineage| {
        note("second")(lineage);
        if lineage.generation() == 1 {
            forkio::on_child(note("third"));
        }
    });
    let child = fork_child(async || {
        check_eq("calls", CALLS.lock().unwrap().clone(), vec![(1, "first"), (1, "second")]);
        reap(
            fork_child(async || {
                let calls = CALLS.lock().unwrap().split_off(2);
                check_eq("calls", calls, vec![(2, "first"), (2, "second"), (2, "third")]);
            })
            .await,
        )
        .await;
    })
    .await;
    check_eq("calls in the parent", CALLS.lock().unwrap().len(), 0);
    reap(child).await;
}

async fn child_handle() {
    // An exit status, twice the same.
    let mut child = match forkio::fork().await.unwrap() {
        Fork::Parent(child) => child,
        Fork::Child(_) => std::process::exit(42),
    };
    check_eq("status", child.wait().await.unwrap().code(), Some(42));
    check_eq("again", child.wait().await.unwrap().code(), Some(42));
    check_eq("signal to the reaped", child.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    // Ended by a signal.
    let mut child = fork_child(std::future::pending).await;
    check_eq("running", child.try_wait().unwrap(), None);
    child.signal(libc::SIGCONT).unwrap();
    // No system has as many.
    child.signal(129).unwrap_err();
    let invalid = child.signal(9_999).unwrap_err();
    check_eq("no such signal", invalid.kind(), ErrorKind::InvalidInput);
    // A wait that is given up takes nothing with it.
    assert!(timeout(Duration::from_millis(10), child.wait()).await.is_err());
    child.signal(libc::SIGTERM).unwrap();
    let status: ExitStatus = child.wait().await.unwrap();
    check_eq("signal", std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
    // Dropped while it runs: neither killed nor left as a zombie.
    let turn = Turn::new().unwrap();
    let child = fork_child(async || wait_for(&turn).await).await;
    let pid = child.id().cast_signed();
    drop(child);
    sleep(Duration::from_millis(10)).await;
    check_eq("alive", processes().get(&pid).map(|stat| stat.state != 'Z'), Some(true));
    turn.give();
    while processes().contains_key(&pid) {
        sleep(Duration::from_millis(2)).await;
    }
}

/// Whoever waits for a process that is another one's child finds out at once.
async fn child_handle_in_a_child() {
    let turn = Turn::new().unwrap();
    let mut sibling = fork_child(async || wait_for(&turn).await).await;
    let failed = Rc::new(Cell::new(0));
    let is_forked = |error: std::io::Error| error.get_ref().is_some_and(|source| source.is::<Forked>());
    let local = tokio::task::LocalSet::new();
    let failures = Rc::clone(&failed);
    // Waiting at the fork.
    let waiting = local.spawn_local(async move {
        let result = sibling.wait().await;
        if result.is_err_and(is_forked) {
            failures.set(failures.get() + 1);
        }
        sibling
    });
    local
        .run_until(async {
            tokio::task::yield_now().await;
            match forkio::fork().await.unwrap() {
                Fork::Parent(child) => {
                    reap(child).await;
                    turn.give();
                    let mut sibling = waiting.await.unwrap();
                    assert!(sibling.wait().await.unwrap().success());
                    check_eq("failed", failed.get(), 0);
                }
                Fork::Child(_) => {
                    let mut sibling = waiting.await.unwrap();
                    check_eq("failed", failed.get(), 1);
                    assert!(sibling.wait().await.is_err_and(is_forked));
                    assert!(sibling.signal(libc::SIGKILL).is_err_and(is_forked));
                    drop(sibling);
                    std::process::exit(0);
                }
            }
        })
        .await;
}

/// tokio's own handle to a process: in a child that is not its parent, waiting fails at once.
async fn tokio_child_in_a_child() {
    let mut cat = tokio::process::Command::new("cat");
    let mut cat = cat.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = cat.stdin.take().unwrap();
    let mut output = cat.stdout.take().unwrap();
    let child = fork_child(async || {
        let error = timeout(LONG, cat.wait()).await.expect("no hang").unwrap_err();
        check_eq("waiting", error.raw_os_error(), Some(libc::ECHILD));
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).await.unwrap();
        check_eq("the pipe is severed", bytes.len(), 0);
    })
    .await;
    reap(child).await;
    input.write_all(b"parent").await.unwrap();
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text).await.unwrap();
    check_eq("the parent's pipes", text.as_str(), "parent");
    assert!(cat.wait().await.unwrap().success());
}

/// Half a line in the standard library's buffer is written once.
async fn buffered_output() {
    print!("half a line");
    reap(fork_child(async || {}).await).await;
    println!();
    std::io::stdout().flush().unwrap();
}

/// Both are carried over, the one that is not running too.
fn two_runtimes() {
    let (first, second) = (runtime(), runtime());
    let stream = |runtime: &tokio::runtime::Runtime| {
        let _context = runtime.enter();
        signal(SignalKind::user_defined1()).unwrap()
    };
    let (mut first_signal, mut second_signal) = (stream(&first), stream(&second));
    let listener = second.block_on(bind());
    let mut check = || {
        let own = std::process::id();
        first.block_on(receive(&mut first_signal, 3, || send_signal(own, libc::SIGUSR1)));
        second.block_on(async {
            second_signal.recv().await.unwrap();
            receive(&mut second_signal, 3, || send_signal(own, libc::SIGUSR1)).await;
        });
    };
    let child = first.block_on(async {
        match forkio::fork().await.unwrap() {
            Fork::Parent(child) => Some(child),
            Fork::Child(_) => None,
        }
    });
    check();
    match child {
        Some(child) => {
            let (mut client, mut server) = second.block_on(async {
                let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                (client, listener.accept().await.unwrap().0)
            });
            second.block_on(async {
                client.write_all(b"x").await.unwrap();
                check_eq("served by the second runtime", server.read_u8().await.unwrap(), b'x');
            });
            first.block_on(reap(child));
        }
        None => std::process::exit(0),
    }
}

async fn local_set() {
    let local = tokio::task::LocalSet::new();
    let count = Rc::new(Cell::new(0));
    let counting = Rc::clone(&count);
    local.spawn_local(async move {
        loop {
            counting.set(counting.get() + 1);
            sleep(Duration::from_millis(1)).await;
        }
    });
    local
        .run_until(async {
            let child = fork_child(async || {
                let before = count.get();
                while count.get() < before + 10 {
                    sleep(Duration::from_millis(2)).await;
                }
            })
            .await;
            reap(child).await;
        })
        .await;
}

async fn prefork_crash_loop() {
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    let start = Instant::now();
    let prefork = Prefork::new().listener(listener).workers(2).crash_limit(4);
    let error = prefork
        .run(async |worker: Worker| -> u8 {
            if worker.index() == 1 {
                return 3;
            }
            worker.shutdown().await;
            0
        })
        .await
        .expect_err("a crash loop");
    match &error {
        PreforkError::CrashLoop { worker: 1, ends: 4, status } => check_eq("status", status.code(), Some(3)),
        error => panic!("{error:?}"),
    }
    check_eq("exit code", error.exit_code(), 3);
    // Three delays between four ends.
    assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());
    let own = std::process::id().cast_signed();
    assert!(processes().values().all(|stat| stat.parent != own), "workers left behind");
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
}

/// A worker that ends is replaced, by one with its index, until the server is told to stop.
async fn prefork_replaces() {
    let (mut parent_end, child_end) = UnixStream::pair().unwrap();
    let stopper = tokio::spawn(forkio::no_fork(async move {
        let mut pids = BTreeSet::new();
        while pids.len() < 5 {
            pids.insert(parent_end.read_u32_le().await.unwrap());
        }
        send_signal(std::process::id(), libc::SIGTERM);
        parent_end
    }));
    let child_end = Arc::new(child_end);
    let stopped = Prefork::new()
        .workers(2)
        .run(async |worker: Worker| {
            check_eq("lineage", forkio::lineage().worker(), Some(worker.index()));
            while child_end.try_write(&std::process::id().to_le_bytes()).is_err() {
                child_end.writable().await.unwrap();
            }
            if worker.index() == 0 {
                return;
            }
            worker.shutdown().await;
        })
        .await
        .unwrap();
    check_eq("exit code", stopped.exit_code(), 0);
    stopper.await.unwrap().unwrap();
}

async fn prefork_exit_status() {
    static READY: AtomicUsize = AtomicUsize::new(0);
    let stopped = Prefork::new()
        .workers(2)
        .on_ready(|| {
            READY.fetch_add(1, Ordering::Relaxed);
            send_signal(std::process::id(), libc::SIGINT);
        })
        .run(async |worker: Worker| {
            worker.shutdown().await;
            if worker.index() == 0 { Ok(()) } else { Err("on purpose") }
        })
        .await
        .unwrap();
    check_eq("ready", READY.load(Ordering::Relaxed), 1);
    check_eq("workers", stopped.workers().len(), 2);
    check_eq("exit code", stopped.exit_code(), 1);
}

async fn prefork_panic() {
    let error =
        Prefork::new().workers(1).crash_limit(1).run(async |_| -> () { panic!("on purpose") }).await.unwrap_err();
    check_eq("exit code", error.exit_code(), 101);
}

async fn prefork_no_workers() {
    let error = Prefork::new().workers(0).run(async |_| ()).await.unwrap_err();
    assert!(matches!(error, PreforkError::NoWorkers), "{error:?}");
}

/// One that does not even poll its signals.
async fn prefork_kills_the_stuck() {
    let start = Instant::now();
    let stuck = UnixStream::pair().unwrap();
    let (mut parent_end, child_end) = stuck;
    tokio::spawn(forkio::no_fork(async move {
        parent_end.read_u8().await.unwrap();
        send_signal(std::process::id(), libc::SIGTERM);
    }));
    let stopped = Prefork::new()
        .workers(1)
        .drain_timeout(Duration::from_millis(200))
        .run(async |_| -> () {
            child_end.writable().await.unwrap();
            child_end.try_write(&[1]).unwrap();
            loop {
                std::thread::park();
            }
        })
        .await
        .unwrap();
    check_eq("exit code", stopped.exit_code(), 128 + 9);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let mut nothing = [0; 1];
    check_eq("stdin is empty", std::io::stdin().read(&mut nothing).unwrap(), 0);
}

fn children() -> Vec<i32> {
    let own = std::process::id().cast_signed();
    processes().into_values().filter(|stat| stat.parent == own && stat.state != 'Z').map(|stat| stat.pid).collect()
}

/// A child that another task forks is no second supervisor.
async fn prefork_beside_another_fork() {
    let listener = bind().await;
    tokio::spawn(forkio::no_fork(async {
        while children().len() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        let helper = fork_child(async || {
            sleep(Duration::from_millis(300)).await;
            check_eq("the helper's children", children(), vec![]);
        })
        .await;
        reap(helper).await;
        send_signal(std::process::id(), libc::SIGTERM);
    }));
    let prefork = Prefork::new().listener(listener).workers(2);
    let stopped = prefork.run(async |worker: Worker| worker.shutdown().await).await.unwrap();
    check_eq("exit code", stopped.exit_code(), 0);
}

/// Whoever drops the future in a worker does not get the worker; who drops it in the parent ends the workers.
async fn prefork_has_no_way_back() {
    let turn = Turn::new().unwrap();
    let parent = std::process::id();
    let prefork = Prefork::new().workers(1).run(async |worker: Worker| {
        // Once for each process: the other branch of the `select!` below goes on in the worker too.
        turn.give();
        turn.give();
        worker.shutdown().await;
    });
    tokio::select! {
        _ = prefork => unreachable!("nobody stops it"),
        () = async {
            wait_for(&turn).await;
            // In the worker too, a moment later.
            sleep(Duration::from_millis(50)).await;
        } => check_eq("who goes on", std::process::id(), parent),
    }
    while !children().is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
}

/// The parent's alone, workers included.
async fn prefork_in_no_fork() {
    let result = forkio::no_fork(async {
        let prefork = Prefork::new().workers(2).on_ready(|| send_signal(std::process::id(), libc::SIGTERM));
        prefork.run(async |worker: Worker| worker.shutdown().await).await.unwrap().exit_code()
    });
    check_eq("exit code", result.await, Ok(0));
}

async fn prefork_drains_for_ever() {
    let prefork = Prefork::new().workers(1).drain_timeout(Duration::MAX);
    let prefork = prefork.on_ready(|| send_signal(std::process::id(), libc::SIGTERM));
    let stopped = prefork.run(async |worker: Worker| worker.shutdown().await).await.unwrap();
    check_eq("exit code", stopped.exit_code(), 0);
}

/// Workers end when their parent is killed: one that waits, one that is stuck, one that has given up its privileges.
async fn prefork_orphans() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let server = fork_child(async || {
        let prefork = Prefork::new().workers(3).drain_timeout(Duration::ZERO);
        let _ = prefork
            .run(async |worker: Worker| -> () {
                if worker.index() == 2 {
                    // SAFETY: this worker has one thread. (Without privileges to give up, it has none to lose.)
                    unsafe { libc::setuid(65_534) };
                }
                theirs.writable().await.unwrap();
                theirs.try_write(&std::process::id().to_le_bytes()).unwrap();
                if worker.index() == 1 {
                    loop {
                        std::thread::park();
                    }
                }
                worker.shutdown().await;
            })
            .await;
    })
    .await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(ours.read_u32_le().await.unwrap().cast_signed());
    }
    server.kill().unwrap();
    while workers.iter().any(|pid| processes().contains_key(pid)) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// A thread is in the way of the first fork, and will be for longer than anybody wants to wait for the end.
async fn prefork_stops_while_it_waits() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    tokio::spawn(async {
        sleep(Duration::from_millis(50)).await;
        send_signal(std::process::id(), libc::SIGTERM);
    });
    let options = ForkOptions::new().idle_threads(Duration::from_secs(3_600));
    let prefork = Prefork::new().workers(2).fork_options(options).on_ready(|| unreachable!("no worker was forked"));
    let stopped = prefork.run(async |_| ()).await.unwrap();
    check_eq("workers", stopped.workers().len(), 0);
    drop(stop);
    thread.join().unwrap().unwrap_err();
}

/// A future that the child does not run may fork by itself: its own child goes on with it.
async fn no_fork_forks() {
    let forking = forkio::no_fork(async {
        match forkio::fork().await.unwrap() {
            Fork::Parent(mut child) => child.wait().await.unwrap().code(),
            Fork::Child(_) => {
                sleep(Duration::from_millis(20)).await;
                std::process::exit(7);
            }
        }
    });
    check_eq("the child's status", forking.await, Ok(Some(7)));
}

/// Many threads that have ended and not been joined, more than glibc keeps stacks for: the child can join them, and make
/// its own.
async fn threads_that_nobody_joined() {
    let threads: Vec<_> = (0..40).map(|number| std::thread::spawn(move || number)).collect();
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        sleep(Duration::from_millis(2)).await;
    }
    reap(
        fork_child(async || {
            let own: Vec<_> = (0..40).map(|number| std::thread::spawn(move || number)).collect();
            for (number, (old, own)) in threads.into_iter().zip(own).enumerate() {
                check_eq("an old thread", old.join().unwrap(), number);
                check_eq("an own thread", own.join().unwrap(), number);
            }
        })
        .await,
    )
    .await;
}
