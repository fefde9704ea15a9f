//! Scenarios of [`forkio::atfork`]: a C library forks inside a task of a current-thread runtime.

use std::future::Future;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forkio::{Fork, Forked};
use forkio_tests::{check_eq, fixture_main, foreign, reap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{interval, sleep, timeout};

const LONG: Duration = Duration::from_secs(60);

fn main() {
    fixture_main(&[
        ("goes-on", || run(goes_on())),
        ("daemon", || run(daemon())),
        ("mixed", || run(mixed())),
        ("lineage", || run(lineage())),
        ("commands", || run(commands())),
        ("fresh-runtime", fresh_runtime),
    ]);
}

fn run(scenario: impl Future<Output = ()>) {
    forkio::atfork::install().expect("handlers");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(LONG, scenario).await.expect("a scenario that hangs") });
}

/// Forks behind the runtime's back; the child runs `child` and exits.
async fn fork_child<F: Future<Output = ()>>(child: impl FnOnce() -> F) -> i32 {
    match foreign::fork() {
        Some(pid) => pid,
        None => {
            child().await;
            std::process::exit(0);
        }
    }
}

/// Waits for a child that others have made, while the runtime goes on.
async fn ended(pid: i32) {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes the status.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 => sleep(Duration::from_millis(5)).await,
            waited => {
                check_eq("reaping the child", waited, pid);
                return check_eq("the child's status", status, 0);
            }
        }
    }
}

async fn ask(address: std::net::SocketAddr) -> u32 {
    TcpStream::connect(address).await.unwrap().read_u32_le().await.unwrap()
}

async fn serve_one(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(&std::process::id().to_le_bytes()).await.unwrap();
}

/// Listener, connection, timers, signals, wakes: in both processes, each its own.
async fn goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut ours, (mut theirs, _)) = (ours.unwrap(), theirs.unwrap());
    let mut signals = signal(SignalKind::user_defined1()).unwrap();
    let mut ticks = interval(Duration::from_millis(10));
    ticks.tick().await;
    let use_all = async |ticks: &mut tokio::time::Interval, signals: &mut tokio::signal::unix::Signal| {
        for _ in 0..3 {
            ticks.tick().await;
        }
        // SAFETY: no memory is involved; the stream has its handler.
        unsafe { libc::raise(libc::SIGUSR1) };
        signals.recv().await.unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || sender.send(()).unwrap());
        receiver.await.unwrap();
        thread.join().unwrap();
    };
    let child = fork_child(async || {
        check_eq("the severed connection", ours.read(&mut [0; 8]).await.unwrap(), 0);
        use_all(&mut ticks, &mut signals).await;
        serve_one(&listener).await;
    })
    .await;
    check_eq("who serves", ask(address).await, child.cast_unsigned());
    ended(child).await;
    use_all(&mut ticks, &mut signals).await;
    // The child's signal was not this process's.
    assert!(timeout(Duration::from_millis(20), signals.recv()).await.is_err(), "the child's signal came here");
    theirs.write_all(b"still here").await.unwrap();
    check_eq("the connection", ours.read(&mut [0; 32]).await.unwrap(), 10);
    let (pid, ()) = tokio::join!(ask(address), serve_one(&listener));
    check_eq("who serves", pid, std::process::id());
}

/// The daemon serves, and its grandparent goes on.
async fn daemon() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    if foreign::daemon() {
        // SAFETY: no memory is involved. It is in a session of its own, so nobody else would end it if it hung.
        unsafe { libc::alarm(100) };
        check_eq("generation", forkio::lineage().generation(), 2);
        serve_one(&listener).await;
        std::process::exit(0);
    }
    assert_ne!(ask(address).await, std::process::id(), "who serves");
    let (pid, ()) = tokio::join!(ask(address), serve_one(&listener));
    check_eq("who serves", pid, std::process::id());
}

/// Ours inside theirs, and theirs inside ours.
async fn mixed() {
    async fn child_of_ours(inside: impl Future<Output = ()>) {
        match forkio::fork().await.unwrap() {
            Fork::Parent(mut child) => assert!(child.wait().await.unwrap().success()),
            Fork::Child(_) => {
                inside.await;
                std::process::exit(0);
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = async || {
        let (pid, ()) = tokio::join!(ask(address), serve_one(&listener));
        check_eq("who serves", pid, std::process::id());
    };
    let generation = |expected| check_eq("generation", forkio::lineage().generation(), expected);
    let child = fork_child(async || {
        child_of_ours(async {
            generation(2);
            served().await;
        })
        .await;
        generation(1);
        served().await;
    });
    ended(child.await).await;
    child_of_ours(async {
        ended(
            fork_child(async || {
                generation(2);
                served().await;
            })
            .await,
        )
        .await;
        served().await;
    })
    .await;
    generation(0);
    served().await;
}

/// What the crate knows about processes: generations, parents, hooks, futures and handles.
async fn lineage() {
    let hooks = Arc::new(AtomicU32::new(0));
    forkio::on_child({
        let hooks = Arc::clone(&hooks);
        move |lineage| {
            hooks.fetch_add(lineage.generation(), Ordering::Relaxed);
        }
    });
    let never = Arc::new(Notify::new());
    let parents_own = tokio::spawn(forkio::no_fork({
        let never = Arc::clone(&never);
        async move { never.notified().await }
    }));
    tokio::task::yield_now().await;
    let mut handle = match forkio::fork().await.unwrap() {
        Fork::Parent(child) => child,
        Fork::Child(_) => std::future::pending().await,
    };
    let parent = std::process::id();
    let child = fork_child(async || {
        let lineage = forkio::lineage();
        check_eq("generation and parent", (lineage.generation(), lineage.parent()), (1, Some(parent)));
        check_eq("the future of the parent's", parents_own.await.unwrap(), Err(Forked));
        check_eq("hooks", hooks.load(Ordering::Relaxed), 1);
        let error = handle.wait().await.unwrap_err();
        assert!(error.get_ref().is_some_and(|error| error.is::<Forked>()), "{error}");
        sleep(Duration::from_millis(5)).await;
        check_eq("hooks", hooks.load(Ordering::Relaxed), 1);
    })
    .await;
    ended(child).await;
    check_eq("hooks", hooks.load(Ordering::Relaxed), 0);
    handle.kill().unwrap();
    handle.wait().await.unwrap();
    never.notify_one();
}

/// Programs that are started with and without fork(2) run, and the runtime goes on.
async fn commands() {
    let _listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert!(tokio::process::Command::new("/bin/true").status().await.unwrap().success());
    let mut command = std::process::Command::new("/bin/true");
    // SAFETY: the hook does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
    assert!(tokio::process::Command::from(command).status().await.unwrap().success());
    check_eq("fork and exec", foreign::run("/bin/true", &[]), 0);
    sleep(Duration::from_millis(5)).await;
}

/// A thread forks that does not run the runtime: the child builds a fresh one, and the hooks run there.
fn fresh_runtime() {
    forkio::atfork::install().expect("handlers");
    static HOOKS: AtomicU32 = AtomicU32::new(0);
    forkio::on_child(|_| {
        HOOKS.fetch_add(1, Ordering::Relaxed);
    });
    let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let end = Arc::new(Notify::new());
    let (built, is_built) = std::sync::mpsc::channel();
    let thread = std::thread::spawn({
        let end = Arc::clone(&end);
        move || {
            let runtime = build();
            // The first runtime of a process makes what all share, under locks that no child would see released.
            built.send(()).unwrap();
            runtime.block_on(async { end.notified().await });
        }
    });
    is_built.recv().unwrap();
    for _ in 0..5 {
        reap(foreign::fork_on_thread(|| {
            build().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (pid, ()) = tokio::join!(ask(listener.local_addr().unwrap()), serve_one(&listener));
                check_eq("who serves", pid, std::process::id());
            });
            check_eq("hooks", HOOKS.load(Ordering::Relaxed), 1);
        }));
    }
    end.notify_one();
    thread.join().unwrap();
    check_eq("hooks", HOOKS.load(Ordering::Relaxed), 0);
}
