//! One worker process.

use std::process::ExitStatus;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::Child;
use crate::prefork::limits::Limits;
use crate::prefork::reason::Reason;
use crate::prefork::slots::SeenHeartbeat;

/// How long after a SIGABRT a worker may take to print its stack.
const ABORT_GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Booting,
    Ready,
    /// The worker drains.
    Retiring,
}

/// How the supervisor has forced a worker to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    None,
    /// SIGABRT was sent, so that the worker prints its stack.
    Aborted,
    Killed,
}

#[derive(Debug)]
pub(in crate::prefork) struct WorkerProcess {
    pub(in crate::prefork) child: Child,
    pub(in crate::prefork) index: usize,
    pub(super) generation: u64,
    pub(in crate::prefork) slot: usize,
    pub(super) since: Instant,
    pub(super) stage: Stage,
    pub(super) force: Force,
    /// When the supervisor uses force, or more force: by then the worker must be ready, have drained, or have aborted.
    pub(super) deadline: Option<Instant>,
    pub(super) limits: Limits,
    /// Why the worker must be replaced or was told to end.
    pub(in crate::prefork) end_reason: Option<Reason>,
    pub(super) heartbeat: SeenHeartbeat,
}

impl WorkerProcess {
    /// Returns whether the worker serves, or will serve soon.
    pub(in crate::prefork) fn is_active(&self) -> bool {
        self.stage != Stage::Retiring && self.force == Force::None
    }

    pub(in crate::prefork) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready && self.force == Force::None
    }

    /// Returns the reason to record if the worker ends now.
    pub(super) fn reason(&self) -> Reason {
        match (self.stage, self.force) {
            (Stage::Booting, Force::None) => Reason::Boot,
            (Stage::Booting, _) => Reason::BootTimeout,
            (Stage::Ready, Force::None) => Reason::Died,
            (Stage::Ready, _) => Reason::Stuck,
            (Stage::Retiring, _) => self.end_reason.unwrap_or(Reason::Signal),
        }
    }

    pub(super) fn signal(&self, signal: i32) {
        if let Err(error) = self.child.signal(signal) {
            let (index, pid, generation) = (self.index, self.child.id(), self.generation);
            tracing::debug!(worker = index, pid, generation, signal, %error, "cannot signal a worker: it has ended");
        }
    }

    /// Marks the worker as told to end, and gives it time until `deadline`.
    pub(super) fn retires(&mut self, deadline: Option<Instant>) {
        self.stage = Stage::Retiring;
        if self.force == Force::None {
            self.deadline = deadline;
        }
    }

    /// Ends the worker. If `with_stack`, the worker prints its stack first.
    pub(super) fn end_by_force(&mut self, with_stack: bool, now: Instant) {
        if with_stack && self.force == Force::None {
            self.force = Force::Aborted;
            self.deadline = Some(now + ABORT_GRACE);
            self.signal(libc::SIGABRT);
        } else {
            self.force = Force::Killed;
            self.deadline = None;
            self.signal(libc::SIGKILL);
        }
    }
}

/// Returns the position and the exit status of a worker that has ended.
pub(super) fn poll_ended(workers: &mut [WorkerProcess], cx: &mut Context<'_>) -> Poll<(usize, ExitStatus)> {
    for (position, worker) in workers.iter_mut().enumerate() {
        match worker.child.poll_wait(cx) {
            Poll::Ready(Ok(status)) => return Poll::Ready((position, status)),
            Poll::Ready(Err(error)) => {
                // ECHILD: other code has reaped the child, or SIGCHLD is ignored. After any other error, the worker must not
                // serve beside its successor.
                if error.raw_os_error() != Some(libc::ECHILD) {
                    let _ = worker.child.kill();
                }
                let (index, pid, generation) = (worker.index, worker.child.id(), worker.generation);
                tracing::warn!(worker = index, pid, generation, %error, "cannot tell how the worker ended");
                return Poll::Ready((position, super::unknown_status()));
            }
            Poll::Pending => {}
        }
    }
    Poll::Pending
}
