//! Servers that fail.

use std::time::Duration;

use forkio_tests::runtime::*;

scenarios!(
    /// If a worker ends `crash_limit` times in a row before it is ready, the server ends with that worker's last exit
    /// code. The server delays each restart.
    async fn crash_loop() {
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let start = Instant::now();
        let prefork = Prefork::new().listener(listener).workers(2).crash_limit(4);
        let work = async |worker: Worker| -> u8 {
            if worker.index() == 1 {
                return 3;
            }
            worker.shutdown().await;
            0
        };
        let error = prefork.run(work).await.expect_err("a crash loop");
        match &error {
            PreforkError::CrashLoop { worker: 1, ends: 4, status, .. } => check_eq("status", status.code(), Some(3)),
            error => panic!("{error:?}"),
        }
        check_eq("exit code", error.exit_code(), 3);
        // The worker ended four times, with three delays in between.
        assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());
        check_no_children();
        assert!(TcpStream::connect(address).await.is_err(), "the listener is open");
    }

    /// A worker that panics exits with 101.
    async fn panic() {
        let error =
            Prefork::new().workers(1).crash_limit(1).run(async |_| -> () { panic!("on purpose") }).await.unwrap_err();
        check_eq("exit code", error.exit_code(), 101);
    }

    /// A server without workers, or with too many, is refused.
    async fn numbers_of_workers() {
        let error = Prefork::new().workers(0).run(async |_| ()).await.unwrap_err();
        assert!(matches!(error, PreforkError::NoWorkers), "{error:?}");
        for workers in [1025, usize::MAX] {
            let error = Prefork::new().workers(workers).run(async |_| ()).await.unwrap_err();
            assert!(matches!(error, PreforkError::TooManyWorkers(_)), "{error:?}");
        }
    }

    /// A server in a multi-threaded runtime is refused, with an error that says which runtime each process should have.
    fn multi_thread_runtime() {
        let error = multi_thread().unwrap().block_on(Prefork::new().workers(1).run(async |_| ())).unwrap_err();
        assert!(matches!(error, PreforkError::Fork(ForkError::MultiThreadRuntime(_))), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("flavor = \"current_thread\"") && text.contains("`Prefork::run_on`"), "{text}");
    }

    /// Dropping the future of the server ends the workers. A worker does not run the code after that future.
    async fn dropped_future() {
        let turn = Turn::new();
        let parent = std::process::id();
        let prefork = Prefork::new().workers(1).run(async |worker: Worker| {
            // One turn for each process: the worker also waits for a turn, in the other branch of the `select!` below.
            turn.give();
            turn.give();
            worker.shutdown().await;
        });
        tokio::select! {
            _ = prefork => unreachable!("the server runs until it is dropped"),
            () = async {
                wait_for(&turn).await;
                // Gives the worker time to reach this branch, too.
                sleep(Duration::from_millis(50)).await;
            } => check_eq("the process that continues", std::process::id(), parent),
        }
        while !children().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    }
);
