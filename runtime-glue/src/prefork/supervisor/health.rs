//! Checks of the workers' health, and reactions to their end.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::Instant;

use super::Supervisor;
use super::generation::TemplateState;
use super::process::{Force, Stage};
use super::stop::End;
use crate::prefork::PreforkError;
use crate::prefork::measurement::Measurement;
use crate::prefork::reason::Reason;
use crate::prefork::slots::UNFIT;
use crate::report;

/// How often the supervisor measures the memory of workers, if there is a limit.
const MEMORY_PERIOD: Duration = Duration::from_secs(5);

/// How many times per heartbeat timeout the supervisor checks the heartbeats.
const HEARTBEAT_CHECKS: u32 = 4;

#[derive(Debug)]
pub(super) struct Checks {
    heartbeat: Instant,
    pub(super) memory: Measurement,
    watchdog: Instant,
    orphans: Option<Instant>,
    now: Instant,
}

impl Checks {
    pub(super) fn new(now: Instant) -> Checks {
        Checks { heartbeat: now, memory: Measurement::new(MEMORY_PERIOD), watchdog: now, orphans: Some(now), now }
    }

    pub(super) fn reap_orphans_soon(&mut self) {
        self.orphans = Some(self.now);
    }
}

impl Supervisor {
    pub(super) fn check(&mut self, now: Instant) {
        self.checks.now = now;
        self.check_deadlines(now);
        self.check_heartbeats(now);
        self.check_limits(now);
        self.check_quarantine(now);
        if self.checks.orphans.is_some_and(|due| due <= now) {
            let mut reaper = self.reaper.take();
            self.checks.orphans =
                reaper.as_mut().and_then(|reaper| reaper.look(|pid| self.is_server_process(pid), now));
            self.reaper = reaper;
        }
        if let Some(period) = self.service_manager.watchdog_period().filter(|_| self.checks.watchdog <= now) {
            self.service_manager.alive();
            self.checks.watchdog = now + period;
        }
    }

    /// Returns the first time after the last [`check`](Supervisor::check) at which work is due. Ignores work that was due at
    /// that check already: such work waits for another event.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let now = self.checks.now;
        let workers = self.workers.iter().flat_map(|worker| [worker.deadline, self.end_of_age(worker)]);
        let old_places = self.reload.iter().flat_map(|reload| reload.old.iter().flatten());
        let places = self.places.iter().chain(old_places).map(|place| place.due);
        let generations = [Some(&self.current), self.reload.as_ref().map(|reload| &reload.generation)];
        let templates = generations.into_iter().flatten().map(|generation| match &generation.template {
            TemplateState::Due(due) => Some(*due),
            TemplateState::Loading { deadline, .. } | TemplateState::Forking { deadline, .. } => *deadline,
            TemplateState::None | TemplateState::Idle(_) => None,
        });
        let others = [
            self.settings.worker.heartbeat_timeout.map(|_| self.checks.heartbeat),
            self.checks.memory.due(),
            self.service_manager.watchdog_period().map(|_| self.checks.watchdog),
            self.checks.orphans,
            self.fork_due,
            self.service.due(),
            self.stops_at.map(|(time, _)| time),
            self.upgrade.as_ref().and_then(|upgrade| upgrade.deadline),
        ];
        let quarantine = self.quarantined.iter().map(|(_, until)| Some(*until));
        workers
            .chain(places)
            .chain(quarantine)
            .chain(templates)
            .chain(others)
            .flatten()
            .filter(|time| *time > now)
            .min()
    }

    fn end_of_age(&self, worker: &super::WorkerProcess) -> Option<Instant> {
        let is_counted = worker.is_ready() && worker.end_reason.is_none();
        worker.limits.age.filter(|_| is_counted).and_then(|age| worker.since.checked_add(age))
    }

    /// Returns when to kill a worker that is told to end now.
    pub(super) fn retire_deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.settings.worker.shutdown_timeout.saturating_add(super::stop::KILL_GRACE))
    }

    fn check_deadlines(&mut self, now: Instant) {
        let with_stack = self.settings.worker.abort_stuck;
        for worker in &mut self.workers {
            if worker.deadline.is_none_or(|deadline| deadline > now) {
                continue;
            }
            let (index, pid, generation) = (worker.index, worker.child.id(), worker.generation);
            match worker.stage {
                Stage::Booting if worker.force == Force::None => {
                    let limit = self.settings.boot_timeout;
                    tracing::error!(
                        worker = index,
                        pid,
                        generation,
                        ?limit,
                        "killing a worker that is not ready in time"
                    );
                }
                Stage::Retiring if worker.force == Force::None => {
                    let limit = self.settings.worker.shutdown_timeout;
                    tracing::warn!(
                        worker = index,
                        pid,
                        generation,
                        ?limit,
                        "killing a worker that has not drained in time"
                    );
                }
                _ => {}
            }
            worker.end_by_force(with_stack && worker.stage != Stage::Retiring, now);
        }
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let (load_timeout, fork_timeout) = (self.settings.load_timeout, self.fork_timeout());
        let generations = [Some(&mut self.current), self.reload.as_mut().map(|reload| &mut reload.generation)];
        for generation in generations.into_iter().flatten() {
            let number = generation.number;
            let (process, deadline, is_late, limit, what) = match &mut generation.template {
                TemplateState::Loading { process, deadline, is_late } => {
                    (process, deadline, is_late, load_timeout, "has not loaded")
                }
                TemplateState::Forking { process, deadline, is_late, .. } => {
                    (process, deadline, is_late, fork_timeout, "has not forked a worker")
                }
                TemplateState::None | TemplateState::Due(_) | TemplateState::Idle(_) => continue,
            };
            if is_due(*deadline) {
                let pid = process.child.id();
                tracing::error!(pid, generation = number, ?limit, "killing a template that {what} in time");
                report::unless_traced(format_args!("killing template {pid}, which {what} within {limit:?}"));
                *deadline = None;
                *is_late = true;
                if let Err(error) = process.child.kill() {
                    tracing::debug!(%error, "cannot kill a template: it has ended");
                }
            }
        }
        if let Some(upgrade) = self.upgrade.as_mut().filter(|upgrade| is_due(upgrade.deadline)) {
            let limit = self.settings.upgrade_timeout;
            tracing::error!(pid = upgrade.child.id(), ?limit, "killing the new program, which is not ready in time");
            upgrade.kill();
        }
    }

    fn check_heartbeats(&mut self, now: Instant) {
        let Some(limit) = self.settings.worker.heartbeat_timeout else { return };
        if self.checks.heartbeat > now {
            return;
        }
        let period = limit / HEARTBEAT_CHECKS;
        // If the supervisor itself did not run, such as on a suspended machine, its workers did not run either.
        let is_late = now.saturating_duration_since(self.checks.heartbeat) > period;
        let with_stack = self.settings.worker.abort_stuck;
        for worker in &mut self.workers {
            let heartbeat = self.common.slots.heartbeat(worker.slot);
            let is_excused = is_late || !worker.is_ready();
            if worker.heartbeat.is_stuck(heartbeat, is_excused, limit, now) {
                let (index, pid, generation) = (worker.index, worker.child.id(), worker.generation);
                tracing::error!(worker = index, pid, generation, ?limit, "killing a worker whose runtime is stuck");
                worker.end_by_force(with_stack, now);
            }
        }
        self.service.check_heartbeat(self.common.slots.heartbeat_of_service(), limit, is_late, now);
        self.checks.heartbeat = now + period;
    }

    fn check_limits(&mut self, now: Instant) {
        for position in self.positions(|worker| self.end_of_age(worker).is_some_and(|end| end <= now)) {
            self.workers[position].end_reason = Some(Reason::Age);
        }
        if self.settings.limits.has_memory_limit() {
            let workers = &mut self.workers;
            self.checks.memory.begin(workers.iter().map(|worker| worker.child.id()), now);
            self.checks.memory.advance(|pid| {
                let mut measured = workers.iter_mut().filter(|worker| worker.is_ready() && worker.end_reason.is_none());
                if let Some(worker) = measured.find(|worker| worker.child.id() == pid) {
                    worker.end_reason = worker.limits.memory_reached(pid);
                }
            });
        }
    }

    /// Handles the end of a worker: schedules a replacement, or returns the end of the server.
    pub(super) fn worker_ended(&mut self, position: usize, status: ExitStatus) -> Option<End> {
        // The worker may have set a flag just before its end.
        let end = self.read_slots();
        let worker = self.workers.remove(position);
        let is_unfit = self.common.slots.flags(worker.slot) & UNFIT != 0;
        self.common.clear(worker.slot);
        let now = Instant::now();
        let reason = worker.reason();
        let uptime = now.saturating_duration_since(worker.since);
        self.common.scoreboard.record((worker.index, worker.child.id(), worker.generation), reason, status, uptime);
        let (index, pid) = (worker.index, worker.child.id());
        let generation = worker.generation;
        if self.prepares_ahead {
            self.ended.push(worker.child);
        }
        if end.is_some() {
            return end;
        }
        match worker.stage {
            Stage::Retiring => {
                tracing::info!(worker = index, pid, generation, %reason, %status, ?uptime, "a worker that was told to end has ended");
            }
            Stage::Ready => {
                let due = self.rate.take(now);
                let delay = due.saturating_duration_since(now);
                tracing::warn!(worker = index, pid, generation, %status, ?uptime, ?delay, "worker ended: replacing it");
                report::unless_traced(format_args!("worker {index} ({pid}) ended with {status}: replacing it"));
                if let Some(place) = self.place_mut(index, generation) {
                    place.due = Some(due);
                }
            }
            Stage::Booting => {
                let place = self.place_mut(index, generation)?;
                let delay = place.failed(now);
                let failures = place.failures;
                tracing::warn!(worker = index, pid, generation, %status, ?uptime, ?delay, "worker ended before it was ready");
                report::unless_traced(format_args!("worker {index} ({pid}) ended with {status} before it was ready"));
                if self.reload.is_some() {
                    if generation == self.current.number {
                        return None;
                    }
                    self.reload_failed_once(&format!("worker {index} ended with {status} before it was ready"));
                    return None;
                }
                let limit = self.settings.crash_limit;
                let serves = self.is_up && self.workers.iter().any(super::WorkerProcess::is_ready);
                // The next worker would fail to apply the same settings.
                let is_hopeless = is_unfit && !self.is_up;
                if is_hopeless || limit > 0 && failures >= limit && !serves {
                    let error = PreforkError::CrashLoop { worker: index, ends: failures, status };
                    tracing::error!(%error, "giving up");
                    return Some(End::Failed(error));
                }
            }
        }
        None
    }
}
