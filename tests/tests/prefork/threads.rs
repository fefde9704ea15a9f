//! Workers whose runtimes have threads.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::thread;
use std::time::Duration;

use forkio_tests::runtime::*;

scenarios!(
    /// Workers with threads serve a TCP and a Unix listener. They do not run the supervisor's tasks. The supervisor's
    /// connections are severed in the workers.
    async fn workers_on_threads() {
        thread_local! {
            static MARK: u8 = const { 0 };
        }
        const AT_ONCE: usize = 6;
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let path = temporary_path("socket");
        let unix = UnixListener::bind(&path).unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut peer, connection) = (peer.unwrap(), accepted.unwrap().0);
        // This task runs only in the supervisor.
        let ticker = tokio::spawn(async {
            let parent = std::process::id();
            loop {
                sleep(Duration::from_millis(1)).await;
                check_eq("the process of the supervisor's task", std::process::id(), parent);
            }
        });
        let client = tokio::spawn(forkio::parent_only(async move {
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
                let mut stream = UnixStream::connect(&path).await.unwrap();
                check_eq("the worker on the other listener", Some(&stream.read_u32().await.unwrap()), answers.first());
                let open = peer.try_read(&mut [0; 1]).unwrap_err();
                check_eq("the parent's connection", open.kind(), ErrorKind::WouldBlock);
                let worker = *answers.first().unwrap();
                if pids.insert(worker) {
                    kill(worker.cast_signed(), if pids.len() % 2 == 0 { libc::SIGKILL } else { libc::SIGTERM });
                    // The worker may accept connections until it has ended.
                    while processes().contains_key(&worker.cast_signed()) {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            drop(connection);
            check_eq("the end", peer.read(&mut [0; 1]).await.unwrap(), 0);
            kill(own_pid(), libc::SIGTERM);
        }));
        let runtime = || Builder::new_multi_thread().worker_threads(3).enable_all().build();
        let prefork = Prefork::new().listener(listener).listener(unix).workers(1).crash_limit(0);
        let prefork = prefork.shutdown_timeout(limit());
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
            .await;
        check_stopped(stopped);
        client.await.unwrap().unwrap();
        assert!(!ticker.is_finished());
    }

    /// A worker whose runtime cannot be built exits with 1, and one that panics with 101. Other workers exit with the status that
    /// they return, without waiting for their threads.
    async fn failures() {
        let once = || Prefork::new().workers(1).crash_limit(1);
        let exit_code = |result: Result<forkio::prefork::Stopped, PreforkError>| result.unwrap_err().exit_code();
        let refused = once().run_on(|| Err(io::Error::other("on purpose")), async |_| ()).await;
        check_eq("no runtime", exit_code(refused), 1);
        check_eq(
            "a panic",
            exit_code(once().run_on(multi_thread, async |_| -> () { panic!("on purpose") }).await),
            101,
        );
        let panics = once().run_on(|| panic!("on purpose"), async |_| ()).await;
        check_eq("a panic of the builder", exit_code(panics), 101);
        check_eq("the status of the worker", exit_code(once().run_on(multi_thread, async |_| 7).await), 7);
        let busy = once().run_on(multi_thread, async |_| {
            tokio::task::spawn_blocking(|| thread::sleep(limit()));
            3
        });
        check_eq("with busy threads", exit_code(busy.await), 3);
    }
);
