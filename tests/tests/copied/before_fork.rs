//! Hooks that run before a fork.

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use forkio_tests::runtime::*;

scenarios!(
    /// `before_fork` hooks run in the parent before each fork, the newest first. `on_child` hooks run in the child.
    async fn order() {
        static CALLS: Mutex<Vec<(u32, &str)>> = Mutex::new(Vec::new());
        let note = |name| move || CALLS.lock().unwrap().push((std::process::id(), name));
        let take = || std::mem::take(&mut *CALLS.lock().unwrap());
        let hook = move |name| {
            let note = note(name);
            move || {
                note();
                io::Result::Ok(())
            }
        };
        forkio::before_fork(hook("first"));
        forkio::before_fork(move || {
            hook("second")()?;
            // The new hook runs from the next fork on.
            if CALLS.lock().unwrap().len() == 1 {
                forkio::before_fork(hook("third"));
            }
            Ok(())
        });
        forkio::on_child(move |_| note("child")());
        let parent = std::process::id();
        let child = fork_child(async || {
            let own = std::process::id();
            check_eq("calls in the child", take(), vec![(parent, "second"), (parent, "first"), (own, "child")]);
            let grandchild = fork_child(async || {}).await;
            check_eq("calls of a child that forks", take(), vec![(own, "third"), (own, "second"), (own, "first")]);
            reap(grandchild).await;
        })
        .await;
        check_eq("calls in the parent", take(), vec![(parent, "second"), (parent, "first")]);
        reap(child).await;
    }

    /// A hook can refuse a fork, which then changes nothing. The next fork works.
    async fn refusal() {
        static CALLS: Mutex<Vec<&str>> = Mutex::new(Vec::new());
        static REFUSES: Mutex<bool> = Mutex::new(true);
        forkio::before_fork(|| {
            CALLS.lock().unwrap().push("first");
            Ok(())
        });
        forkio::before_fork(|| {
            CALLS.lock().unwrap().push("second");
            if *REFUSES.lock().unwrap() { Err(io::Error::other("a transaction is open")) } else { Ok(()) }
        });
        let open = open_descriptors();
        let error = forkio::fork().await.unwrap_err();
        assert!(matches!(error, ForkError::Hook(_)), "{error:?}");
        check_eq("the message", error.to_string().ends_with("refused the fork: a transaction is open"), true);
        check_eq("calls", std::mem::take(&mut *CALLS.lock().unwrap()), vec!["second"]);
        check_eq("descriptors", open_descriptors(), open);
        *REFUSES.lock().unwrap() = false;
        in_child(async || {}).await;
        check_eq("calls", CALLS.lock().unwrap().clone(), vec!["second", "first"]);
    }

    /// If a hook starts a thread, the fork is refused.
    async fn thread_of_a_hook() {
        let (sender, receiver) = mpsc::channel::<()>();
        let threads: Arc<Mutex<Vec<thread::JoinHandle<()>>>> = Arc::default();
        let mut receiver = Some(receiver);
        let started = Arc::clone(&threads);
        forkio::before_fork(move || {
            if let Some(receiver) = receiver.take() {
                started.lock().unwrap().push(start_thread("from-a-hook", move || receiver.recv().unwrap()));
            }
            Ok(())
        });
        match forkio::fork().await.unwrap_err() {
            ForkError::Threads(threads) => check_eq("the thread", threads[0].name.as_str(), "from-a-hook"),
            error => panic!("{error:?}"),
        }
        sender.send(()).unwrap();
        threads.lock().unwrap().pop().unwrap().join().unwrap();
        in_child(async || {}).await;
    }

    /// A panic of a hook is an error of `fork`. Hooks and the signal mask stay as they were.
    async fn panic() {
        static CALLS: Mutex<u32> = Mutex::new(0);
        forkio::before_fork(|| {
            let calls = {
                let mut calls = CALLS.lock().unwrap();
                *calls += 1;
                *calls
            };
            if calls == 1 {
                panic!("on purpose");
            }
            Ok(())
        });
        let error = forkio::fork().await.expect_err("the hook panics, so the fork must fail");
        assert!(matches!(error, forkio::ForkError::Hook(_)), "{error}");
        // SAFETY: `blocked` is filled before it is read.
        unsafe {
            let mut blocked = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &mut blocked);
            check_eq("whether SIGTERM is blocked", libc::sigismember(&blocked, libc::SIGTERM), 0);
        }
        in_child(async || {}).await;
        check_eq("the number of calls", *CALLS.lock().unwrap(), 2);
    }
);
