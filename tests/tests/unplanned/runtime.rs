//! Unplanned forks inside a task of a current-thread runtime.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forkio_reactor::fork::glue;
use forkio_tests::runtime::*;
use tokio::sync::Notify;
use tokio::time::Interval;

/// Forks. The child runs `child` and exits. Returns the child's process id.
async fn fork_child(child: impl AsyncFnOnce()) -> i32 {
    match unplanned::fork() {
        Some(pid) => pid,
        None => {
            child().await;
            std::process::exit(0);
        }
    }
}

/// Waits, without blocking the runtime, for a child that must exit with 0.
async fn reap(pid: i32) {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes the status.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 => sleep(Duration::from_millis(5)).await,
            waited => {
                check_eq("waiting for the child", waited, pid);
                return check_eq("the child's status", status, 0);
            }
        }
    }
}

/// Connects to a server. Returns the process id that it answers with.
async fn ask(address: SocketAddr) -> u32 {
    TcpStream::connect(address).await.unwrap().read_u32_le().await.unwrap()
}

/// Accepts one connection, and answers with the process id.
async fn serve_one(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(&std::process::id().to_le_bytes()).await.unwrap();
}

/// Checks that this process serves its own client.
async fn check_serving(listener: &TcpListener) {
    let (pid, ()) = tokio::join!(ask(listener.local_addr().unwrap()), serve_one(listener));
    check_eq("the serving process", pid, std::process::id());
}

scenarios!(
    /// Listener, timers, signals and wakes work in both processes. The connection is severed in the child.
    async fn both_processes_continue() {
        forkio::Lineage::current();
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let (mut stream, mut peer) = connection().await;
        let mut signals = signal(SignalKind::user_defined1()).unwrap();
        let mut ticks = interval(Duration::from_millis(10));
        ticks.tick().await;
        let use_all = async |ticks: &mut Interval, signals: &mut Signal| {
            for _ in 0..3 {
                ticks.tick().await;
            }
            raise(libc::SIGUSR1);
            signals.recv().await.unwrap();
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let thread = std::thread::spawn(move || sender.send(()).unwrap());
            receiver.await.unwrap();
            thread.join().unwrap();
        };
        let child = fork_child(async || {
            check_eq("the severed connection", stream.read(&mut [0; 8]).await.unwrap(), 0);
            use_all(&mut ticks, &mut signals).await;
            serve_one(&listener).await;
        })
        .await;
        check_eq("the serving process", ask(address).await, child.cast_unsigned());
        reap(child).await;
        use_all(&mut ticks, &mut signals).await;
        assert!(timeout(Duration::from_millis(20), signals.recv()).await.is_err(), "the parent has the child's signal");
        peer.write_all(b"still here").await.unwrap();
        check_eq("the connection", stream.read(&mut [0; 32]).await.unwrap(), 10);
        check_serving(&listener).await;
    }

    /// A child gets a signal that was sent to it before it used its runtime. Until then, the signal handler writes to
    /// the parent's pipe, and the parent may empty that pipe.
    async fn signal_before_the_first_poll() {
        forkio::Lineage::current();
        let mut signals = signal(SignalKind::user_defined1()).unwrap();
        let receivers = glue::renewed_receivers();
        let (raised, emptied) = Turn::both_ways();
        let child = fork_child(async || {
            raise(libc::SIGUSR1);
            raised.give();
            emptied.wait();
            signals.recv().await.unwrap();
        })
        .await;
        raised.wait();
        while receivers.iter().any(|fd| glue::pending_bytes(fd).unwrap() > 0) {
            sleep(Duration::from_millis(1)).await;
        }
        emptied.give();
        reap(child).await;
    }

    /// A daemon serves on the listener, and so does its grandparent afterwards.
    async fn daemon() {
        forkio::Lineage::current();
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        if unplanned::daemon() {
            check_eq("generation", forkio::Lineage::current().generation(), 1);
            serve_one(&listener).await;
            std::process::exit(0);
        }
        assert_ne!(ask(address).await, std::process::id(), "the serving process");
        check_serving(&listener).await;
    }

    /// A planned fork works in the child of an unplanned one, and an unplanned fork in the child of a planned one.
    async fn planned_and_unplanned() {
        forkio::Lineage::current();
        let listener = listener().await;
        let serves = async || check_serving(&listener).await;
        let generation = |expected| check_eq("generation", forkio::Lineage::current().generation(), expected);
        let in_grandchild = async || {
            generation(2);
            serves().await;
        };
        let child = fork_child(async || {
            in_child(in_grandchild).await;
            generation(1);
            serves().await;
        });
        reap(child.await).await;
        in_child(async || {
            reap(fork_child(in_grandchild).await).await;
            serves().await;
        })
        .await;
        generation(0);
        serves().await;
    }

    /// Lineage, hooks, parent-only futures and child handles take an unplanned fork into account.
    async fn lineage() {
        forkio::Lineage::current();
        let hooks = Arc::new(AtomicU32::new(0));
        forkio::on_child({
            let hooks = Arc::clone(&hooks);
            move |lineage| {
                hooks.fetch_add(lineage.generation(), Ordering::Relaxed);
            }
        });
        let never = Arc::new(Notify::new());
        let future = tokio::spawn(forkio::parent_only({
            let never = Arc::clone(&never);
            async move { never.notified().await }
        }));
        tokio::task::yield_now().await;
        let Some(mut handle) = fork().await else { std::future::pending().await };
        let parent = std::process::id();
        let child = fork_child(async || {
            let lineage = forkio::Lineage::current();
            check_eq("generation and parent", (lineage.generation(), lineage.parent()), (1, Some(parent)));
            check_eq("the parent's future", future.await.unwrap(), Err(NotInChild));
            check_eq("hooks", hooks.load(Ordering::Relaxed), 1);
            let error = handle.wait().await.unwrap_err();
            assert!(error.get_ref().is_some_and(|error| error.is::<NotInChild>()), "{error}");
            sleep(Duration::from_millis(5)).await;
            check_eq("hooks", hooks.load(Ordering::Relaxed), 1);
        })
        .await;
        reap(child).await;
        check_eq("hooks", hooks.load(Ordering::Relaxed), 0);
        handle.kill().unwrap();
        handle.wait().await.unwrap();
        never.notify_one();
    }

    /// A parent-only future resolves in the child, even if another thread of the parent might have held a lock at the fork.
    async fn parent_future_beside_a_thread() {
        let future = tokio::spawn(forkio::parent_only(std::future::pending::<()>()));
        tokio::task::yield_now().await;
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = start_thread("beside", move || stopped.recv());
        let child = fork_child(async || check_eq("the parent's future", future.await.unwrap(), Err(NotInChild))).await;
        reap(child).await;
        drop(stop);
        thread.join().unwrap().unwrap_err();
    }

    /// The runtime continues after it has started programs, some of them with fork(2).
    async fn commands() {
        let _listener = listener().await;
        assert!(tokio::process::Command::new("/bin/true").status().await.unwrap().success());
        let mut command = std::process::Command::new("/bin/true");
        // SAFETY: the hook does nothing.
        unsafe { command.pre_exec(|| Ok(())) };
        assert!(tokio::process::Command::from(command).status().await.unwrap().success());
        check_eq("fork and exec", unplanned::run("/bin/true", &[]), 0);
        sleep(Duration::from_millis(5)).await;
    }

    /// A thread without a runtime forks. Its child builds a runtime, in which the hooks run.
    fn fresh_runtime() {
        forkio::Lineage::current();
        static HOOKS: AtomicU32 = AtomicU32::new(0);
        forkio::on_child(|_| {
            HOOKS.fetch_add(1, Ordering::Relaxed);
        });
        let end = Arc::new(Notify::new());
        let (built, is_built) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let end = Arc::clone(&end);
            move || {
                let runtime = current_thread();
                // The first runtime of a process creates shared state under locks, which no fork may interrupt.
                built.send(()).unwrap();
                runtime.block_on(async { end.notified().await });
            }
        });
        is_built.recv().unwrap();
        for _ in 0..5 {
            forkio_tests::reap(unplanned::fork_on_thread(|| {
                current_thread().block_on(async {
                    let listener = listener().await;
                    check_serving(&listener).await;
                });
                check_eq("hooks", HOOKS.load(Ordering::Relaxed), 1);
            }));
        }
        end.notify_one();
        thread.join().unwrap();
        check_eq("hooks", HOOKS.load(Ordering::Relaxed), 0);
    }
);
