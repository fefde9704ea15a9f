//! Signals and programs in processes with threads.

use std::process::Stdio;
use std::time::Duration;

use forkio_tests::runtime::*;
use futures_util::FutureExt;
use tokio::process::Command;

use crate::{block_on, wait};

scenarios!(
    /// A signal reaches the streams of the process that it was sent to, and no other streams.
    fn private_signals() {
        let parent = own_pid();
        let mut before = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
        let turns = [(); 3].map(|()| Turn::new());
        let [ready, received, sent] = &turns;
        let child = fork_with_threads(|| {
            let mut stream = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
            ready.give();
            block_on(stream.recv()).unwrap();
            received.give();
            sent.wait();
            // The parent has received its signal.
            let mut other = block_on(async { signal(SignalKind::user_defined2()) }).unwrap();
            kill(own_pid(), libc::SIGUSR2);
            block_on(other.recv()).unwrap();
            assert!(stream.recv().now_or_never().is_none(), "the parent's signal in the child");
            kill(parent, libc::SIGHUP);
        });
        let mut hangup = block_on(async { signal(SignalKind::hangup()) }).unwrap();
        ready.wait();
        kill(child.id().cast_signed(), libc::SIGUSR1);
        received.wait();
        assert!(before.recv().now_or_never().is_none(), "the child's signal in the parent");
        kill(parent, libc::SIGUSR1);
        block_on(before.recv()).unwrap();
        sent.give();
        block_on(hangup.recv()).unwrap();
        assert!(before.recv().now_or_never().is_none(), "the child's signal in the parent");
        wait(child);
    }

    /// The parent receives signals all the time while it forks. No child receives a signal that was not sent to it.
    fn signals_at_the_fork() {
        let mut stream = block_on(async { signal(SignalKind::user_defined1()) }).unwrap();
        // Children find the handlers of both signals installed.
        drop(block_on(async { signal(SignalKind::user_defined2()) }).unwrap());
        let parent = own_pid();
        beside_threads([|| kill(parent, libc::SIGUSR1)], || {
            for _ in 0..rounds(100) {
                let child = fork_with_threads(|| {
                    let [mut other, mut own] = [SignalKind::user_defined1(), SignalKind::user_defined2()]
                        .map(|kind| block_on(async { signal(kind) }).unwrap());
                    kill(own_pid(), libc::SIGUSR2);
                    block_on(own.recv()).unwrap();
                    let is_quiet = other.recv().now_or_never().is_none();
                    exit_now(i32::from(!is_quiet));
                });
                wait(child);
                block_on(stream.recv()).unwrap();
            }
        });
    }

    /// Children start and reap programs of their own while a program of the parent runs.
    fn programs() {
        let spawn = || {
            block_on(async {
                let output = Command::new("echo").arg("hello").output().await.unwrap();
                check_eq("output", output.stdout.as_slice(), b"hello\n");
                let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
                drop(cat.stdin.take());
                assert!(cat.wait().await.unwrap().success());
                // The runtime reaps a program whose handle was dropped.
                drop(Command::new("true").spawn().unwrap());
            });
            wait_until("the program is reaped", || {
                // The runtime reaps orphans only when it is woken.
                block_on(async { sleep(Duration::from_millis(1)).await });
                processes().values().all(|process| process.parent != own_pid() || !process.has_ended())
            });
        };
        spawn();
        let mut running = block_on(async { Command::new("cat").stdin(Stdio::piped()).spawn().unwrap() });
        let child = fork_with_threads(|| {
            spawn();
            wait(fork_with_threads(spawn));
        });
        wait(child);
        spawn();
        drop(running.stdin.take());
        assert!(block_on(running.wait()).unwrap().success());
    }
);
