//! Handles of children, and hooks in children.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use forkio_tests::runtime::*;
use tokio::process::Command;
use tokio::task::LocalSet;

scenarios!(
    /// Hooks run in each child, in the order of their installation, with the lineage of the child.
    async fn on_child() {
        static CALLS: Mutex<Vec<(u32, &str)>> = Mutex::new(Vec::new());
        let note = |name| move |lineage: &forkio::Lineage| CALLS.lock().unwrap().push((lineage.generation(), name));
        forkio::on_child(note("first"));
        forkio::on_child(move |lineage| {
            note("second")(lineage);
            if lineage.generation() == 1 {
                forkio::on_child(note("third"));
            }
        });
        let child = fork_child(async || {
            check_eq("calls", CALLS.lock().unwrap().clone(), vec![(1, "first"), (1, "second")]);
            in_child(async || {
                let calls = CALLS.lock().unwrap().split_off(2);
                check_eq("calls", calls, vec![(2, "first"), (2, "second"), (2, "third")]);
            })
            .await;
        })
        .await;
        check_eq("calls in the parent", CALLS.lock().unwrap().len(), 0);
        reap(child).await;
    }

    /// A handle waits for, signals and reaps a child. A dropped handle neither kills the child nor leaves a zombie.
    async fn handle() {
        // Each wait returns the same exit status.
        let Some(mut child) = fork().await else { std::process::exit(42) };
        check_eq("status", child.wait().await.unwrap().code(), Some(42));
        check_eq("again", child.wait().await.unwrap().code(), Some(42));
        check_eq(
            "a signal to a child that was reaped",
            child.signal(libc::SIGTERM).unwrap_err().raw_os_error(),
            Some(libc::ESRCH),
        );
        // A signal ends the child.
        let mut child = fork_child(std::future::pending).await;
        check_eq("running", child.try_wait().unwrap(), None);
        child.signal(libc::SIGCONT).unwrap();
        // No system has so many signals.
        child.signal(129).unwrap_err();
        let invalid = child.signal(9_999).unwrap_err();
        check_eq("no such signal", invalid.kind(), ErrorKind::InvalidInput);
        // A wait can be cancelled.
        assert!(timeout(Duration::from_millis(10), child.wait()).await.is_err());
        child.signal(libc::SIGTERM).unwrap();
        check_eq("signal", child.wait().await.unwrap().signal(), Some(libc::SIGTERM));
        // A handle is dropped while the child runs.
        let turn = Turn::new();
        let child = fork_child(async || wait_for(&turn).await).await;
        let pid = child.id().cast_signed();
        drop(child);
        sleep(Duration::from_millis(10)).await;
        check_eq("the child has ended", has_ended(pid), false);
        turn.give();
        while processes().contains_key(&pid) {
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// If other code reaps a child before the fork returns, the fork succeeds, and waiting fails.
    async fn reaped_by_other_code() {
        extern "C" fn reap_all() {
            // SAFETY: a null pointer means that the caller wants no status.
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        }
        unplanned::pthread_atfork(unplanned::nothing, reap_all, unplanned::nothing);
        let mut child = fork_child(async || {}).await;
        check_eq("waiting", child.wait().await.unwrap_err().raw_os_error(), Some(libc::ESRCH));
        check_eq("a signal", child.kill().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    /// Waiting for a child of another process fails at once, even if the wait began before the fork.
    async fn handle_in_another_process() {
        let turn = Turn::new();
        let mut sibling = fork_child(async || wait_for(&turn).await).await;
        let failed = Rc::new(Cell::new(0));
        let is_not_in_child = |error: io::Error| error.get_ref().is_some_and(|source| source.is::<NotInChild>());
        let local = LocalSet::new();
        let failures = Rc::clone(&failed);
        // This task is waiting for the sibling when the process forks.
        let waiting = local.spawn_local(async move {
            let result = sibling.wait().await;
            if result.is_err_and(is_not_in_child) {
                failures.set(failures.get() + 1);
            }
            sibling
        });
        local
            .run_until(async {
                tokio::task::yield_now().await;
                let Some(child) = fork().await else {
                    let mut sibling = waiting.await.unwrap();
                    check_eq("failed waits", failed.get(), 1);
                    assert!(sibling.wait().await.is_err_and(is_not_in_child));
                    assert!(sibling.signal(libc::SIGKILL).is_err_and(is_not_in_child));
                    drop(sibling);
                    std::process::exit(0);
                };
                reap(child).await;
                turn.give();
                let mut sibling = waiting.await.unwrap();
                assert!(sibling.wait().await.unwrap().success());
                check_eq("failed waits", failed.get(), 0);
            })
            .await;
    }

    /// Waiting for a program that the parent has started fails at once in the child, through tokio's own handle.
    async fn tokio_handle_in_another_process() {
        let mut cat = Command::new("cat");
        let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = cat.stdin.take().unwrap();
        let mut output = cat.stdout.take().unwrap();
        in_child(async || {
            let error = timeout(limit(), cat.wait()).await.expect("the wait hangs").unwrap_err();
            check_eq("waiting", error.raw_os_error(), Some(libc::ECHILD));
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).await.unwrap();
            check_eq("the pipe is severed", bytes.len(), 0);
        })
        .await;
        input.write_all(b"parent").await.unwrap();
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text).await.unwrap();
        check_eq("the parent's pipes", text.as_str(), "parent");
        assert!(cat.wait().await.unwrap().success());
    }
);
