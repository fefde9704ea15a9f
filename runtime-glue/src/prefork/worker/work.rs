//! Runs a child as a worker, from its assignment to its exit.

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::os::unix::process::parent_id;
use std::panic::AssertUnwindSafe;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use forkio_reactor::unix::Process;
use futures_util::FutureExt;
use rustix::process::Signal;
use tokio::runtime::{Runtime, RuntimeFlavor};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::Instrument;

use super::span::Spans;
use super::{Worker, WorkerHandle, WorkerOutput};
use crate::prefork::connections::Common;
use crate::prefork::drain::Status;
use crate::prefork::options::WorkerSettings;
use crate::prefork::signals::{Signals, WorkerCommand};
use crate::prefork::slots::{CANCELLED, DRAINS, ServerPhase, UNFIT};
use crate::prefork::{Connections, Distribution, Listener, Phase};
use crate::{parent_only, report, sys};

/// The exit status of a process that panicked. The standard library uses the same.
pub(in crate::prefork) const PANICKED: i32 = 101;

/// The exit status of a process that could not start or fork, and of a worker whose tasks still ran at the shutdown timeout.
pub(in crate::prefork) const FAILED: i32 = 1;

/// How long after the shutdown timeout the kernel kills a worker, if the supervisor has not killed it before.
const KERNEL_GRACE: Duration = Duration::from_secs(3);

/// How long a worker waits for the supervisor's command after another process has told it to end. A signal to the
/// process group reaches the supervisor at about the same time.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(1);

/// How many heartbeats a worker writes per heartbeat timeout.
const HEARTBEATS: u32 = 4;

/// Ends the process if dropped. A worker or template must never leave [`Prefork::run`](crate::prefork::Prefork::run),
/// even if it panics or the caller drops the future.
pub(in crate::prefork) struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        process::exit(PANICKED)
    }
}

/// Everything that a child needs to become a worker.
pub(in crate::prefork) struct Assignment {
    pub(in crate::prefork) guard: ExitOnDrop,
    pub(in crate::prefork) index: usize,
    pub(in crate::prefork) generation: u64,
    pub(in crate::prefork) slot: usize,
    /// The process id of the supervisor.
    pub(in crate::prefork) supervisor: u32,
    /// The id of the process in between: the template forked it, it forked this worker, and it ends at once. `None` if
    /// the supervisor forked the worker, which then reduces its own privileges.
    pub(in crate::prefork) between: Option<u32>,
    pub(in crate::prefork) max_requests: Option<u64>,
    pub(in crate::prefork) listeners: Vec<Listener>,
    pub(in crate::prefork) distributions: Vec<(RawFd, Distribution)>,
    pub(in crate::prefork) common: Arc<Common>,
    pub(in crate::prefork) signals: Signals,
    pub(in crate::prefork) settings: WorkerSettings,
}

impl Assignment {
    /// Reduces the privileges of this thread, and so of the threads that it starts. The worker has no other thread yet. Some
    /// of the changes affect only one thread (`PR_SET_NO_NEW_PRIVS`, sched_setaffinity(2), a seccomp filter).
    fn reduce_privileges(&self) {
        let privileges = &self.settings.privileges;
        let is_forked_by_template = self.between.is_some();
        // A template has reduced its own privileges, which its workers inherit.
        let changed = privileges
            .stay_on_cpu(self.index)
            .and_then(|()| if is_forked_by_template { Ok(()) } else { privileges.apply() });
        changed.unwrap_or_else(|error| {
            self.common.slots.raise(self.slot, UNFIT);
            fail("this worker cannot start", error)
        })
    }
}

/// Says why this process cannot continue, and exits.
pub(in crate::prefork) fn fail(what: &str, error: io::Error) -> ! {
    tracing::error!(%error, "{what}");
    report::unless_traced(format_args!("{what}: {error}"));
    process::exit(FAILED)
}

/// Runs the worker on a runtime of its own, then exits. This function never returns to the inherited runtime, so that
/// runtime stops.
pub(in crate::prefork) fn run_on<B, F, Fut>(assignment: Assignment, build: B, worker: F) -> !
where
    B: FnOnce() -> io::Result<Runtime> + Send,
    F: FnOnce(Worker) -> Fut + Send,
    Fut: Future,
    Fut::Output: WorkerOutput,
{
    let index = assignment.index;
    let spans = Spans::new(index, assignment.generation);
    spans.enter();
    assignment.reduce_privileges();
    // If the thread does not start, dropping the assignment would end the process before the error is logged.
    let mut assignment = ManuallyDrop::new(assignment);
    let move_over = || {
        spans.enter();
        let runtime = build().unwrap_or_else(|error| fail("cannot build the worker's runtime", error));
        let listeners = std::mem::take(&mut assignment.listeners);
        let moved: io::Result<_> = {
            let _context = runtime.enter();
            listeners.into_iter().map(Listener::move_here).collect()
        };
        assignment.listeners = moved.unwrap_or_else(|error| fail("cannot register a listener", error));
        if runtime.handle().runtime_flavor() == RuntimeFlavor::MultiThread {
            leave_abort_to_runtime();
        }
        runtime.block_on(work(ManuallyDrop::into_inner(assignment), worker))
    };
    run_on_thread(format!("worker-{index}"), move_over)
}

/// Calls `work` on another thread, because this one is inside a runtime. `work` exits the process.
pub(in crate::prefork) fn run_on_thread(name: String, work: impl FnOnce() + Send) -> ! {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, work);
        let thread = thread.unwrap_or_else(|error| fail("cannot start the first thread of this process", error));
        leave_abort_to_runtime();
        // If the thread ends before the process, it has panicked, and the panic hook has printed the message.
        let _ = thread.join();
        process::exit(PANICKED)
    })
}

/// Blocks SIGABRT in the calling thread, which mostly waits. If the worker is stuck, the kernel then delivers the SIGABRT of the
/// supervisor to a thread of the runtime, which prints its stack.
fn leave_abort_to_runtime() {
    if let Err(error) = sys::block_signal(libc::SIGABRT) {
        tracing::debug!(%error, "a stuck worker may print the stack of a thread that waits");
    }
}

/// Runs the worker on the runtime that the caller drives, then exits.
pub(in crate::prefork) async fn run<F, Fut>(assignment: Assignment, worker: F) -> !
where
    F: FnOnce(Worker) -> Fut,
    Fut: Future,
    Fut::Output: WorkerOutput,
{
    let spans = Spans::new(assignment.index, assignment.generation);
    spans.enter();
    assignment.reduce_privileges();
    work(assignment, worker).instrument(spans.of_future).await
}

/// Runs the worker, then exits.
async fn work<F, Fut>(assignment: Assignment, worker: F) -> !
where
    F: FnOnce(Worker) -> Fut,
    Fut: Future,
    Fut::Output: WorkerOutput,
{
    let Assignment { guard: _guard, index, generation, slot, supervisor, common, signals, settings, .. } = assignment;
    let status = async {
        if common.slots.flags(slot) & CANCELLED != 0 {
            return 0;
        }
        // The supervisor becomes this worker's parent when the process in between has ended, which happens soon.
        while assignment.between == Some(parent_id()) {
            sleep(Duration::from_millis(1)).await;
        }
        // A change of credentials may clear the parent-death signal, so this comes after `reduce_privileges`.
        if !tie_to_supervisor(supervisor, Some(settings.shutdown_timeout)) {
            return 0;
        }
        if settings.abort_stuck {
            if let Err(error) = sys::print_stack_on_abort() {
                tracing::warn!(%error, "this worker will not print its stack if it gets stuck");
            }
        }
        tracing::info!("started");
        let status = Arc::new(Status::new(Arc::clone(&common), slot, &settings, assignment.max_requests));
        let connections = Connections::new(common, slot, settings.max_connections);
        tokio::spawn(follow_signals(signals, Arc::clone(&status), supervisor, settings.clone()).in_current_span());
        tokio::spawn(connections.clone().follow_wakes().in_current_span());
        if let Some(limit) = settings.heartbeat_timeout {
            tokio::spawn(beat(Arc::clone(&status), limit / HEARTBEATS));
        }
        // Call the closure inside the block, because it may panic like its future.
        let work = async {
            worker(Worker {
                index,
                generation,
                listeners: assignment.listeners,
                distributions: assignment.distributions,
                connections,
                handle: WorkerHandle(Arc::clone(&status)),
            })
            .await
        };
        let status = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(output) => match (output.exit_status(), status.finish_tasks().await) {
                (0, cut_off @ 1..) => {
                    let timeout = settings.shutdown_timeout;
                    let log = || tracing::error!(cut_off, ?timeout, "tasks still ran at the shutdown timeout");
                    report::despite_panics(log);
                    FAILED
                }
                (exit_status, _) => exit_status.into(),
            },
            // The panic hook has printed the message already.
            Err(_) => PANICKED,
        };
        // The application may close its log in `end`.
        report::despite_panics(|| tracing::info!(status, "ended"));
        settings.end();
        status
    };
    process::exit(status.await)
}

/// Carries out the commands of signals, for as long as the worker runs.
async fn follow_signals(mut signals: Signals, status: Arc<Status>, supervisor: u32, settings: WorkerSettings) {
    loop {
        let (command, signal) = signals.worker_command().await;
        match command {
            WorkerCommand::Drain => {
                let is_orphan = parent_id() != supervisor;
                report::despite_panics(|| tracing::info!(signal, is_orphan, "told to end"));
                if is_orphan || status.is_told_by_supervisor() {
                    drain(&status, is_orphan);
                } else {
                    // Wait for the supervisor's command first. If the supervisor gets the same signal, the server stops, and
                    // this worker must empty the queues before it ends.
                    let status = Arc::clone(&status);
                    let later = async move {
                        sleep(SUPERVISOR_GRACE).await;
                        // The supervisor tells each worker when the lame-duck period is over.
                        if status.common.slots.phase() != ServerPhase::LameDuck {
                            drain(&status, false);
                        }
                    };
                    tokio::spawn(later.in_current_span());
                }
            }
            WorkerCommand::Exit => {
                report::despite_panics(|| tracing::warn!(signal, "ending at once"));
                process::exit(128 + libc::SIGQUIT)
            }
            WorkerCommand::ReopenLogs => settings.reopen_logs(),
            WorkerCommand::Ignore => {}
        }
    }
}

fn drain(status: &Status, is_orphan: bool) {
    if !status.end(is_orphan) {
        return;
    }
    let phase = status.phase();
    if phase == Phase::Retiring {
        // If another process sent the signal, the supervisor now starts a successor.
        status.raise(DRAINS);
    }
    report::despite_panics(|| tracing::info!(?phase, "draining"));
}

/// Writes heartbeats, which show the supervisor that the runtime is not stuck.
async fn beat(status: Arc<Status>, period: Duration) {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        status.common.slots.beat(status.slot);
    }
}

/// Makes this process end with the supervisor. `limit` is the time that this process may then take to drain. Returns `false`
/// if the supervisor has ended already.
pub(in crate::prefork) fn tie_to_supervisor(supervisor: u32, limit: Option<Duration>) -> bool {
    if let Some(limit) = limit {
        if let Err(error) = sys::kill_after_stop_signal(limit.saturating_add(KERNEL_GRACE)) {
            tracing::warn!(%error, "cannot bound the time that this worker takes to stop");
        }
    }
    // The parent-death signal also reaches a stuck worker, but a change of credentials clears the signal. So a task watches the
    // supervisor, too.
    match Process::open(supervisor).and_then(sys::watch) {
        Ok(process) => {
            let watch = async move {
                if process.readable().await.is_ok() {
                    report::despite_panics(|| tracing::warn!(supervisor, "the supervisor has ended"));
                    sys::raise_terminate();
                }
            };
            // If this process is a template, each of its workers calls `tie_to_supervisor` itself.
            tokio::spawn(parent_only(watch.in_current_span()));
        }
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            tracing::debug!(supervisor, "the supervisor has ended")
        }
        // Only the parent-death signal can still end this process, and not every system has one.
        Err(error) => {
            tracing::warn!(%error, supervisor, "cannot watch the supervisor: if it is killed, this process may not end")
        }
    }
    sys::end_with_parent(supervisor, Signal::TERM).unwrap_or_else(|error| {
        tracing::warn!(%error, "if the supervisor is killed, this process may not end");
        true
    })
}
