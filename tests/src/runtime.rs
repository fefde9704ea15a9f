//! What scenarios of a tokio runtime have in common.

use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use forkio::{Child, Fork};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::Turn;

/// Longer than a scenario takes, or its child, unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// Runs a scenario on a runtime of its own.
#[track_caller]
pub fn run(scenario: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(LONG, scenario).await.expect("a scenario that hangs") });
}

/// Forks; the child runs `child` and exits.
pub async fn fork_child(child: impl AsyncFnOnce()) -> Child {
    match forkio::fork().await.expect("forking") {
        Fork::Parent(handle) => handle,
        Fork::Child(_) => {
            child().await;
            std::process::exit(0);
        }
    }
}

/// Waits for a child, which must have exited with 0.
pub async fn reap(mut child: Child) {
    let status = timeout(LONG, child.wait()).await.expect("a child that hangs").expect("waiting");
    assert!(status.success(), "the child in process {}: {status}", child.id());
}

/// Waits for another process without holding up the runtime.
pub async fn wait_for(turn: &Turn) {
    struct Number(RawFd);

    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }

    // SAFETY: the turn keeps its descriptor open for longer than this.
    let receiver = unsafe { AsyncFd::register(Number(turn.as_raw_fd())) }.expect("registering");
    receiver.readable().await.unwrap().clear_ready();
    turn.wait();
}
