//! Chooses the process that starts next, and forks workers.

use std::process;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::events::Which;
use super::generation::{Generation, TemplateState};
use super::process::{Force, Stage, WorkerProcess};
use super::reload::Reload;
use super::stop::End;
use super::{Outcome, Supervisor};
use crate::prefork::PreforkError;
use crate::prefork::crash::delay;
use crate::prefork::limits::Limits;
use crate::prefork::signals::Signals;
use crate::prefork::slots::SeenHeartbeat;
use crate::prefork::worker::{Assignment, ExitOnDrop};
use crate::{Child, Fork, ForkError, Lineage, lineage, report, sys};

/// The result of [`Supervisor::start_due`].
pub(in crate::prefork) enum Started {
    Nothing,
    /// A process has been started, or its start has failed. There may be more to start.
    MaybeMore,
    /// This process is the child.
    Child(Box<Outcome>),
    End(End),
}

enum Job {
    Template(Which),
    /// A worker that a template forks.
    Request {
        which: Which,
        index: usize,
    },
    /// A worker that the supervisor forks.
    Worker {
        which: Which,
        index: usize,
    },
    Service,
}

impl Supervisor {
    pub(super) async fn start_due(&mut self, now: Instant) -> Started {
        let Some(job) = self.next_job(now) else {
            self.threads = None;
            return Started::Nothing;
        };
        if let Job::Request { which, index } = job {
            return self.request(which, index, now);
        }
        // Waiting for threads may take long, so the loop handles signals meanwhile.
        let options = self.settings.fork_options.clone();
        let for_service = matches!(job, Job::Service);
        if self.threads.as_ref().is_some_and(|(_, for_service_before)| *for_service_before != for_service) {
            self.threads = None;
        }
        let wait = || (async move { options.ready().await }.boxed(), for_service);
        let (threads, _) = self.threads.get_or_insert_with(wait);
        match threads.now_or_never() {
            None => return Started::Nothing,
            Some(ended) => {
                self.threads = None;
                if let Err(error) = ended {
                    return self.wait_failed(error, for_service).map_or(Started::MaybeMore, Started::End);
                }
            }
        }
        match job {
            Job::Template(which) => self.fork_template(which).await,
            Job::Worker { which, index } => self.fork_worker(which, index).await,
            Job::Service => self.fork_service().await,
            Job::Request { .. } => Started::Nothing,
        }
    }

    fn next_job(&self, now: Instant) -> Option<Job> {
        if self.fork_due.is_some_and(|due| due > now) {
            return None;
        }
        self.next_worker(now).or_else(|| self.service.due().filter(|due| *due <= now).map(|_| Job::Service))
    }

    fn next_worker(&self, now: Instant) -> Option<Job> {
        let number = self.number();
        let lacking = |generation: &Generation| {
            let is_lacking =
                |index: &usize| self.places[*index].is_due(now) && self.lacks_worker(*index, generation.number);
            (0..number.min(generation.places)).find(is_lacking)
        };
        let Some(reload) = &self.reload else {
            return job(Which::Current, &self.current, lacking(&self.current), now);
        };
        let templates = [&self.current, &reload.generation];
        let forking = templates.iter().filter(|generation| generation.forking().is_some()).count();
        let active = self.workers.iter().filter(|worker| worker.is_active()).count() + forking;
        let room = number.saturating_add(self.settings.max_extra.unwrap_or(number)).saturating_sub(active);
        let lost = self.lost_places(reload, now);
        // The old generation comes first: the new workers must not take the room that replacements of old workers need.
        if let Some(index) = lost.first().filter(|_| room > 0) {
            if let Some(job) = job(Which::Current, &self.current, Some(*index), now) {
                return Some(job);
            }
        }
        let reserved = if self.current.can_fork() { lost.len() } else { 0 };
        let index = lacking(&reload.generation).filter(|_| room > reserved);
        job(Which::Next, &reload.generation, index, now)
    }

    /// Returns the indices at which the old generation must replace a worker now. The new generation has no ready
    /// worker with these indices yet.
    fn lost_places(&self, reload: &Reload, now: Instant) -> Vec<usize> {
        let is_lost = |index: &usize| {
            let is_taken_over = || {
                let mut workers = self.workers.iter().filter(|worker| worker.index == *index && worker.is_ready());
                workers.any(|worker| worker.generation == reload.generation.number)
            };
            reload.old_place(*index).is_some_and(|place| place.is_due(now))
                && self.lacks_worker(*index, self.current.number)
                && self.current.forking() != Some(*index)
                && !is_taken_over()
        };
        (0..self.number().min(self.current.places)).filter(is_lost).collect()
    }

    /// Returns whether a generation needs a worker with this index. A worker that is being replaced does not count.
    fn lacks_worker(&self, index: usize, generation: u64) -> bool {
        !self.workers.iter().any(|worker| {
            worker.index == index
                && worker.generation == generation
                && worker.is_active()
                && self.replacing != Some(worker.slot)
        })
    }

    async fn fork_worker(&mut self, which: Which, index: usize) -> Started {
        let Some(generation) = self.generation_mut(which).map(|generation| generation.number) else {
            return Started::Nothing;
        };
        let Some(slot) = self.common.assign(index, generation) else { return self.lacks_slot() };
        let limits = self.settings.limits.of_one_worker();
        let mut guard = None;
        let first = || {
            guard = Some(ExitOnDrop);
            lineage::set_worker(index);
        };
        if let Err(error) = self.queues.open(index).and_then(|()| self.queues.hand_to(index)) {
            self.common.slots.clear(slot);
            return self.fork_refused(ForkError::Inspect(error)).map_or(Started::MaybeMore, Started::End);
        }
        let forked = self.settings.fork_options.clone().wait_for_threads(Duration::ZERO).fork_with(first).await;
        if !matches!(forked, Ok(Fork::Child(_))) {
            self.queues.take_back(index);
        }
        // Even a failed fork has used the preparation, so dropping the handles of ended workers discards nothing.
        self.ended.clear();
        match forked {
            Ok(Fork::Parent(child)) => {
                self.worker_started(child, index, generation, slot, limits).map_or(Started::MaybeMore, Started::End)
            }
            Ok(Fork::Child(_)) => {
                let guard = guard.unwrap_or_else(|| ExitOnDrop);
                Started::Child(Box::new(self.become_worker(guard, index, generation, slot, limits.requests)))
            }
            Err(error) => {
                self.common.slots.clear(slot);
                match error {
                    // Threads have started since the supervisor waited for other threads to end.
                    ForkError::Threads(_) => Started::MaybeMore,
                    error => self.fork_refused(error).map_or(Started::MaybeMore, Started::End),
                }
            }
        }
    }

    /// Leaves the fork for later. The end of a draining worker is an event, after which the loop tries again.
    pub(super) fn lacks_slot(&self) -> Started {
        tracing::warn!("all slots are taken: waiting for a draining worker to end");
        Started::Nothing
    }

    pub(super) fn worker_started(
        &mut self,
        mut child: Child,
        index: usize,
        generation: u64,
        slot: usize,
        limits: Limits,
    ) -> Option<End> {
        if let Err(error) = child.watch() {
            // The child does not count as a worker. Dropping the handle reaps it.
            let _ = child.kill();
            self.common.clear(slot);
            return self.fork_refused(ForkError::Watch(error));
        }
        let now = Instant::now();
        self.refusals = 0;
        self.fork_due = None;
        if let Some(place) = self.place_mut(index, generation) {
            place.due = None;
        }
        self.common.slots.set_pid(slot, child.id());
        tracing::info!(worker = index, pid = child.id(), generation, "worker started");
        self.workers.push(WorkerProcess {
            child,
            index,
            generation,
            slot,
            since: now,
            stage: Stage::Booting,
            force: Force::None,
            deadline: now.checked_add(self.settings.boot_timeout),
            limits,
            end_reason: None,
            heartbeat: SeenHeartbeat::new(0, now),
        });
        None
    }

    fn become_worker(
        &mut self,
        guard: ExitOnDrop,
        index: usize,
        generation: u64,
        slot: usize,
        max_requests: Option<u64>,
    ) -> Outcome {
        self.workers.clear();
        let queues = std::mem::take(&mut self.queues);
        let distributions = queues.common();
        let listeners = queues.into_listeners(index);
        if self.is_per_cpu {
            stay_on_cpu(index, generation);
        }
        Outcome::Worker(Assignment {
            guard,
            index,
            generation,
            slot,
            supervisor: Lineage::current().parent().unwrap_or(1),
            between: None,
            max_requests,
            listeners,
            distributions,
            common: self.common.clone(),
            signals: std::mem::replace(&mut self.signals, Signals::none()),
            settings: self.settings.worker.clone(),
        })
    }

    /// Schedules another attempt after threads have not ended in time.
    pub(super) fn wait_failed(&mut self, error: ForkError, for_service: bool) -> Option<End> {
        if !for_service {
            return self.fork_refused(error);
        }
        self.service_refused(error);
        None
    }

    /// Schedules another attempt after a failed fork, or returns the end of the server.
    pub(super) fn fork_refused(&mut self, error: ForkError) -> Option<End> {
        self.refusals += 1;
        let limit = self.settings.crash_limit;
        let none_left = self.workers.is_empty() && limit > 0 && self.refusals >= limit;
        if none_left || !self.is_up {
            return Some(End::Failed(PreforkError::Fork(error)));
        }
        let delay = delay(self.refusals);
        self.fork_due = Some(Instant::now() + delay);
        tracing::error!(%error, ?delay, "cannot fork yet: trying again");
        report::unless_traced(format_args!("cannot fork yet, trying again: {error}"));
        self.reload_failed_once(&error.to_string());
        None
    }
}

/// Returns the next job of a generation. `index` is the index of a worker that the generation lacks.
fn job(which: Which, generation: &Generation, index: Option<usize>, now: Instant) -> Option<Job> {
    match &generation.template {
        TemplateState::Due(due) if *due <= now => Some(Job::Template(which)),
        TemplateState::None => index.map(|index| Job::Worker { which, index }),
        TemplateState::Idle(_) => index.map(|index| Job::Request { which, index }),
        TemplateState::Due(_) | TemplateState::Loading { .. } | TemplateState::Forking { .. } => None,
    }
}

/// Keeps worker `index` on the CPU that its connections arrive on.
pub(in crate::prefork) fn stay_on_cpu(index: usize, generation: u64) {
    let pid = process::id();
    let cpu = sys::allowed_cpus().and_then(|cpus| {
        let cpu = cpus[index % cpus.len()];
        sys::stay_on_cpu(cpu).map(|()| cpu)
    });
    match cpu {
        Ok(cpu) => tracing::debug!(worker = index, pid, generation, cpu, "worker stays on one CPU"),
        Err(error) => {
            tracing::warn!(worker = index, pid, generation, %error, "worker cannot stay on the CPU that its connections arrive on")
        }
    }
}
