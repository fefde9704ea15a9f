//! Each process builds a runtime of its own.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use forkio_reactor::{Token, Waker};
use forkio_tests::reactor::fork;
use forkio_tests::runtime::*;

use crate::{RUNTIME, ask, block_on, listen, start_serving, use_everything, wait};

scenarios!(
    /// Everything that a runtime does works in both processes, before and after the fork. Both processes serve on one
    /// listener.
    fn everything_works() {
        let listener = listen();
        start_serving(&listener);
        use_everything();
        let (ready, end) = Turn::both_ways();
        let child = fork_with_threads(|| {
            check_eq("lineage", forkio::Lineage::current().parent(), Some(std::os::unix::process::parent_id()));
            use_everything();
            start_serving(&listener);
            ready.give();
            end.wait();
        });
        use_everything();
        ready.wait();
        let both = BTreeSet::from([std::process::id(), child.id()]);
        let mut seen = BTreeSet::new();
        wait_until("both processes serve", || {
            seen.insert(ask(&listener));
            seen == both
        });
        end.give();
        wait(child);
        check_eq("the parent continues to serve", ask(&listener), std::process::id());
        use_everything();
    }

    /// Each of the generations 0 to 5 has its own runtime, even if only some generations use a runtime before they fork.
    fn six_generations() {
        fn descend(depth: u32) {
            check_eq("generation", forkio::Lineage::current().generation(), depth);
            if depth.is_multiple_of(2) {
                use_everything();
            }
            if depth < 5 {
                // At odd depths, the runtime is first used after the fork.
                let child = fork_with_threads(|| descend(depth + 1));
                wait(child);
            }
            use_everything();
        }
        descend(0);
    }

    /// Many threads of a child use the runtime for the first time. It is built once.
    fn first_use_by_many_threads() {
        use_everything();
        let race = || {
            let barrier = Barrier::new(16);
            let runtimes: HashSet<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..16)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            let runtime = RUNTIME.get().unwrap();
                            check_eq("a task", block_on(async { tokio::spawn(async { 7 }).await.unwrap() }), 7);
                            runtime.id()
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            check_eq("how many were built", runtimes.len(), 1);
        };
        for _ in 0..20 {
            wait(fork_with_threads(race));
        }
    }

    /// The process forks while another thread builds the runtime. The child builds its own, or gets an error about a lock.
    fn fork_during_build() {
        static BUILDING: AtomicBool = AtomicBool::new(false);
        static FORK_IS_OVER: AtomicBool = AtomicBool::new(false);
        static SLOW: ProcessRuntime = ProcessRuntime::new(|| {
            if fork::generation() == 0 {
                BUILDING.store(true, Ordering::Relaxed);
                wait_until("the fork is over", || FORK_IS_OVER.load(Ordering::Relaxed));
            }
            multi_thread()
        });
        let builder = std::thread::spawn(|| SLOW.block_on(async { tokio::spawn(async { 1 }).await.unwrap() }).unwrap());
        wait_until("the runtime is being built", || BUILDING.load(Ordering::Relaxed));
        let mut child = fork_with_threads(|| {
            check_eq("a task", SLOW.block_on(async { tokio::spawn(async { 2 }).await.unwrap() }).unwrap(), 2);
            use_everything();
        });
        // The child does not wait for the runtime that is being built.
        wait_until("the child has ended", || child.try_wait().unwrap().is_some_and(|status| status.success()));
        FORK_IS_OVER.store(true, Ordering::Relaxed);
        check_eq("the result of the parent's task", builder.join().unwrap(), 1);

        // Forks at various moments of the first use in a process. If a thread starts or ends at the fork, a lock of the
        // standard library may stay locked in the child. `ProcessRuntime::get` then returns `InheritedLock` in that child.
        const WITHOUT_LOCK: i32 = 77;
        let mut without_lock = 0;
        let children = rounds(40);
        for round in 0..children as u64 {
            let child = fork_with_threads(|| {
                let first = std::thread::spawn(|| RUNTIME.get().is_ok());
                let pause = std::time::Instant::now();
                while pause.elapsed() < Duration::from_micros(10 * round) {
                    std::hint::spin_loop();
                }
                let mut grandchild = fork_with_threads(|| {
                    if matches!(RUNTIME.get(), Err(RuntimeError::InheritedLock)) {
                        exit_now(WITHOUT_LOCK);
                    }
                    use_everything();
                });
                assert!(first.join().unwrap());
                let status = block_on(grandchild.wait()).unwrap();
                std::process::exit(status.code().unwrap_or(-1));
            });
            match block_on({ child }.wait()).unwrap().code() {
                Some(WITHOUT_LOCK) => without_lock += 1,
                status => check_eq("the child's status", status, Some(0)),
            }
        }
        assert!(without_lock < 10, "{without_lock} of {children} children inherited a locked lock");
    }

    /// A parent under load forks again and again. Each child has a working runtime, and the parent loses nothing.
    fn many_forks_under_load() {
        const CLIENTS: usize = 4;
        let listener = listen();
        start_serving(&listener);
        let answers = AtomicUsize::new(0);
        use_everything();
        wait(fork_with_threads(use_everything));
        // With tokio's feature `parking_lot`, a lock of that library stays locked in the child if a client holds it at
        // the fork: see `fork_with_threads`. Workers pause around a fork, clients do not. The debug output contains
        // `PhantomData` only with that feature.
        let has_parking_lot = format!("{:?}", tokio::sync::Notify::new()).contains("PhantomData");
        let client = || {
            check_eq("the serving process", ask(&listener), std::process::id());
            if !has_parking_lot {
                RUNTIME.get().unwrap().spawn_blocking(|| ());
            }
            answers.fetch_add(1, Ordering::Relaxed);
        };
        beside_threads([client; CLIENTS], || {
            for round in 0..rounds(200) {
                let child = fork_with_threads(|| {
                    if round % 4 == 0 {
                        use_everything();
                    } else {
                        block_on(async { tokio::task::spawn_blocking(|| ()).await.unwrap() });
                    }
                    exit_now(0);
                });
                wait(child);
            }
            let enough = answers.load(Ordering::Relaxed) + 100;
            wait_until("clients get more answers", || answers.load(Ordering::Relaxed) >= enough);
        });
        use_everything();
        check_no_children();
    }

    /// An inherited runtime leaves a known number of descriptors in a child.
    fn descriptors() {
        let none = open_descriptors().len();
        let poll = forkio_reactor::Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        let runtime = open_descriptors().len() - none + 1;
        drop((waker, poll));
        block_on(async {});
        let idle = open_descriptors().len();
        check_eq("a runtime, and the signal pipe", idle, none + runtime + 2);
        let socket = block_on(async { tokio::net::UdpSocket::bind("127.0.0.1:0").await }).unwrap();
        fn descend(depth: usize, expected: usize, runtime: usize) {
            let inherited = open_descriptors().len();
            // Some kernels drop the queue of the inherited runtime.
            let is_dropped = !cfg!(epoll) && inherited == expected - 1;
            assert!(is_dropped || inherited == expected, "inherited: {inherited} instead of {expected}");
            block_on(async {});
            check_eq("with a runtime", open_descriptors().len(), inherited + runtime);
            if depth > 0 {
                wait(fork_with_threads(|| descend(depth - 1, inherited + runtime, runtime)));
                check_eq("after a fork", open_descriptors().len(), inherited + runtime);
            }
        }
        wait(fork_with_threads(|| descend(4, idle + 1, runtime)));
        drop(socket);
        check_eq("after a fork", open_descriptors().len(), idle);
    }

    /// A child can drop handles of the parent's tasks and runtime.
    fn handles_of_the_parent() {
        let started = Arc::new(AtomicU32::new(0));
        let waiting = RUNTIME.spawn(std::future::pending::<()>()).unwrap();
        let done = RUNTIME.spawn(async { vec![1, 2, 3] }).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let busy = {
            let (started, stop) = (Arc::clone(&started), Arc::clone(&stop));
            let turn = move || {
                started.fetch_add(1, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            let blocking = turn.clone();
            (RUNTIME.spawn(async move { turn() }).unwrap(), RUNTIME.get().unwrap().spawn_blocking(blocking))
        };
        let handle = RUNTIME.get().unwrap();
        wait_until("all run", || done.is_finished() && started.load(Ordering::Relaxed) == 2);
        match fork() {
            Some(child) => {
                stop.store(true, Ordering::Relaxed);
                block_on(async {
                    busy.0.await.unwrap();
                    busy.1.await.unwrap();
                    check_eq("the result of the parent's task", done.await.unwrap(), vec![1, 2, 3]);
                });
                forkio_tests::reap(child);
                drop((waiting, handle));
            }
            None => {
                use_everything();
                drop((waiting, done, busy, handle));
                use_everything();
                std::process::exit(0);
            }
        }
    }

    /// After a failed build, a later use builds the runtime.
    fn build_errors() {
        static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
        static FLAKY: ProcessRuntime = ProcessRuntime::new(|| match ATTEMPTS.fetch_add(1, Ordering::Relaxed) {
            0 => Err(io::Error::other("not yet")),
            1 => panic!("the second attempt"),
            2 => Builder::new_current_thread().enable_time().build(),
            3 => match FLAKY.get() {
                Err(error @ RuntimeError::InsideBuild) => Err(io::Error::other(error)),
                result => panic!("{result:?}"),
            },
            _ => multi_thread(),
        });
        let fails = || FLAKY.get().unwrap_err();
        assert!(matches!(fails(), RuntimeError::Build(error) if error.to_string() == "not yet"));
        std::thread::spawn(|| FLAKY.get().is_ok()).join().unwrap_err();
        assert!(matches!(fails(), RuntimeError::Check(ForkError::NoIoDriver)));
        assert!(matches!(fails(), RuntimeError::Build(_)));
        check_eq("in the end", FLAKY.block_on(async { 5 }).unwrap(), 5);
        check_eq("attempts", ATTEMPTS.load(Ordering::Relaxed), 5);
    }

    /// After a shutdown, the next use builds a new runtime, in the same process or in a child. A `block_on` of another thread
    /// continues on the old runtime, which shuts down when its last `block_on` ends.
    fn shut_down() {
        RUNTIME.shutdown_timeout(limit());
        use_everything();
        let first = RUNTIME.get().unwrap().id();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let inside = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let continues = scope.spawn(|| {
                let future = async {
                    inside.wait();
                    let number: i32 = receiver.await.unwrap();
                    tokio::spawn(async move { number + 1 }).await.unwrap()
                };
                RUNTIME.block_on(future).unwrap()
            });
            inside.wait();
            let task = RUNTIME.spawn(std::future::pending::<()>()).unwrap();
            RUNTIME.shutdown_timeout(limit());
            assert_ne!(RUNTIME.get().unwrap().id(), first);
            use_everything();
            assert!(!task.is_finished(), "the first runtime has shut down");
            sender.send(7).unwrap();
            check_eq("the first runtime's future", continues.join().unwrap(), 8);
            wait_until("the first runtime has shut down", || task.is_finished());
        });
        RUNTIME.shutdown_timeout(limit());
        wait(fork_with_threads(use_everything));
        use_everything();
    }

    /// If a child shuts down or drops a `ProcessRuntime`, the inherited runtime stays as it is.
    fn dropped() {
        let runtime = ProcessRuntime::new(multi_thread);
        let ended = Arc::new(AtomicBool::new(false));
        struct Ends(Arc<AtomicBool>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let spawn = |runtime: &ProcessRuntime<fn() -> io::Result<Runtime>>| {
            let ends = Ends(Arc::clone(&ended));
            let (sender, receiver) = mpsc::channel();
            runtime
                .spawn(async move {
                    let _ends = ends;
                    sender.send(()).unwrap();
                    std::future::pending::<()>().await;
                })
                .unwrap();
            receiver.recv_timeout(limit()).unwrap();
        };
        drop(runtime);
        let runtime: ProcessRuntime<fn() -> io::Result<Runtime>> = ProcessRuntime::new(multi_thread);
        spawn(&runtime);
        match fork() {
            Some(child) => {
                forkio_tests::reap(child);
                assert!(!ended.load(Ordering::Relaxed));
                drop(runtime);
                assert!(ended.load(Ordering::Relaxed), "the task continues without its runtime");
            }
            None => {
                runtime.shutdown_timeout(limit());
                assert!(!ended.load(Ordering::Relaxed), "the child has shut down the inherited runtime");
                spawn(&runtime);
                runtime.shutdown_timeout(limit());
                assert!(ended.load(Ordering::Relaxed));
                drop(runtime);
                std::process::exit(0);
            }
        }
    }
);
