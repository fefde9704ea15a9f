//! The workers that the server should have.

use std::time::Duration;

use tokio::time::Instant;

use super::Supervisor;
use super::process::Stage;
use super::stop::End;
use crate::prefork::PreforkError;
use crate::prefork::crash::delay;
use crate::prefork::pid_file::PidFile;
use crate::prefork::reason::Reason;
use crate::prefork::slots::{
    DRAINS, EMPTIES_OWN_QUEUE, REACHED_REQUESTS, READY, SeenHeartbeat, TOLD, WANTS_HALT, WANTS_RETIRE,
};
use crate::prefork::upgrade::Predecessor;

/// Returns the number of slots of a server with this many workers: enough for old generations that drain, and for more workers.
pub(super) fn slots(workers: usize) -> usize {
    (workers * 4).max(workers + 64)
}

/// The state of one worker index.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The earliest time for the start of the next worker.
    pub(super) due: Option<Instant>,
    /// How many workers in a row ended before they were ready.
    pub(super) failures: u32,
}

impl Place {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// Counts a failure. Returns the delay before the next try.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        self.failures += 1;
        let delay = delay(self.failures);
        self.due = Some(now + delay);
        delay
    }
}

impl Supervisor {
    pub(in crate::prefork) fn number(&self) -> usize {
        if self.is_dormant { 0 } else { self.wanted }
    }

    /// Returns the place of a worker, if its generation still needs the place.
    pub(super) fn place_mut(&mut self, index: usize, generation: u64) -> Option<&mut Place> {
        let target = self.reload.as_ref().map_or(self.current.number, |reload| reload.generation.number);
        if generation == target {
            return self.places.get_mut(index);
        }
        let reload = self.reload.as_mut().filter(|_| generation == self.current.number)?;
        reload.old.get_mut(index)?.as_mut()
    }

    pub(super) fn read_slots(&mut self) -> Option<End> {
        let now = Instant::now();
        let deadline = self.retire_deadline();
        let (mut halted, mut ready) = (None, Vec::new());
        for worker in &mut self.workers {
            let flags = self.common.slots.flags(worker.slot);
            if flags & READY != 0 && worker.stage == Stage::Booting {
                worker.stage = Stage::Ready;
                if worker.is_active() {
                    worker.deadline = None;
                }
                worker.heartbeat = SeenHeartbeat::new(self.common.slots.heartbeat(worker.slot), now);
                let took = now.saturating_duration_since(worker.since);
                let (index, pid, generation) = (worker.index, worker.child.id(), worker.generation);
                tracing::info!(worker = index, pid, generation, ?took, "worker is ready");
                ready.push((index, generation));
            }
            if worker.end_reason.is_none() {
                worker.end_reason = match flags {
                    _ if flags & WANTS_RETIRE != 0 => Some(Reason::Asked),
                    _ if flags & REACHED_REQUESTS != 0 => Some(Reason::Requests),
                    _ => None,
                };
            }
            if flags & DRAINS != 0 && worker.stage != Stage::Retiring {
                let (index, pid, generation) = (worker.index, worker.child.id(), worker.generation);
                tracing::info!(worker = index, pid, generation, "worker drains: starting its successor");
                worker.retires(deadline);
            }
            if flags & WANTS_HALT != 0 {
                halted = Some(worker.index);
            }
        }
        for (index, generation) in ready {
            if let Some(place) = self.place_mut(index, generation) {
                place.failures = 0;
            }
        }
        halted.map(|worker| End::Failed(PreforkError::Halted { worker }))
    }

    /// Makes all progress that is possible without a fork.
    pub(super) fn settle(&mut self, now: Instant) -> Option<End> {
        if let Some((_, signal)) = self.stops_at.filter(|(time, _)| *time <= now) {
            return Some(End::Stop { signal });
        }
        self.retire_surplus();
        // Finish the start first: the actions below wait for it, and no later event would begin them.
        if let Err(error) = self.finish_start() {
            return Some(End::Failed(error));
        }
        self.advance_reload(now);
        self.begin_reload(now);
        self.advance_replacement();
        self.advance_operations();
        None
    }

    /// Retires the workers whose index is beyond the number of workers. Unless the server is dormant, also closes the
    /// supervisor's copies of their queues.
    fn retire_surplus(&mut self) {
        let number = self.number();
        let is_scaled_down = !self.is_dormant;
        for position in self.positions(|worker| worker.index >= number && worker.is_active()) {
            self.retire(position, is_scaled_down, if is_scaled_down { Reason::Scaled } else { Reason::Operator });
        }
        if is_scaled_down {
            self.queues.shrink(number);
        }
    }

    pub(super) fn positions(&self, condition: impl Fn(&super::WorkerProcess) -> bool) -> Vec<usize> {
        self.workers.iter().enumerate().filter(|(_, worker)| condition(worker)).map(|(position, _)| position).collect()
    }

    /// Tells a worker to drain and end. Set `empties_queue` if the worker has a queue that no other worker will serve.
    pub(super) fn retire(&mut self, position: usize, empties_queue: bool, reason: Reason) {
        let deadline = self.retire_deadline();
        let worker = &mut self.workers[position];
        tracing::info!(
            worker = worker.index,
            pid = worker.child.id(),
            generation = worker.generation,
            "retiring a worker"
        );
        if empties_queue {
            self.common.slots.raise(worker.slot, EMPTIES_OWN_QUEUE);
        }
        worker.end_reason.get_or_insert(reason);
        self.common.slots.raise(worker.slot, TOLD);
        worker.signal(libc::SIGTERM);
        worker.retires(deadline);
    }

    pub(in crate::prefork) fn scale(&mut self, workers: usize) -> Result<(), String> {
        self.refuse_before_stop()?;
        let most = slots(self.settings.workers) / 2;
        if workers == 0 || workers > most {
            return Err(format!(
                "cannot have {workers} workers: there must be at least one worker, and at most {most}"
            ));
        }
        self.queues.grow(workers).map_err(|error| format!("cannot make queues for more workers: {error}"))?;
        tracing::info!(from = self.wanted, to = workers, "changing the number of workers");
        self.wanted = workers;
        self.is_dormant = false;
        self.places.resize_with(workers, Place::default);
        if let Some(reload) = &mut self.reload {
            reload.old.truncate(workers);
            reload.was_dormant = false;
        }
        if self.settings.loads && self.queues.has_own_queues() {
            // If a place gets a queue again later, that is a new queue, which these templates do not have.
            let next = self.reload.as_mut().map(|reload| &mut reload.generation);
            for generation in [&mut self.current].into_iter().chain(next) {
                generation.places = generation.places.min(workers);
            }
            // A template has only the queues that existed when it was forked.
            self.queue_reload();
        }
        self.show_number();
        Ok(())
    }

    /// Tells the service manager how many workers there should be now. During a start or a reload, it learns this at the end.
    pub(super) fn show_number(&self) {
        if self.is_up && self.reload.is_none() {
            self.service_manager.scaled(self.number());
        }
    }

    /// Replaces workers on request, or because they have reached a limit, one at a time.
    fn advance_replacement(&mut self) {
        if let Some(slot) = self.replacing {
            let Some(position) = self.workers.iter().position(|worker| worker.slot == slot) else {
                self.replacing = None;
                return;
            };
            let old = &self.workers[position];
            let (index, is_active) = (old.index, old.is_active());
            let has_successor =
                self.workers.iter().any(|worker| worker.slot != slot && worker.index == index && worker.is_ready());
            if is_active && has_successor {
                self.retire(position, false, Reason::Asked);
            }
        } else if self.reload.is_none() && !self.is_dormant && self.is_up {
            let next = self
                .workers
                .iter()
                .filter(|worker| worker.is_ready())
                .find_map(|worker| Some((worker, worker.end_reason?)));
            if let Some((worker, reason)) = next {
                let (index, pid, generation) = (worker.index, worker.child.id(), worker.generation);
                tracing::info!(worker = index, pid, generation, %reason, "replacing a worker");
                self.replacing = Some(worker.slot);
            }
        }
    }

    /// Announces that the server is up, when all workers of its first generation are ready.
    fn finish_start(&mut self) -> Result<(), PreforkError> {
        if self.is_up {
            return Ok(());
        }
        let is_ready = |index| self.workers.iter().any(|worker| worker.index == index && worker.is_ready());
        if !(0..self.wanted.min(self.current.places)).all(is_ready) {
            return Ok(());
        }
        if let Some(path) = &self.settings.pid_file {
            // Another server may have become ready meanwhile.
            let free = if self.predecessor.is_none() { PidFile::check(path) } else { Ok(()) };
            let written = free.and_then(|()| PidFile::write(path.clone()));
            self.pid_file = Some(written.map_err(|error| PreforkError::PidFile(path.clone(), error))?);
        }
        self.is_up = true;
        // This comes before the announcements, so that the status page agrees with them.
        self.show_state();
        if let Some(ready) = self.settings.on_ready.take() {
            ready();
        }
        if let Some(predecessor) = &self.predecessor {
            // After an error, the predecessor still serves. Keep the field: this program must leave the queues alone.
            predecessor.announce().map_err(PreforkError::Upgrade)?;
            self.process_1 = self.predecessor.take().and_then(Predecessor::into_process_1);
            self.show_ownership();
            self.service.begin();
        }
        self.service_manager.ready(self.wanted);
        Ok(())
    }
}
