//! Workers start, end and are replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use forkio_tests::runtime::*;

scenarios!(
    /// A worker that ends is replaced by one with the same index.
    async fn replacement() {
        let (mut parent_end, child_end) = UnixStream::pair().unwrap();
        let stopper = tokio::spawn(forkio::parent_only(async move {
            let mut pids = BTreeSet::new();
            while pids.len() < 5 {
                pids.insert(parent_end.read_u32_le().await.unwrap());
            }
            kill(own_pid(), libc::SIGTERM);
            parent_end
        }));
        let child_end = Arc::new(child_end);
        let work = async |worker: Worker| {
            check_eq("lineage", forkio::Lineage::current().worker(), Some(worker.index()));
            while child_end.try_write(&std::process::id().to_le_bytes()).is_err() {
                child_end.writable().await.unwrap();
            }
            if worker.index() == 1 {
                worker.shutdown().await;
            }
        };
        check_stopped(Prefork::new().workers(2).shutdown_timeout(limit()).run(work).await);
        stopper.await.unwrap().unwrap();
    }

    /// If a worker forks, the requests of its child do not count as the worker's.
    async fn requests_of_a_workers_child() {
        let work = async |worker: Worker| {
            worker.count_request();
            let handle = worker.handle();
            in_child(async move || {
                handle.count_request();
                drop(handle.track_request());
            })
            .await;
            check_eq("requests", worker.requests(), 1);
            kill(forkio::Lineage::current().parent().unwrap() as i32, libc::SIGTERM);
            worker.shutdown().await;
        };
        check_stopped(Prefork::new().workers(1).shutdown_timeout(limit()).run(work).await);
    }

    /// A limit of zero means no limit, and huge limits work.
    async fn extreme_limits() {
        let zero = Prefork::new().max_requests(0).max_age(Duration::ZERO).max_rss(0).max_pss(0).max_connections(0);
        let huge = Prefork::new()
            .max_requests(u64::MAX)
            .max_age(Duration::MAX)
            .max_rss(u64::MAX)
            .max_pss(u64::MAX)
            .max_connections(usize::MAX)
            .max_draining(usize::MAX)
            .max_missing(usize::MAX)
            .boot_timeout(Duration::MAX)
            .load_timeout(Duration::MAX)
            .upgrade_timeout(Duration::MAX);
        for (prefork, heartbeat, extra) in [(zero, Duration::ZERO, 0), (huge, Duration::MAX, usize::MAX)] {
            let listener = listener().await;
            let address = listener.local_addr().unwrap();
            let client = tokio::spawn(forkio::parent_only(async move {
                for generation in [1, 2] {
                    let mut answers = Vec::new();
                    while answers.len() < 200 {
                        let answer = TcpStream::connect(address).await.unwrap().read_u64().await.unwrap();
                        if answer >> 32 == generation {
                            answers.push(answer);
                        }
                    }
                    answers.dedup();
                    check_eq("workers of a generation", answers.len(), 1);
                    if generation == 1 {
                        kill(own_pid(), libc::SIGHUP);
                    }
                }
                kill(own_pid(), libc::SIGTERM);
            }));
            let prefork = prefork.listener(listener).workers(1).heartbeat_timeout(heartbeat).max_extra(extra);
            let work = async |mut worker: Worker| {
                let Some(Listener::Tcp(listener)) = worker.take_listeners().pop() else { return };
                let mut incoming = worker.incoming(listener);
                while let Some((mut stream, _)) = incoming.next().await {
                    worker.count_request();
                    stream.write_u64(worker.generation() << 32 | u64::from(std::process::id())).await.unwrap();
                }
            };
            check_stopped(prefork.shutdown_timeout(limit()).run(work).await);
            client.await.unwrap().unwrap();
        }
    }

    /// If another task of the supervisor forks, the child does not supervise.
    async fn beside_another_fork() {
        let listener = listener().await;
        tokio::spawn(forkio::parent_only(async {
            while children().len() < 2 {
                sleep(Duration::from_millis(5)).await;
            }
            in_child(async || {
                sleep(Duration::from_millis(300)).await;
                check_eq("children of the child", children(), vec![]);
            })
            .await;
            kill(own_pid(), libc::SIGTERM);
        }));
        let prefork = Prefork::new().listener(listener).workers(2).shutdown_timeout(limit());
        check_stopped(prefork.run(async |worker: Worker| worker.shutdown().await).await);
    }

    /// A server can run in a future that only the parent runs.
    async fn inside_a_parent_only_future() {
        let result = forkio::parent_only(async {
            let prefork = Prefork::new().workers(2).shutdown_timeout(limit());
            let prefork = prefork.on_ready(|| kill(own_pid(), libc::SIGTERM));
            prefork.run(async |worker: Worker| worker.shutdown().await).await.unwrap().exit_code()
        });
        check_eq("exit code", result.await, Ok(0));
    }

    /// Workers end when their supervisor is killed, even a worker that is stuck or has given up its privileges.
    async fn orphans() {
        let (mut parent_end, child_end) = UnixStream::pair().unwrap();
        let server = fork_child(async || {
            let prefork = Prefork::new().workers(3).shutdown_timeout(Duration::ZERO);
            let _ = prefork
                .run(async |worker: Worker| -> () {
                    if worker.index() == 2 {
                        // SAFETY: this worker has one thread.
                        unsafe { libc::setuid(65_534) };
                    }
                    child_end.writable().await.unwrap();
                    child_end.try_write(&std::process::id().to_le_bytes()).unwrap();
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
            workers.push(parent_end.read_u32_le().await.unwrap().cast_signed());
        }
        server.kill().unwrap();
        while !workers.iter().all(|pid| has_ended(*pid)) {
            sleep(Duration::from_millis(10)).await;
        }
    }
);
