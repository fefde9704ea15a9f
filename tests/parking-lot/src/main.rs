//! Forks a process with threads whose tokio uses `parking_lot`, which is to be refused.

use std::process;

use forkio::{Fork, ForkError, ProcessRuntime, RuntimeError};
use forkio_reactor::fork::{self, ForkResult};
use tokio::runtime::Builder;

static RUNTIME: ProcessRuntime = ProcessRuntime::new(|| Builder::new_multi_thread().enable_all().build());

fn main() {
    // Without other threads there is nothing to refuse.
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let child = runtime.block_on(async {
        match forkio::fork().await.expect("forking") {
            Fork::Parent(child) => Some(child),
            Fork::Child(_) => None,
        }
    });
    let answer = RUNTIME.block_on(async { tokio::spawn(async { 7 }).await.expect("a task") });
    assert_eq!(answer.expect("a runtime"), 7);
    let Some(mut child) = child else { process::exit(0) };
    assert!(runtime.block_on(child.wait()).expect("waiting").success());

    // SAFETY: it refuses.
    let refused = unsafe { forkio::fork_with_threads() };
    assert!(matches!(refused, Err(ForkError::ParkingLot)), "{refused:?}");
    // SAFETY: the child does little, and ends.
    match unsafe { fork::fork() }.expect("forking") {
        ForkResult::Parent { child } => {
            let mut status = 0;
            // SAFETY: the kernel writes the status.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child's status");
        }
        ForkResult::Child => {
            let error = RUNTIME.get().expect_err("a runtime that is refused");
            assert!(matches!(error, RuntimeError::ParkingLot), "{error:?}");
            assert!(error.to_string().contains("`parking_lot`"), "{error}");
            println!("refused");
            process::exit(0);
        }
    }
}
