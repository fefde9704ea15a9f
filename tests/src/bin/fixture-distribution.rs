//! A prefork server whose distribution is the first argument: each connection is told the worker's index and process id,
//! and held until its client ends it.
//!
//! Arguments: the distribution, the number of workers, and how the workers are; see [`main`].

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use forkio::{Accept, Acceptor, Counted, Distribution, Fork, Listener, Prefork, PreforkError, Worker};
use forkio_reactor::fork::SourceKind;
use forkio_tests::{allowed_cpus, check_eq, cpu_of, exclusive_in_kernel};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [distribution, workers, how] = arguments.as_slice() else { panic!("three arguments, not {arguments:?}") };
    let distribution = match distribution.as_str() {
        "shared" => Distribution::Shared,
        "reuseport" => Distribution::ReusePort,
        "reuseport-per-cpu" => Distribution::ReusePortPerCpu,
        "balanced" => Distribution::Balanced,
        other => panic!("no distribution {other:?}"),
    };
    let prefork = Prefork::new().workers(workers.parse().unwrap()).distribution(distribution);
    match how.as_str() {
        // Connections are held.
        "tcp" => tcp(prefork, Behaviour::Good).await,
        // Connections are answered and ended.
        "brief" => tcp(prefork, Behaviour::Brief).await,
        // A worker forks when it has connections.
        "forks" => tcp(prefork, Behaviour::Forks).await,
        // A worker serves on a runtime with threads.
        "threads" => tcp(prefork, Behaviour::Threads).await,
        // The first worker waits for connections, and does not accept them.
        "deaf" => tcp(prefork.crash_limit(0), Behaviour::Deaf).await,
        // A worker leaves connections to others when a client has asked it to.
        "pauses" => tcp(prefork, Behaviour::Pauses).await,
        "unix" => {
            let path = socket_path();
            let listener = UnixListener::bind(&path).unwrap();
            run(prefork.listener(listener), Behaviour::Good, path.display().to_string()).await;
            fs::remove_file(path).unwrap();
        }
        // Refused for the Unix listener; fine when it is given a distribution that it can have.
        "refused" => refused(distribution).await,
        // What the kernel has in parent and workers.
        "kernel" => kernel(prefork, distribution).await,
        other => panic!("no {other:?}"),
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn announce(what: &str) {
    println!("{what}");
    std::io::stdout().flush().unwrap();
}

/// Of this process, so that tests do not meet.
fn socket_path() -> PathBuf {
    std::env::temp_dir().join(format!("forkio-distribution-{}", std::process::id()))
}

#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Good,
    Brief,
    Forks,
    Threads,
    Deaf,
    Pauses,
}

async fn tcp(prefork: Prefork, behaviour: Behaviour) {
    let listener = bind().await;
    let address = listener.local_addr().unwrap().to_string();
    run(prefork.listener(listener), behaviour, address).await;
}

/// Announces the address when the workers have been forked.
async fn run(prefork: Prefork, behaviour: Behaviour, address: String) {
    let prefork = prefork.on_ready(move || announce(&address));
    let stopped = prefork.run(move |worker| work(worker, behaviour)).await.expect("a server that runs");
    check_eq("the server's exit code", stopped.exit_code(), 0);
}

async fn work(mut worker: Worker, behaviour: Behaviour) {
    match worker.take_listeners().pop().expect("a listener") {
        Listener::Tcp(listener) if behaviour == Behaviour::Threads => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
            let listener = listener.into_std().unwrap();
            let served = runtime.spawn(async move {
                // Registered with this runtime, under its number.
                serve(worker, TcpListener::from_std(listener).unwrap(), behaviour).await;
            });
            served.await.expect("serving on another thread");
            runtime.shutdown_background();
        }
        Listener::Tcp(listener) => serve(worker, listener, behaviour).await,
        Listener::Unix(listener) => serve(worker, listener, behaviour).await,
        other => panic!("{other:?}"),
    }
}

async fn serve<L>(worker: Worker, listener: L, behaviour: Behaviour)
where
    L: Accept,
    L::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut acceptor = worker.acceptor(listener);
    let mut tasks = JoinSet::new();
    if behaviour == Behaviour::Deaf && worker.index() == 0 {
        announce(&format!("deaf {}", std::process::id()));
        return worker.shutdown().await;
    }
    let mut is_paused = false;
    loop {
        tokio::select! {
            () = worker.shutdown() => break,
            accepted = acceptor.accept(), if !is_paused => {
                let (stream, _) = accepted.expect("accepting");
                tasks.spawn(connection(worker.index(), stream, worker.shutdown(), behaviour));
                if behaviour == Behaviour::Forks && worker.connections().open() == 2 {
                    fork_with_connections(&worker, &mut acceptor).await;
                }
            }
            Some(ended) = tasks.join_next() => if ended.expect("a connection") == Some(b'p') {
                acceptor.pause();
                is_paused = true;
                announce("paused");
            }
        }
    }
    for (stream, _) in acceptor.close() {
        tasks.spawn(connection(worker.index(), stream, worker.shutdown(), behaviour));
    }
    tasks.join_all().await;
    check_eq("connections that are left", worker.connections().open(), 0);
}

/// Says who serves, and holds the connection until its client ends it or the worker is to stop. What the client said.
async fn connection<S>(index: usize, mut stream: Counted<S>, stop: forkio::Shutdown, behaviour: Behaviour) -> Option<u8>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A client that has gone already is no failure.
    stream.write_all(format!("{index} {}\n", std::process::id()).as_bytes()).await.ok()?;
    if behaviour == Behaviour::Brief {
        let _ = stream.shutdown().await;
    }
    tokio::select! {
        said = stream.read_u8() => said.ok(),
        () = stop => None,
    }
}

/// What a child of a worker does with connections and counts is not felt in the worker.
async fn fork_with_connections<L: Accept>(worker: &Worker, acceptor: &mut Acceptor<L>) {
    let connections = worker.connections();
    let counted = connections.count(());
    check_eq("counted", connections.open(), 3);
    match forkio::fork().await.expect("forking") {
        Fork::Parent(mut child) => {
            let status = child.wait().await.expect("waiting");
            assert!(status.success(), "{status}");
            check_eq("after the child's end", connections.open(), 3);
            drop(counted);
            check_eq("not counted any more", connections.open(), 2);
            // Nobody has taken it out of the server's balance either.
            let _ = acceptor;
        }
        Fork::Child(_) => {
            drop(counted);
            let _more = connections.count(());
            acceptor.pause();
            std::process::exit(0);
        }
    }
}

async fn refused(distribution: Distribution) {
    let path = socket_path();
    let listen = || UnixListener::bind(&path).unwrap();
    let error = Prefork::new().workers(1).distribution(distribution).listener(listen()).run(|_| async {}).await;
    let Err(error @ PreforkError::ReusePort(_)) = error else { panic!("{error:?}") };
    let message = error.to_string();
    assert!(message.contains("Unix") && message.contains("listener_with"), "{message}");
    fs::remove_file(&path).unwrap();

    let prefork = Prefork::new().workers(2).distribution(distribution).listener(bind().await);
    let prefork = prefork.listener_with(listen(), Distribution::Shared);
    let work = async |mut worker: Worker| {
        let listeners = worker.take_listeners();
        assert!(matches!(listeners.as_slice(), [Listener::Tcp(_), Listener::Unix(_)]), "{listeners:?}");
        worker.shutdown().await;
    };
    let stopped = prefork.on_ready(|| announce("ready")).run(work).await.unwrap();
    check_eq("the exit code", stopped.exit_code(), 0);
    fs::remove_file(&path).unwrap();
}

/// How many listening sockets this process has open.
fn listeners() -> usize {
    let is_listener = |fd: &i32| forkio_reactor::fork::kind(fd).is_ok_and(|kind| kind == SourceKind::Listener);
    forkio_tests::open_descriptors().iter().filter(|fd| is_listener(fd)).count()
}

async fn kernel(prefork: Prefork, distribution: Distribution) {
    const WORKERS: usize = 3;
    let from_outside = forkio_tests::open_descriptors();
    let has_queue_each = matches!(distribution, Distribution::ReusePort | Distribution::ReusePortPerCpu);
    let listener = bind().await;
    let address = listener.local_addr().unwrap();
    // A second one at the address is refused until the server makes it.
    let refused = std::net::TcpListener::bind(address).unwrap_err();
    check_eq("a second listener", refused.kind(), ErrorKind::AddrInUse);
    let number = listener.as_raw_fd();
    let prefork = prefork.workers(WORKERS).listener(listener).on_ready(move || {
        check_eq("what wakes the parent", exclusive_in_kernel(number).unwrap_or_default(), vec![]);
        check_eq("the parent's queues", listeners(), if has_queue_each { WORKERS } else { 1 });
        announce("ready");
    });
    let work = async |mut worker: Worker| {
        let Some(Listener::Tcp(own)) = worker.take_listeners().pop() else { panic!("no listener") };
        check_eq("the address", own.local_addr().unwrap(), address);
        check_eq("the worker's queues", listeners(), 1);
        let check = |fd: RawFd, expected| {
            if let Some(exclusive) = exclusive_in_kernel(fd) {
                check_eq("watched once, exclusively", exclusive, vec![expected]);
            }
        };
        check(own.as_raw_fd(), false);
        let acceptor = worker.acceptor(own);
        // A kqueue wakes all.
        check(acceptor.as_fd().as_raw_fd(), distribution == Distribution::Shared && cfg!(epoll));
        let own = acceptor.into_inner().unwrap();
        check(own.as_raw_fd(), false);
        // The worker's other tasks begin.
        tokio::task::yield_now().await;
        let audit = forkio::audit().unwrap();
        // What whoever started this program has left open is none of the server's.
        let untagged: Vec<_> = audit.found().iter().filter(|found| !from_outside.contains(&found.fd)).collect();
        assert!(untagged.is_empty(), "{untagged:?}");

        if distribution == Distribution::ReusePortPerCpu {
            check_eq("the worker's CPU", allowed_cpus(), Some(vec![cpu_of(&own)]));
        }
        tokio::time::timeout(Duration::from_secs(60), worker.shutdown()).await.expect("told to stop");
    };
    let stopped = prefork.run(work).await.unwrap();
    check_eq("the exit code", stopped.exit_code(), 0);
}
