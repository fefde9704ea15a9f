//! The server that the scenarios talk to. It tells each client the worker's index and process id.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use forkio::prefork::{Accept, Acceptor, Counted, Shutdown};
use forkio_reactor::fork::SourceKind;
use forkio_tests::runtime::*;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// The beginning of the line in which a worker says that it does not accept. The worker's process id follows.
pub(crate) const DOES_NOT_ACCEPT: &str = "does not accept: ";

/// Prints a line for the scenario.
fn announce(what: &str) {
    println!("{what}");
    std::io::stdout().flush().unwrap();
}

/// How the workers run, and how they treat connections.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Workers hold connections until the clients end them.
    Hold,
    /// Workers hold connections, and a template forks the workers.
    Template,
    /// Workers close connections after the answer.
    Close,
    /// A worker forks when it has two connections.
    Fork,
    /// Workers serve connections on a runtime with threads.
    Threads,
    /// The first worker waits for connections, and does not accept them.
    FirstDoesNotAccept,
    /// A worker pauses accepting after a client has sent `p`.
    Pause,
}

async fn tcp(prefork: Prefork, mode: Mode) {
    let listener = listener().await;
    let address = listener.local_addr().unwrap().to_string();
    run(prefork.listener(listener), mode, address).await;
}

/// Runs the server. Announces the address when the workers are ready.
async fn run(prefork: Prefork, mode: Mode, address: String) {
    let prefork = prefork.on_ready(move || announce(&address));
    let stopped = if mode == Mode::Template {
        prefork.load(|| async { Ok::<_, String>(()) }).run(move |worker, ()| work(worker, mode)).await
    } else {
        prefork.run(move |worker| work(worker, mode)).await
    };
    check_stopped(stopped);
}

async fn work(mut worker: Worker, mode: Mode) {
    match worker.take_listeners().pop().expect("a listener") {
        Listener::Tcp(listener) if mode == Mode::Threads => {
            let runtime = Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
            let listener = listener.into_std().unwrap();
            let served = runtime.spawn(async move {
                // Registers the listener with this runtime.
                serve(worker, TcpListener::from_std(listener).unwrap(), mode).await;
            });
            served.await.expect("serving on another thread");
            runtime.shutdown_background();
        }
        Listener::Tcp(listener) => serve(worker, listener, mode).await,
        Listener::Unix(listener) => serve(worker, listener, mode).await,
        other => panic!("{other:?}"),
    }
}

async fn serve<L>(worker: Worker, listener: L, mode: Mode)
where
    L: Accept,
    L::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut acceptor = worker.acceptor(listener);
    let mut tasks = JoinSet::new();
    if mode == Mode::FirstDoesNotAccept && worker.index() == 0 {
        announce(&format!("{DOES_NOT_ACCEPT}{}", std::process::id()));
        return worker.shutdown().await;
    }
    let mut is_paused = false;
    loop {
        tokio::select! {
            () = worker.shutdown() => break,
            accepted = acceptor.accept(), if !is_paused => {
                let (stream, _) = accepted.expect("accepting");
                tasks.spawn(connection(worker.index(), stream, worker.shutdown(), mode));
                if mode == Mode::Fork && worker.connections().open() == 2 {
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
        tasks.spawn(connection(worker.index(), stream, worker.shutdown(), mode));
    }
    tasks.join_all().await;
    check_eq("connections that are still open", worker.connections().open(), 0);
}

/// Answers, and holds the connection until its client sends a byte or ends it, or the worker must stop. Returns the byte.
async fn connection<S>(index: usize, mut stream: Counted<S>, stop: Shutdown, mode: Mode) -> Option<u8>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The client may have closed the connection.
    stream.write_all(format!("{index} {}\n", std::process::id()).as_bytes()).await.ok()?;
    if mode == Mode::Close {
        let _ = stream.shutdown().await;
    }
    tokio::select! {
        sent = stream.read_u8() => sent.ok(),
        () = stop => None,
    }
}

/// Forks the worker. The child changes its count of connections and pauses its acceptor. The worker's count stays as it is.
async fn fork_with_connections<L: Accept>(worker: &Worker, acceptor: &mut Acceptor<L>) {
    let connections = worker.connections();
    let counted = connections.count(());
    check_eq("counted", connections.open(), 3);
    let Some(mut child) = fork().await else {
        drop(counted);
        let _more = connections.count(());
        acceptor.pause();
        std::process::exit(0);
    };
    let status = child.wait().await.expect("waiting");
    assert!(status.success(), "{status}");
    check_eq("after the child's end", connections.open(), 3);
    drop(counted);
    check_eq("no longer counted", connections.open(), 2);
}

/// Checks that the server refuses a Unix listener with a queue for each worker, and serves one with a shared queue.
async fn unix_refused(distribution: Distribution) {
    let path = temporary_path("socket");
    let listen = || UnixListener::bind(&path).unwrap();
    let error = Prefork::new().workers(1).distribution(distribution).listener(listen()).run(|_| async {}).await;
    let Err(error @ PreforkError::ReusePort(_)) = error else { panic!("{error:?}") };
    let message = error.to_string();
    assert!(message.contains("Unix") && message.contains("listener_with"), "{message}");
    fs::remove_file(&path).unwrap();

    let prefork = Prefork::new().workers(2).distribution(distribution).listener(listener().await);
    let prefork = prefork.shutdown_timeout(limit()).listener_with(listen(), Distribution::Shared);
    let work = async |mut worker: Worker| {
        let listeners = worker.take_listeners();
        assert!(matches!(listeners.as_slice(), [Listener::Tcp(_), Listener::Unix(_)]), "{listeners:?}");
        worker.shutdown().await;
    };
    check_stopped(prefork.on_ready(|| announce("ready")).run(work).await);
    fs::remove_file(&path).unwrap();
}

/// How many listeners this process has open.
fn listeners() -> usize {
    let is_listener = |fd: &i32| forkio_reactor::fork::glue::kind(fd).is_ok_and(|kind| kind == SourceKind::Listener);
    open_descriptors().iter().filter(|fd| is_listener(fd)).count()
}

/// Runs a server whose processes check their open listeners and registrations. Workers also check their CPU.
async fn look(prefork: Prefork, distribution: Distribution, has_template: bool) {
    const WORKERS: usize = 3;
    let inherited = open_descriptors();
    let has_queue_each = matches!(distribution, Distribution::ReusePort | Distribution::ReusePortPerCpu);
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    // Only the server's own listeners share the address.
    let refused = std::net::TcpListener::bind(address).unwrap_err();
    check_eq("a second listener", refused.kind(), ErrorKind::AddrInUse);
    let fd = listener.as_raw_fd();
    let prefork = prefork.workers(WORKERS).listener(listener).on_ready(move || {
        check_eq("the supervisor's registrations", exclusive_in_kernel(fd).unwrap_or_default(), vec![]);
        check_eq("the supervisor's listeners", listeners(), if has_queue_each { WORKERS } else { 1 });
        announce("ready");
    });
    let work = async |mut worker: Worker| {
        let Some(Listener::Tcp(own)) = worker.take_listeners().pop() else { panic!("no listener") };
        check_eq("the address", own.local_addr().unwrap(), address);
        check_eq("the worker's listeners", listeners(), 1);
        let check = |fd: RawFd, expected| {
            if let Some(exclusive) = exclusive_in_kernel(fd) {
                check_eq("for each registration of the listener, whether it is exclusive", exclusive, vec![expected]);
            }
        };
        check(own.as_raw_fd(), false);
        let acceptor = worker.acceptor(own);
        // A kqueue always wakes all workers.
        check(acceptor.as_fd().as_raw_fd(), distribution == Distribution::Shared && cfg!(epoll));
        let own = acceptor.into_inner().unwrap();
        check(own.as_raw_fd(), false);
        // Lets the worker's other tasks start, so that the audit sees their descriptors.
        tokio::task::yield_now().await;
        let audit = forkio::audit::shared_descriptors().unwrap();
        let shared: Vec<_> = audit.found().iter().filter(|found| !inherited.contains(&found.fd)).collect();
        assert!(shared.is_empty(), "{shared:?}");

        if distribution == Distribution::ReusePortPerCpu {
            check_eq("the worker's CPU", allowed_cpus(), Some(vec![cpu_of(&own)]));
        }
        worker.shutdown().await;
    };
    let load = move || async move {
        check_eq("the template's registrations", exclusive_in_kernel(fd).unwrap_or_default(), vec![]);
        check_eq("the template's listeners", listeners(), if has_queue_each { WORKERS } else { 1 });
        Ok::<_, String>(())
    };
    let stopped =
        if has_template { prefork.load(load).run(|worker, ()| work(worker)).await } else { prefork.run(work).await };
    check_stopped(stopped);
}

scenarios!(
    /// A prefork server. The arguments are its distribution, the number of workers, and their mode.
    #[program]
    async fn server() {
        let [distribution, workers, mode] = arguments().try_into().expect("three arguments");
        let distribution = match distribution.as_str() {
            "shared" => Distribution::Shared,
            "reuseport" => Distribution::ReusePort,
            "reuseport-per-cpu" => Distribution::ReusePortPerCpu,
            "balanced" => Distribution::Balanced,
            other => panic!("no distribution {other:?}"),
        };
        let prefork = Prefork::new().workers(workers.parse().unwrap()).distribution(distribution);
        let prefork = prefork.shutdown_timeout(limit());
        match mode.as_str() {
            "hold" => tcp(prefork, Mode::Hold).await,
            "template" => tcp(prefork, Mode::Template).await,
            "close" => tcp(prefork, Mode::Close).await,
            "fork" => tcp(prefork, Mode::Fork).await,
            "threads" => tcp(prefork, Mode::Threads).await,
            "first-does-not-accept" => tcp(prefork.crash_limit(0), Mode::FirstDoesNotAccept).await,
            "pause" => tcp(prefork, Mode::Pause).await,
            "unix" => {
                let path = temporary_path("socket");
                let listener = UnixListener::bind(&path).unwrap();
                run(prefork.listener(listener), Mode::Hold, path.display().to_string()).await;
                fs::remove_file(path).unwrap();
            }
            "unix-refused" => unix_refused(distribution).await,
            "look" => look(prefork, distribution, false).await,
            "look-with-template" => look(prefork, distribution, true).await,
            other => panic!("no mode {other:?}"),
        }
    }
);
