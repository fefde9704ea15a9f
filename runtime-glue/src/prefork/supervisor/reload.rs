//! Reloads: a new generation of workers takes over from the old one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::Instant;

use super::Supervisor;
use super::generation::Generation;
use super::plan::Place;
use super::process::WorkerProcess;
use crate::prefork::reason::Reason;
use crate::report;

/// How many failures end a reload.
const RELOAD_ATTEMPTS: u32 = 3;

pub(super) struct Reload {
    pub(super) generation: Generation,
    /// How many workers of the new generation ended before they were ready, and how many forks failed.
    pub(super) failures: u32,
    /// The places of the old generation, by worker index. `None` if the server was dormant, or if the new generation has taken
    /// the place over or is about to.
    pub(super) old: Vec<Option<Place>>,
    /// Whether the server is dormant again if the reload fails.
    pub(super) was_dormant: bool,
    since: Instant,
}

impl Reload {
    pub(super) fn old_place(&self, index: usize) -> Option<&Place> {
        self.old.get(index)?.as_ref()
    }
}

impl Supervisor {
    pub(in crate::prefork) fn queue_reload(&mut self) {
        if self.reload.is_some() {
            tracing::info!("the next reload begins after the one in progress");
        }
        self.reload_is_queued = true;
    }

    pub(super) fn begin_reload(&mut self, now: Instant) {
        if !self.reload_is_queued || self.reload.is_some() || self.upgrade.is_some() || !self.is_up {
            return;
        }
        let mut draining: Vec<u64> =
            self.workers.iter().filter(|worker| !worker.is_active()).map(|worker| worker.generation).collect();
        draining.retain(|generation| *generation != self.current.number);
        draining.sort_unstable();
        draining.dedup();
        if draining.len() >= self.settings.max_draining {
            return;
        }
        self.reload_is_queued = false;
        let was_dormant = std::mem::replace(&mut self.is_dormant, false);
        self.replacing = None;
        self.generations += 1;
        self.service_manager.reloading();
        tracing::info!(generation = self.generations, "reloading");
        self.service.reload_begins(self.generations);
        let old = self.places.iter_mut().map(std::mem::take).map(|place| (!was_dormant).then_some(place)).collect();
        let generation = Generation::new(self.generations, self.settings.loads, now);
        self.reload = Some(Reload { generation, failures: 0, old, was_dormant, since: now });
        if let Some(reload) = &mut self.settings.on_reload {
            let reloaded = catch_unwind(AssertUnwindSafe(reload));
            if let Err(reason) = reloaded.unwrap_or_else(|_| Err("the function of `on_reload` panicked".to_owned())) {
                return self.abort_reload(&reason);
            }
        }
        // Old workers may have to make room for the first new one, and no event follows that would retire them.
        self.advance_reload(now);
    }

    /// If a worker of the old generation was being replaced, retires it or its successor, to make room for a new one.
    fn retire_doubles(&mut self) {
        // The one that is ready stays. If both or neither are ready, the newer one stays, because it replaces the other.
        let rank = |worker: &WorkerProcess| (worker.is_ready(), worker.since, worker.slot);
        let old = self.current.number;
        let is_old = |worker: &WorkerProcess| worker.is_active() && worker.generation == old;
        let has_better = |worker: &WorkerProcess| {
            let mut others = self.workers.iter().filter(|other| is_old(other) && other.index == worker.index);
            others.any(|other| rank(other) > rank(worker))
        };
        for position in self.positions(|worker| is_old(worker) && has_better(worker)) {
            self.retire(position, false, Reason::Reload);
        }
    }

    pub(super) fn advance_reload(&mut self, now: Instant) {
        if self.reload.is_some() {
            self.retire_doubles();
        }
        let Some(reload) = &self.reload else { return };
        let (new, since) = (reload.generation.number, reload.since);
        let number = self.number();
        let ready_new = self.workers.iter().filter(|worker| worker.is_ready() && worker.generation == new).count();
        // If there are more places than the new template has queues for, the next reload is queued already.
        if ready_new >= number.min(reload.generation.places) {
            for position in self.positions(|worker| worker.is_active() && worker.generation != new) {
                self.retire(position, false, Reason::Reload);
            }
            if let Some(reload) = self.reload.take() {
                let mut old = std::mem::replace(&mut self.current, reload.generation);
                self.dismiss_template(old.take_template());
            }
            let took = now.saturating_duration_since(since);
            tracing::info!(generation = new, ?took, "reloaded: the old generation retires");
            self.service_manager.ready(number);
            self.show_state();
            self.service.reload_ends(new, Ok(()));
            return;
        }
        let Some(extra) = self.settings.max_extra.filter(|extra| *extra < number) else { return };
        // With so few extra workers, the workers are replaced in steps.
        let missing = if extra == 0 { self.settings.max_missing.max(1) } else { self.settings.max_missing };
        loop {
            let ready = self.workers.iter().filter(|worker| worker.is_ready()).count();
            let old = self.positions(|worker| worker.is_active() && worker.generation != new);
            if ready.saturating_add(missing) <= number || old.is_empty() {
                return;
            }
            let has_successor = |position: &&usize| {
                let index = self.workers[**position].index;
                self.workers.iter().any(|worker| worker.index == index && worker.generation == new && worker.is_ready())
            };
            let next = old.iter().find(has_successor).or(old.first()).copied();
            if let Some(position) = next {
                let index = self.workers[position].index;
                if let Some(place) = self.reload.as_mut().and_then(|reload| reload.old.get_mut(index)) {
                    *place = None;
                }
                self.retire(position, false, Reason::Reload);
            }
        }
    }

    /// Counts a failed fork, or a worker of the new generation that ended before it was ready.
    pub(super) fn reload_failed_once(&mut self, reason: &str) {
        let Some(reload) = &mut self.reload else { return };
        reload.failures += 1;
        if reload.failures >= RELOAD_ATTEMPTS {
            self.abort_reload(reason);
        }
    }

    /// Ends the reload, and retires the workers of the new generation. The old generation continues to serve, unless the server
    /// was dormant.
    pub(super) fn abort_reload(&mut self, reason: &str) {
        let Some(mut reload) = self.reload.take() else { return };
        let new = reload.generation.number;
        self.is_dormant = reload.was_dormant;
        let outcome =
            if self.is_dormant { "the server has no workers" } else { "the old generation continues to serve" };
        tracing::error!(generation = new, reason, "the reload failed: {outcome}");
        report::unless_traced(format_args!("the reload failed, {outcome}: {reason}"));
        for position in self.positions(|worker| worker.is_active() && worker.generation == new) {
            self.retire(position, false, Reason::Reload);
        }
        self.dismiss_template(reload.generation.take_template());
        for (index, place) in self.places.iter_mut().enumerate() {
            *place = reload.old.get_mut(index).and_then(Option::take).unwrap_or_default();
        }
        self.service_manager.ready(self.number());
        self.show_state();
        self.service.reload_ends(new, Err(&format!("{outcome}: {reason}")));
    }
}
