//! Stopping a server: its exit code, and its waits for workers and threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forkio_tests::runtime::*;

scenarios!(
    /// The server's exit code is that of the worker that failed.
    async fn exit_status() {
        static READY: AtomicUsize = AtomicUsize::new(0);
        let stopped = Prefork::new()
            .workers(2)
            .shutdown_timeout(limit())
            .on_ready(|| {
                READY.fetch_add(1, Ordering::Relaxed);
                kill(own_pid(), libc::SIGINT);
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

    /// A worker that does not even poll its signals is killed after the shutdown timeout.
    async fn stuck_worker() {
        let start = Instant::now();
        let (mut parent_end, child_end) = UnixStream::pair().unwrap();
        tokio::spawn(forkio::parent_only(async move {
            parent_end.read_u8().await.unwrap();
            kill(own_pid(), libc::SIGTERM);
        }));
        let stopped = Prefork::new()
            .workers(1)
            .shutdown_timeout(Duration::from_millis(200))
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
    }

    /// The shutdown timeout can be infinite.
    async fn endless_drain() {
        let prefork = Prefork::new().workers(1).shutdown_timeout(Duration::MAX);
        let prefork = prefork.on_ready(|| kill(own_pid(), libc::SIGTERM));
        check_stopped(prefork.run(async |worker: Worker| worker.shutdown().await).await);
    }

    /// A server stops at once if it is told to stop while its first fork waits for threads to end.
    async fn stop_before_the_first_fork() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stopped.recv());
        tokio::spawn(async {
            sleep(Duration::from_millis(50)).await;
            kill(own_pid(), libc::SIGTERM);
        });
        let options = ForkOptions::new().wait_for_threads(Duration::from_secs(3_600));
        let prefork = Prefork::new().workers(2).fork_options(options).on_ready(|| unreachable!("no worker was forked"));
        let stopped = prefork.run(async |_| ()).await.unwrap();
        check_eq("workers", stopped.workers().len(), 0);
        drop(stop);
        thread.join().unwrap().unwrap_err();
    }
);
