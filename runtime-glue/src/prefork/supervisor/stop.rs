//! The end of the server.

use std::future::{pending, poll_fn};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::dismissed::poll_dismissed;
use super::events::Woken;
use super::process::poll_ended;
use super::{Outcome, Supervisor};
use crate::prefork::signals::Command;
use crate::prefork::slots::{EMPTIES_OWN_QUEUE, ServerPhase};
use crate::prefork::upgrade::{Successors, Upgrade};
use crate::prefork::{PreforkError, Stopped};

/// How long after the shutdown timeout the supervisor waits before it kills the workers: a worker that drains until
/// the limit needs a moment to exit.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(1);

/// How soon after the first signal to stop a second one counts as the same request: `timeout(1)` sends two, and Ctrl-C may come
/// with a SIGTERM of the process that started the server.
pub(super) const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Why the server ends.
pub(in crate::prefork) enum End {
    /// A signal told the supervisor to stop.
    Stop { signal: &'static str },
    /// A signal told the supervisor to stop at once.
    StopNow { signal: &'static str },
    /// The supervisor cannot continue, or a worker asked to stop the server.
    Failed(PreforkError),
    /// Another program serves the same listeners.
    HandedOver { to: Upgrade },
}

impl Supervisor {
    pub(super) async fn end(mut self, end: End, _woken: &Woken) -> Result<Outcome, PreforkError> {
        self.threads = None;
        self.settings.on_ready = None;
        let kills_upgrade = self.upgrade.is_some();
        self.dismiss_all();
        self.service.stops();
        let kills = match &end {
            End::Stop { signal } => {
                tracing::info!(signal, "stopping: draining the workers");
                self.service_manager.stopping();
                self.stop_accepting();
                false
            }
            End::StopNow { signal } => {
                tracing::info!(signal, "stopping: killing the workers");
                self.service_manager.stopping();
                self.queues.close();
                true
            }
            End::Failed(error) => {
                tracing::error!(%error, "stopping");
                self.service_manager.stopping();
                self.stop_accepting();
                false
            }
            End::HandedOver { to } => {
                tracing::info!(pid = to.child.id(), "the new program is ready: this one retires");
                self.hand_over();
                self.service.release();
                false
            }
        };
        let told = matches!(end, End::Stop { .. }).then(Instant::now);
        let (error, mut successors) = match end {
            End::Stop { .. } | End::StopNow { .. } => (None, None),
            End::Failed(error) => (Some(error), None),
            End::HandedOver { to } if std::process::id() == 1 => (None, Some(Successors::new(to))),
            End::HandedOver { to } => {
                if self.process_1.is_some() {
                    // Dropping the handle would reap the new program. Process 1 needs its status.
                    std::mem::forget(to.child);
                }
                (None, None)
            }
        };
        let mut ended = self.wait_for_all(kills, told, successors.as_mut()).await;
        self.service.end().await;
        if kills_upgrade {
            self.restore_pid_file();
        }
        self.pid_file = None;
        if let Some(successors) = successors {
            ended = vec![self.wait_for_successors(successors).await];
        }
        match error {
            Some(error) => Err(error),
            None => Ok(Outcome::Stopped(Stopped::new(ended))),
        }
    }

    /// Kills the templates, and a new program that is not ready.
    fn dismiss_all(&mut self) {
        let current = self.current.take_template();
        self.dismiss_template(current);
        if let Some(mut reload) = self.reload.take() {
            self.dismiss_template(reload.generation.take_template());
        }
        if let Some(upgrade) = self.upgrade.take() {
            tracing::warn!(pid = upgrade.child.id(), "stopping: killing the new program, which is not ready");
            self.dismiss(upgrade.child, None);
            self.show_ownership();
        }
    }

    /// Stops new connections, if no process outside the server has the listeners, and lets the workers empty the queues. If
    /// this program has not replaced its predecessor yet, leaves the queues to the predecessor.
    fn stop_accepting(&mut self) {
        if self.predecessor.is_some() {
            return self.hand_over();
        }
        if self.common.slots.owns_listeners() {
            self.queues.refuse_new_connections();
        }
        self.common.slots.set_phase(ServerPhase::Stopping);
        self.queues.close();
    }

    /// Leaves one queue per address to the program that continues. If each worker has its own queue, all workers but
    /// the first empty their queues.
    fn hand_over(&mut self) {
        self.common.slots.set_phase(ServerPhase::HandedOver);
        if self.queues.has_own_queues() {
            for worker in self.workers.iter().filter(|worker| worker.index > 0) {
                self.common.slots.raise(worker.slot, EMPTIES_OWN_QUEUE);
            }
        }
        self.queues.close();
    }

    /// Tells all workers to end, and waits. Passes signals on to `successors`. Returns how each worker ended. `told` is
    /// the time of the signal to drain and stop, or `None` if the server ends for another reason. After an upgrade, for
    /// example, the workers drain already, so the first signal to stop must not kill them.
    async fn wait_for_all(
        &mut self,
        kills: bool,
        mut told: Option<Instant>,
        mut successors: Option<&mut Successors>,
    ) -> Vec<ExitStatus> {
        let signal = if kills { libc::SIGKILL } else { libc::SIGTERM };
        self.signal_workers(signal);
        let (mut has_killed, mut has_successors) = (kills, successors.is_some());
        // `None` if an `Instant` cannot hold the time, or if all workers have been killed already.
        let mut deadline = if kills { None } else { self.retire_deadline() };
        let mut ended = Vec::new();
        while !self.workers.is_empty() || !self.dismissed.is_empty() {
            let Supervisor { signals, workers, dismissed, .. } = self;
            tokio::select! {
                biased;
                (position, status) = poll_fn(|cx| poll_ended(workers, cx)) => {
                    let worker = self.workers.remove(position);
                    let (index, pid, generation) = (worker.index, worker.child.id(), worker.generation);
                    tracing::info!(worker = index, pid, generation, %status, "worker stopped");
                    self.common.clear(worker.slot);
                    ended.push(status);
                }
                position = poll_fn(|cx| poll_dismissed(dismissed, cx)) => {
                    self.dismissed_ended(position);
                    // A template may have forked a worker before it was killed.
                    self.check_quarantine(Instant::now());
                }
                (command, signal) = signals.command() => {
                    if let Some(successors) = &mut successors {
                        successors.pass_on(command);
                    }
                    if command == Command::ReopenLogs {
                        self.reopen_logs();
                    }
                    let stops_again = command == Command::Stop
                        && told.get_or_insert_with(Instant::now).elapsed() > SAME_REQUEST;
                    if (stops_again || command == Command::StopNow) && !has_killed {
                        tracing::warn!(signal, "told to stop again, or at once: killing the workers that still run");
                        self.signal_workers(libc::SIGKILL);
                        has_killed = true;
                        deadline = None;
                    }
                }
                _ = async {
                    match &mut successors {
                        Some(successors) => successors.end().await,
                        None => pending().await,
                    }
                }, if has_successors => has_successors = false,
                () = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => pending().await,
                    }
                } => {
                    let limit = self.settings.worker.shutdown_timeout;
                    tracing::warn!(?limit, "killing the workers that have not drained in time");
                    self.signal_workers(libc::SIGKILL);
                    has_killed = true;
                    deadline = None;
                }
            }
        }
        ended
    }

    /// Waits for the end of the new program, and of the programs that replace it. A container ends with its process 1, so
    /// this process stays.
    async fn wait_for_successors(&mut self, mut successors: Successors) -> ExitStatus {
        const PERIOD: Duration = Duration::from_secs(2);
        tracing::info!("staying as process 1 for the new program");
        let mut reaper = self.reaper.take().unwrap_or_default();
        loop {
            tokio::select! {
                biased;
                status = successors.end() => return status,
                (command, _) = self.signals.command() => {
                    successors.pass_on(command);
                    if command == Command::ReopenLogs {
                        self.reopen_logs();
                    }
                }
                () = sleep_until(Instant::now() + PERIOD) => {
                    successors.update();
                    let _ = reaper.look(|pid| successors.contain(pid), Instant::now());
                }
            }
        }
    }
}
