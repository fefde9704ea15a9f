//! Programs that tokio has started.

use std::future::Future;
use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use forkio_tests::runtime::*;
use tokio::process::Command;

const SHORT: Duration = Duration::from_millis(20);

const MILLIS: Duration = Duration::from_millis(1);

/// A program that runs until its input ends.
fn cat() -> Command {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

async fn check_waiting() {
    let (mut first, mut second) = (cat().spawn().unwrap(), cat().spawn().unwrap());
    let (first_input, second_input) = (first.stdin.take(), second.stdin.take());
    let waiting = tokio::spawn(async move { first.wait().await });
    tokio::task::yield_now().await;
    let Some(child) = fork().await else {
        let error = timeout(limit(), waiting).await.expect("the wait hangs").unwrap().unwrap_err();
        check_eq("waiting at the fork", error.raw_os_error(), Some(libc::ECHILD));
        let error = timeout(limit(), second.wait()).await.expect("the wait hangs").unwrap_err();
        check_eq("waiting afterwards", error.raw_os_error(), Some(libc::ECHILD));
        check_eq("looking", second.try_wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        let mut own = Command::new("sh").args(["-c", "exit 5"]).spawn().unwrap();
        check_eq("the status of the child's own program", own.wait().await.unwrap().code(), Some(5));
        std::process::exit(0);
    };
    reap(child).await;
    assert!(!waiting.is_finished());
    drop((first_input, second_input));
    assert!(waiting.await.unwrap().unwrap().success());
    assert!(second.wait().await.unwrap().success());
}

async fn check_pipes() {
    let mut program = cat().spawn().unwrap();
    let mut input = program.stdin.take().unwrap();
    let mut output = program.stdout.take().unwrap();
    let mut program = Some(program);
    let (to_parent, to_child) = Turn::both_ways();
    let child = fork_child(async || {
        let error = input.write_all(b"child").await.unwrap_err();
        check_eq("writing", error.kind(), ErrorKind::BrokenPipe);
        check_eq("reading", output.read(&mut [0; 8]).await.unwrap(), 0);
        drop(program.take());
        // The runtime continues after the handle was dropped.
        tokio::time::sleep(MILLIS).await;
        assert!(cat().stdin(Stdio::null()).status().await.unwrap().success());
        to_parent.give();
        // The child keeps its descriptors open until the program has ended.
        wait_for(&to_child).await;
    })
    .await;
    wait_for(&to_parent).await;
    input.write_all(b"parent").await.unwrap();
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text).await.unwrap();
    check_eq("the parent's pipes", text.as_str(), "parent");
    assert!(program.take().unwrap().wait().await.unwrap().success());
    to_child.give();
    reap(child).await;
}

async fn check_dropped_handle() {
    let mut program = cat().spawn().unwrap();
    let pid = program.id().unwrap().cast_signed();
    let input = program.stdin.take();
    drop(program);
    in_child(async || {
        tokio::time::sleep(MILLIS).await;
        in_child(async || {}).await;
        assert!(processes().contains_key(&pid), "the program has been reaped");
    })
    .await;
    drop(input);
    timeout(limit(), async {
        while processes().contains_key(&pid) {
            tokio::time::sleep(MILLIS).await;
        }
    })
    .await
    .expect("the program was not reaped");
}

/// Runs `check` in a child, and then in this process, where tokio waits for SIGCHLD because it cannot open pidfds.
fn with_and_without_pidfds<F: Future<Output = ()>>(check: fn() -> F) {
    unplanned::in_child(|| run(check()));
    deny_tokio_pidfds();
    run(check());
}

scenarios!(
    /// Waiting for a program of the parent fails at once in the child. The parent continues to wait, and reaps the program.
    fn waiting() {
        with_and_without_pidfds(check_waiting);
    }

    /// The pipes to a program belong to the parent. The child's copies are severed, and do not keep the pipes open.
    fn pipes() {
        with_and_without_pidfds(check_pipes);
    }

    /// The parent's runtime reaps a program whose handle was dropped. The child's runtime does not try to.
    fn dropped_handle() {
        with_and_without_pidfds(check_dropped_handle);
    }

    /// If the parent handles SIGCHLD, the child's stream reports one SIGCHLD after the fork, and then the ends of the
    /// child's own children. The parent's stream reports neither.
    async fn child_signal() {
        let mut stream = signal(SignalKind::child()).unwrap();
        let (to_parent, to_child) = Turn::both_ways();
        let child = fork_child(async || {
            timeout(limit(), stream.recv()).await.expect("a SIGCHLD of its own");
            assert!(timeout(SHORT, stream.recv()).await.is_err(), "a second SIGCHLD");
            in_child(async || {}).await;
            timeout(limit(), stream.recv()).await.expect("the SIGCHLD of the grandchild");
            to_parent.give();
            wait_for(&to_child).await;
        })
        .await;
        wait_for(&to_parent).await;
        assert!(timeout(SHORT, stream.recv()).await.is_err(), "the grandchild's SIGCHLD reached the parent");
        to_child.give();
        reap(child).await;
        timeout(limit(), stream.recv()).await.expect("the SIGCHLD of the child");
    }

    /// Dropping a handle with `kill_on_drop`, in any process, kills the program, as the documentation says.
    async fn kill_on_drop() {
        let mut program = cat().kill_on_drop(true).spawn().unwrap();
        let _input = program.stdin.take();
        let Some(child) = fork().await else {
            drop(program);
            std::process::exit(0);
        };
        reap(child).await;
        check_eq("killed", program.wait().await.unwrap().code(), None);
    }

    /// A value that belongs to one process is neither used nor dropped in another.
    async fn parent_owned() {
        let mut program = cat().kill_on_drop(true).spawn().unwrap();
        let pid = program.id().unwrap().cast_signed();
        let _input = program.stdin.take();
        let mut program = ParentOwned::new(program);
        program.get_mut().unwrap().try_wait().unwrap();
        let Some(child) = fork().await else {
            check_eq("using it", program.get().err(), Some(NotInChild));
            check_eq("using it", program.get_mut().err(), Some(NotInChild));
            drop(program);
            check_eq("the child's own value", ParentOwned::new(7).into_inner(), Ok(7));
            std::process::exit(0);
        };
        reap(child).await;
        check_eq("the program runs", program.get_mut().unwrap().try_wait().unwrap(), None);
        // In the parent, dropping the value kills the program.
        drop(program);
        wait_until("the program is killed", || processes().get(&pid).is_none_or(|process| process.has_ended()));
    }
);
