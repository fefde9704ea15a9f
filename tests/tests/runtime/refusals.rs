//! Forks that return an error and change nothing.

use std::future::Future;
use std::time::Duration;

use forkio_tests::runtime::*;

/// Makes a fork that must fail. Checks that nothing has changed, and returns the error.
async fn refused<F: Future<Output = Result<Fork, ForkError>>>(attempt: impl FnOnce() -> F) -> ForkError {
    let before = open_descriptors();
    let error = attempt().await.expect_err("a fork that is refused");
    check_eq("descriptors", open_descriptors(), before);
    check_eq("generation", forkio::Lineage::current().generation(), 0);
    error
}

scenarios!(
    /// A fork of a process with other threads returns an error that names them. A thread that ends in time does not prevent
    /// the fork.
    async fn other_threads() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = start_thread("a-thread", move || stopped.recv());
        // The first call opens descriptors that stay open.
        let options = ForkOptions::new().wait_for_threads(Duration::from_millis(60));
        options.fork().await.expect_err("refused");
        match refused(|| options.fork()).await {
            ForkError::Threads(threads) => {
                let names: Vec<_> = threads.iter().map(|thread| thread.name.as_str()).collect();
                check_eq("names", names, vec!["a-thread"]);
            }
            error => panic!("{error:?}"),
        }
        let text = options.fork().await.unwrap_err().to_string();
        assert!(text.contains("`a-thread`") && text.contains("thread_keep_alive"), "{text}");
        let later = tokio::spawn(async move {
            sleep(Duration::from_millis(30)).await;
            stop.send(()).unwrap();
        });
        let child = fork_child(async || {}).await;
        later.await.unwrap();
        thread.join().unwrap().unwrap();
        reap(child).await;
    }

    /// A fork on a thread other than the main one returns an error that says where to fork.
    #[cfg(target_os = "linux")]
    fn not_the_main_thread() {
        let attempt = || {
            current_thread()
                .block_on(ForkOptions::new().wait_for_threads(Duration::ZERO).fork())
                .unwrap_err()
                .to_string()
        };
        let text = std::thread::spawn(attempt).join().unwrap();
        assert!(text.contains("fork on the main thread"), "{text}");
    }

    /// A fork in a multi-threaded runtime returns an error that says what to use instead.
    fn multi_thread_runtime() {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::spawn(async {}).await.unwrap();
            let error = refused(forkio::fork).await;
            let text = error.to_string();
            assert!(text.contains("new_current_thread") && text.contains("flavor = \"current_thread\""), "{text}");
            match error {
                ForkError::MultiThreadRuntime(threads) => {
                    assert!(threads.iter().any(|thread| thread.name == "tokio-rt-worker"), "{threads:?}");
                }
                error => panic!("{error:?}"),
            }
        });
    }

    /// A fork outside of a runtime returns an error.
    fn no_runtime() {
        let error = block_on(refused(forkio::fork));
        assert!(matches!(error, ForkError::NoRuntime), "{error:?}");
    }

    /// A fork in a runtime without an I/O driver returns an error.
    fn no_io_driver() {
        // The process has a selector, but this runtime has none.
        let _other = current_thread();
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        std::panic::set_hook(Box::new(|_| {}));
        let error = runtime.block_on(refused(forkio::fork));
        assert!(matches!(error, ForkError::NoIoDriver), "{error:?}");
        drop(runtime);
        run(async { in_child(async || {}).await });
    }

    /// A fork for which no descriptor is left returns an error that names the limit.
    async fn no_descriptor_left() {
        in_child(async || {}).await;
        let before = open_descriptors();
        // `block_on` is enough, because the fork does not wait for anything.
        let result = with_descriptor_limit(0, || block_on(forkio::fork()));
        let error = result.expect_err("no descriptor left");
        check_eq("descriptors", open_descriptors(), before);
        match &error {
            ForkError::Prepare(error) => {
                check_eq("error", error.io_error().raw_os_error(), Some(libc::EMFILE));
                // A kqueue is created in the child.
                let is_queue = matches!(error.object(), PrepareObject::Queue(_) | PrepareObject::ForeignQueue(_));
                assert!(is_queue || cfg!(not(epoll)), "{error:?}");
            }
            error => panic!("{error:?}"),
        }
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        in_child(async || {}).await;
    }

    /// A fork for which no epoll watch is left returns an error that names the limit.
    #[cfg(epoll)]
    async fn no_watch_left() {
        deny_next_registration();
        let error = refused(forkio::fork).await;
        assert!(error.to_string().contains("/proc/sys/fs/epoll/max_user_watches"), "{error}");
    }

    /// If fork(2) itself fails, the error names the limit, and the runtime continues.
    async fn no_process_left() {
        in_child(async || {}).await;
        let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // The limit does not apply to root, so this process becomes another user. If it is not root, `setuid` fails harmlessly.
        // SAFETY: the kernel reads `nothing`.
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
        let (mut a, mut b) = connection().await;
        a.write_all(b"x").await.unwrap();
        check_eq("a connection", b.read_u8().await.unwrap(), b'x');
    }
);
