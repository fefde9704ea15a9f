//! Forks made by other code, inside tasks, and beside other runtimes.

use std::io::Read;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use forkio_reactor::fork;
use forkio_tests::reactor::fork_child;
use forkio_tests::runtime::*;
use forkio_tests::{reap, wait_status};

use crate::{RUNTIME, ask, block_on, listen, serve, start_serving, use_everything, wait};

scenarios!(
    /// A fork that the C library does not make is an unplanned fork like any other: the parent's runtime notices
    /// nothing.
    fn fork_without_the_c_library() {
        use_everything();
        // SAFETY: the child only asks for its generation, and ends.
        let Some(child) = (unsafe { forkio_tests::fork_behind_libc() }) else { return };
        if child == 0 {
            exit_now(i32::from(fork::generation() != 1));
        }
        reap(child);
        use_everything();
        wait(fork_with_threads(use_everything));
    }

    /// Hooks run before the fork. Text in the buffer of standard output is written once, not once for each process.
    fn hooks_and_standard_output() {
        let output = Program::start("other_forks::print", &[]).finish_well();
        check_eq("output", output.as_str(), "before the hook, in the hook, after the fork\n");
    }

    /// Prints a part of a line before the fork, in a hook, and after the fork.
    #[program]
    fn print() {
        forkio::before_fork(|| {
            print!("in the hook, ");
            Ok(())
        });
        print!("before the hook, ");
        wait(fork_with_threads(|| ()));
        println!("after the fork");
    }

    /// Hooks run before each fork, even if several threads fork at the same time, and each child has the hooks.
    fn hooks_of_concurrent_forks() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        forkio::before_fork(|| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            // The other thread begins its fork meanwhile.
            thread::sleep(Duration::from_millis(5));
            Ok(())
        });
        let fork_often = || {
            for _ in 0..10 {
                wait(fork_with_threads(|| {
                    CALLS.store(0, Ordering::Relaxed);
                    wait(fork_with_threads(|| ()));
                    check_eq("calls in the child", CALLS.load(Ordering::Relaxed), 1);
                }));
            }
        };
        thread::scope(|scope| {
            scope.spawn(fork_often);
            scope.spawn(fork_often);
        });
        check_eq("calls", CALLS.load(Ordering::Relaxed), 20);
    }

    /// Children of unplanned forks have a runtime of their own, under load too, and do not share their parent's
    /// connections.
    fn unplanned_forks() {
        static HOOKS: AtomicU32 = AtomicU32::new(0);
        forkio::atfork::install().unwrap();
        forkio::on_child(|_| {
            HOOKS.fetch_add(1, Ordering::Relaxed);
        });
        let listener = listen();
        start_serving(&listener);
        use_everything();
        let mut peer = connect_tcp(listener.local_addr().unwrap());
        peer.read_exact(&mut [0; 4]).unwrap();
        let (ready, end) = Turn::both_ways();
        let child = unplanned::fork_child(|| {
            check_eq("generation", fork::generation(), 1);
            use_everything();
            check_eq("hooks", HOOKS.load(Ordering::Relaxed), 1);
            unplanned::in_child(|| {
                use_everything();
                check_eq("hooks", HOOKS.load(Ordering::Relaxed), 2);
            });
            wait(fork_with_threads(use_everything));
            ready.give();
            end.wait();
        });
        ready.wait();
        peer.shutdown(Shutdown::Write).unwrap();
        check_eq("the end, although the child runs", peer.read(&mut [0; 1]).unwrap(), 0);
        for _ in 0..20 {
            unplanned::in_child(use_everything);
            check_eq("the serving process", ask(&listener), std::process::id());
        }
        end.give();
        reap(child);
        // A daemon forks twice. The child in between uses nothing.
        unplanned::in_child(|| {
            unplanned::in_child(|| {
                use_everything();
                unplanned::in_child(use_everything);
            });
        });
        use_everything();
    }

    /// A hook of `on_child` may use the runtime, although the child has not built it yet.
    fn runtime_in_a_hook() {
        use_everything();
        forkio::on_child(|_| use_everything());
        unplanned::in_child(|| {
            use_everything();
            unplanned::in_child(use_everything);
        });
        wait(fork_with_threads(use_everything));
    }

    /// If workers are paused for a fork made by other code, the child inherits no locked lock from them. On a machine that
    /// stalls, some workers are not paused in time.
    fn paused_for_other_code() {
        static LOCK: Mutex<()> = Mutex::new(());
        let locks_most_of_the_time = async {
            loop {
                let locked = LOCK.lock();
                thread::sleep(Duration::from_millis(1));
                drop(locked);
                tokio::task::yield_now().await;
            }
        };
        RUNTIME.spawn(locks_most_of_the_time).unwrap();
        let is_free = || {
            let paused = forkio::atfork::pause_workers();
            let child = unplanned::fork_child(|| exit_now(i32::from(LOCK.try_lock().is_err())));
            drop(paused);
            wait_status(child) == 0
        };
        let free = (0..50).filter(|_| is_free()).count();
        assert!(free > 15, "the lock was free in {free} of 50 children");
        unplanned::in_child(use_everything);
    }

    /// Workers that are paused for other code continue by themselves if that code waits for them instead of forking.
    fn paused_forever() {
        let paused = forkio::atfork::pause_workers();
        use_everything();
        let again = forkio::atfork::pause_workers();
        let (sender, receiver) = mpsc::channel();
        RUNTIME.spawn(async move { sender.send(7) }).unwrap();
        check_eq("a task", receiver.recv_timeout(limit()), Ok(7));
        drop((paused, again));
    }

    /// A fork does not wait forever for a thread that holds the lock of standard output and waits for a task.
    fn locked_output() {
        use_everything();
        let (sender, receiver) = mpsc::channel();
        let writer = thread::spawn(move || {
            let _locked = std::io::stdout().lock();
            sender.send(()).unwrap();
            // While the fork pauses the workers, one of these tasks waits until they continue.
            let mut waited = Duration::ZERO;
            while waited < Duration::from_secs(1) {
                let start = Instant::now();
                block_on(async { tokio::spawn(async {}).await.unwrap() });
                waited = start.elapsed();
            }
        });
        receiver.recv().unwrap();
        wait(fork_with_threads(use_everything));
        writer.join().unwrap();
    }

    /// A fork inside a task of a multi-threaded runtime is refused. The child of an unplanned fork can use its
    /// runtime from other threads.
    fn inside_a_task() {
        fn check() {
            assert!(matches!(RUNTIME.block_on(async {}), Err(RuntimeError::InsideInherited)));
            let (sender, receiver) = mpsc::channel();
            RUNTIME.spawn(async move { sender.send(7) }).unwrap();
            check_eq("a spawned task", receiver.recv_timeout(limit()), Ok(7));
            thread::scope(|scope| scope.spawn(use_everything).join().unwrap());
        }
        let child = block_on(async {
            tokio::spawn(async {
                // SAFETY: the call is refused, so there is no child.
                let refused = unsafe { forkio::fork_with_threads() };
                assert!(matches!(refused, Err(ForkError::InsideRuntime)), "{refused:?}");
                let refused = forkio::fork().await;
                let Err(ForkError::MultiThreadRuntime(_)) = &refused else { panic!("{refused:?}") };
                assert!(refused.unwrap_err().to_string().contains("ProcessRuntime"));
                // In the child, the thread that polls this task is the only one.
                fork_child(check)
            })
            .await
            .unwrap()
        });
        reap(child);
        reap(block_on(async { fork_child(check) }));
    }

    /// A fork inside a current-thread `ProcessRuntime` is refused, because the child could not continue the runtime.
    fn inside_a_current_thread_runtime() {
        static OTHER: ProcessRuntime = ProcessRuntime::new(|| Ok(current_thread()));
        let refused = OTHER.block_on(forkio::fork()).unwrap();
        assert!(matches!(refused, Err(ForkError::InsideProcessRuntime)), "{refused:?}");
        check_eq("the runtime", OTHER.block_on(async { tokio::spawn(async { 1 }).await.unwrap() }).unwrap(), 1);
        run(async { in_child(async || {}).await });
    }

    /// A current-thread runtime forks in a process that also has a `ProcessRuntime`. Both runtimes work in both processes.
    fn beside_a_current_thread_runtime() {
        static OTHER: ProcessRuntime = ProcessRuntime::new(|| Ok(current_thread()));
        let runtime = current_thread();
        check_eq("before the fork", OTHER.block_on(async { tokio::spawn(async { 1 }).await.unwrap() }).unwrap(), 1);
        let addresses = OnceLock::new();
        let child = runtime.block_on(async {
            let listener = listener().await;
            addresses.set(listener.local_addr().unwrap()).unwrap();
            tokio::spawn(serve(listener));
            fork().await
        });
        check_eq("after the fork", OTHER.block_on(async { tokio::spawn(async { 2 }).await.unwrap() }).unwrap(), 2);
        runtime.block_on(async {
            sleep(Duration::from_millis(1)).await;
            if let Some(mut child) = child {
                assert!(child.wait().await.unwrap().success());
            }
            // Either process may answer: both accept from the listener's queue.
            let mut client = TcpStream::connect(addresses.get().unwrap()).await.unwrap();
            client.read_u32().await.unwrap();
        });
    }
);
