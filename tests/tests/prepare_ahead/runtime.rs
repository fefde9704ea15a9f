//! Preparing in a tokio runtime, and in a prefork server.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use forkio_reactor::fork::glue::is_prepared_ahead;
use forkio_reactor::fork::prepare_ahead;
use forkio_tests::runtime::*;
use futures_util::FutureExt;

/// How many forks there were.
static FORKS: AtomicUsize = AtomicUsize::new(0);
/// Whether the last fork was prepared in advance.
static WAS_AHEAD: AtomicBool = AtomicBool::new(false);

/// Installs a hook that sets [`FORKS`] and [`WAS_AHEAD`] before each fork.
fn note_forks() {
    forkio::before_fork(|| {
        FORKS.fetch_add(1, Ordering::Relaxed);
        WAS_AHEAD.store(is_prepared_ahead(), Ordering::Relaxed);
        Ok(())
    });
}

/// Runs a server with two workers. The first one ends and is replaced, and its successor stops the server. Checks that the
/// server prepared the third fork in advance if `is_ahead`, and no other fork.
async fn prefork(prefork: Prefork, is_ahead: bool) {
    note_forks();
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    let parent = own_pid();
    let prefork = prefork.listener(listener).workers(2).shutdown_timeout(limit());
    // The first worker ends after the second has been forked, so that the third fork makes the successor of the first.
    let turn = &Turn::new();
    let work = |mut worker: Worker| async move {
        let forks = FORKS.load(Ordering::Relaxed);
        check_eq("prepared", WAS_AHEAD.load(Ordering::Relaxed), is_ahead && forks > 2);
        match (worker.index(), forks) {
            (0, 1) => turn.wait(),
            (0, _) => {
                check_eq("forks", forks, 3);
                let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { panic!("no listener") };
                let connect = tokio::spawn(TcpStream::connect(address));
                if is_ahead {
                    worker.acceptor(listener).accept().await.expect("a connection");
                }
                connect.await.expect("a task").expect("connecting");
                kill(parent, libc::SIGTERM);
                worker.shutdown().await;
            }
            _ => {
                turn.give();
                worker.shutdown().await;
            }
        }
    };
    check_stopped(prefork.run(work).await);
    check_eq("forks", FORKS.load(Ordering::Relaxed), 3);
}

scenarios!(
    /// Neither waiting for a child nor the child's end discards a supervisor's preparation. Dropping the handle does.
    async fn supervisor_on_a_current_thread_runtime() {
        note_forks();
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let mut stream = signal(SignalKind::user_defined1()).unwrap();
        let turn = Turn::new();
        let before = open_descriptors();
        let mut previous = None;
        for round in 0..4 {
            let Some(mut child) = fork().await else {
                check_eq("this fork was prepared in advance", WAS_AHEAD.load(Ordering::Relaxed), round > 0);
                check_eq("the next fork is prepared in advance", is_prepared_ahead(), false);
                raise(libc::SIGUSR1);
                stream.recv().await.expect("a signal");
                let connect = tokio::spawn(TcpStream::connect(address));
                listener.accept().await.expect("a connection");
                connect.await.expect("a task").expect("connecting");
                turn.wait();
                std::process::exit(0);
            };
            drop(previous.take());
            // Waiting registers the child.
            assert!(child.wait().now_or_never().is_none());
            prepare_ahead().unwrap();
            turn.give();
            check_eq("the child", child.wait().await.unwrap().code(), Some(0));
            check_eq("prepared after the child's end", is_prepared_ahead(), true);
            check_eq("waiting works, killing works", (child.wait().await.is_ok(), child.kill().is_ok()), (true, false));
            previous = Some(child);
        }
        drop(previous);
        check_eq("prepared after the handle was dropped", is_prepared_ahead(), false);
        check_eq("open descriptors", open_descriptors(), before);
        // A handle does not work in another process.
        let Fork::Parent(mut child) = forkio::fork().await.expect("forking") else { std::process::exit(0) };
        let Some(mut other) = fork().await else {
            assert!(child.wait().await.is_err(), "waiting for a child of the parent");
            std::process::exit(0);
        };
        check_eq("the other", other.wait().await.unwrap().code(), Some(0));
        check_eq("the child", child.wait().await.unwrap().code(), Some(0));
    }

    /// A fork beside a runtime with threads uses the preparation, and the parent's runtime continues.
    fn process_runtime() {
        static RUNTIME: ProcessRuntime = ProcessRuntime::new(multi_thread);
        note_forks();
        RUNTIME.block_on(async { tokio::task::yield_now().await }).unwrap();
        prepare_ahead().unwrap();
        let child = fork_with_threads(|| {
            check_eq("prepared", WAS_AHEAD.load(Ordering::Relaxed), true);
            RUNTIME.block_on(async { sleep(Duration::from_millis(1)).await }).unwrap();
        });
        RUNTIME.block_on(reap(child)).unwrap();
    }

    /// A server replaces a worker with a fork that it has prepared.
    async fn prefork_replaces_a_worker() {
        prefork(Prefork::new(), true).await;
    }

    /// With `prepare_ahead(false)`, a server does not prepare forks.
    async fn prefork_without_preparing() {
        prefork(Prefork::new().prepare_ahead(false), false).await;
    }

    /// A server whose workers have listeners of their own does not prepare forks.
    async fn prefork_with_a_listener_for_each_worker() {
        prefork(Prefork::new().distribution(Distribution::ReusePort), false).await;
    }

    /// While workers crash repeatedly, the handles of ended workers do not accumulate.
    async fn prefork_closes_handles_of_ended_workers() {
        const WORKERS: usize = 3;
        static MOST: AtomicUsize = AtomicUsize::new(0);
        forkio::before_fork(|| {
            MOST.fetch_max(open_descriptors().len(), Ordering::Relaxed);
            Ok(())
        });
        let before = open_descriptors().len();
        let prefork = Prefork::new().workers(WORKERS).crash_limit(8);
        let error = prefork.run(async |_| -> u8 { 3 }).await.expect_err("a crash loop");
        check_eq("exit code", error.exit_code(), 3);
        // The server has its own descriptors, and a handle and a pipe for each worker that runs or has ended since the
        // last fork. At least eight workers end. If all their handles stayed open, the server would exceed this limit.
        let most = MOST.load(Ordering::Relaxed);
        assert!(most <= before + 3 * WORKERS + 4, "{most} descriptors, {before} before");
    }
);
