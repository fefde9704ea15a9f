//! Generations of workers and their templates.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;

use super::events::Which;
use super::fork::Started;
use super::stop::End;
use super::{Outcome, Supervisor};
use crate::prefork::PreforkError;
use crate::prefork::crash::delay;
use crate::prefork::limits::Limits;
use crate::prefork::signals::Signals;
use crate::prefork::template::{Message, Template, TemplateProcess};
use crate::prefork::worker::ExitOnDrop;
use crate::{Child, Fork, ForkError};

/// Workers that were started from the same state.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) template: TemplateState,
    /// How many places this generation may use. Its template has no queues for more.
    pub(super) places: usize,
    /// How many times in a row its template failed, without forking a worker in between.
    pub(super) failures: u32,
}

pub(super) enum TemplateState {
    /// The supervisor forks the workers.
    None,
    /// The template must be started.
    Due(Instant),
    Loading {
        process: TemplateProcess,
        deadline: Option<Instant>,
        is_late: bool,
    },
    /// The template waits for requests.
    Idle(TemplateProcess),
    Forking {
        process: TemplateProcess,
        index: usize,
        slot: usize,
        limits: Limits,
        deadline: Option<Instant>,
        is_late: bool,
    },
}

impl Generation {
    pub(super) fn new(number: u64, loads: bool, now: Instant) -> Generation {
        let template = if loads { TemplateState::Due(now) } else { TemplateState::None };
        Generation { number, template, places: usize::MAX, failures: 0 }
    }

    pub(super) fn template(&self) -> Option<&TemplateProcess> {
        match &self.template {
            TemplateState::None | TemplateState::Due(_) => None,
            TemplateState::Loading { process, .. }
            | TemplateState::Idle(process)
            | TemplateState::Forking { process, .. } => Some(process),
        }
    }

    /// Returns whether the supervisor or the template can fork the next worker, now or after the current fork.
    pub(super) fn can_fork(&self) -> bool {
        !matches!(self.template, TemplateState::Due(_) | TemplateState::Loading { .. })
    }

    /// Returns the index of the worker that the template forks.
    pub(super) fn forking(&self) -> Option<usize> {
        match &self.template {
            TemplateState::Forking { index, .. } => Some(*index),
            _ => None,
        }
    }

    pub(super) fn poll_template(&mut self, cx: &mut Context<'_>) -> Poll<Message> {
        match &mut self.template {
            TemplateState::None | TemplateState::Due(_) => Poll::Pending,
            TemplateState::Loading { process, .. }
            | TemplateState::Idle(process)
            | TemplateState::Forking { process, .. } => process.poll_message(cx),
        }
    }

    /// Takes the template out, with the slot of the worker that it forks.
    pub(super) fn take_template(&mut self) -> Option<(TemplateProcess, Option<usize>)> {
        match std::mem::replace(&mut self.template, TemplateState::None) {
            TemplateState::None | TemplateState::Due(_) => None,
            TemplateState::Loading { process, .. } | TemplateState::Idle(process) => Some((process, None)),
            TemplateState::Forking { process, slot, .. } => Some((process, Some(slot))),
        }
    }
}

impl Supervisor {
    pub(super) async fn fork_template(&mut self, which: Which) -> Started {
        let supervisor = std::process::id();
        let channel = UnixStream::pair().and_then(|(own_end, template_end)| {
            crate::set_policy(&own_end, crate::ForkPolicy::NoFork)?;
            Ok((own_end, template_end))
        });
        let (own_end, template_end) = match channel {
            Ok(channel) => channel,
            Err(error) => {
                return self.fork_refused(ForkError::Inspect(error)).map_or(Started::MaybeMore, Started::End);
            }
        };
        let mut guard = None;
        let first = || guard = Some(ExitOnDrop);
        let forked = match self.queues.hand_to_template() {
            Ok(()) => self.settings.fork_options.clone().wait_for_threads(Duration::ZERO).fork_with(first).await,
            Err(error) => Err(ForkError::Inspect(error)),
        };
        if !matches!(forked, Ok(Fork::Child(_))) {
            self.queues.take_back_from_template();
        }
        let timeout = self.settings.load_timeout;
        match forked {
            Ok(Fork::Parent(mut child)) => {
                drop(template_end);
                let process = match child.watch() {
                    Ok(()) => TemplateProcess::new(child, own_end),
                    Err(error) => {
                        let _ = child.kill();
                        return self.fork_refused(ForkError::Watch(error)).map_or(Started::MaybeMore, Started::End);
                    }
                };
                let places = if self.queues.has_own_queues() { self.places.len() } else { usize::MAX };
                let Some(generation) = self.generation_mut(which) else { return Started::MaybeMore };
                generation.places = places;
                tracing::info!(generation = generation.number, pid = process.child.id(), "template started");
                let deadline = Instant::now().checked_add(timeout);
                generation.template = TemplateState::Loading { process, deadline, is_late: false };
                Started::MaybeMore
            }
            Ok(Fork::Child(_)) => {
                self.workers.clear();
                let generation = self.generation_mut(which).map_or(0, |generation| generation.number);
                Started::Child(Box::new(Outcome::Template(Template {
                    guard: guard.unwrap_or_else(|| ExitOnDrop),
                    channel: template_end,
                    supervisor,
                    generation,
                    queues: std::mem::take(&mut self.queues),
                    is_per_cpu: self.is_per_cpu,
                    common: self.common.clone(),
                    signals: std::mem::replace(&mut self.signals, Signals::none()),
                    settings: self.settings.worker.clone(),
                    fork_options: self.settings.fork_options.clone(),
                    huge_pages: self.settings.huge_pages,
                })))
            }
            Err(ForkError::Threads(_)) => Started::MaybeMore,
            Err(error) => self.fork_refused(error).map_or(Started::MaybeMore, Started::End),
        }
    }

    pub(super) fn generation_mut(&mut self, which: Which) -> Option<&mut Generation> {
        match which {
            Which::Current => Some(&mut self.current),
            Which::Next => self.reload.as_mut().map(|reload| &mut reload.generation),
        }
    }

    pub(super) fn request(&mut self, which: Which, index: usize, now: Instant) -> Started {
        let Some(number) = self.generation_mut(which).map(|generation| generation.number) else {
            return Started::Nothing;
        };
        if let Err(error) = self.queues.open(index) {
            return self.fork_refused(ForkError::Inspect(error)).map_or(Started::MaybeMore, Started::End);
        }
        let Some(slot) = self.common.assign(index, number) else { return self.lacks_slot() };
        let limits = self.settings.limits.of_one_worker();
        let deadline = now.checked_add(self.fork_timeout());
        let Some(generation) = self.generation_mut(which) else { return Started::Nothing };
        match std::mem::replace(&mut generation.template, TemplateState::None) {
            TemplateState::Idle(process) => {
                if let Err(error) = process.request(index, slot, limits.requests) {
                    tracing::warn!(worker = index, generation = generation.number, %error, "cannot ask the template for a worker");
                    // Most likely the template has ended. If not, kill it now rather than at the deadline.
                    let _ = process.child.kill();
                }
                generation.template = TemplateState::Forking { process, index, slot, limits, deadline, is_late: false };
            }
            other => {
                generation.template = other;
                self.common.slots.clear(slot);
            }
        }
        Started::MaybeMore
    }

    /// Returns how long a template may take to fork a worker: the boot timeout, and the time for which it may wait for threads.
    pub(super) fn fork_timeout(&self) -> Duration {
        self.settings.boot_timeout.saturating_add(self.settings.fork_options.thread_limit())
    }

    pub(super) fn handle_template_message(&mut self, which: Which, message: Message) -> Option<End> {
        let generation = self.generation_mut(which)?;
        let number = generation.number;
        match (message, std::mem::replace(&mut generation.template, TemplateState::None)) {
            (Message::Loaded, TemplateState::Loading { process, .. }) => {
                tracing::info!(generation = generation.number, pid = process.child.id(), "template has loaded");
                generation.template = TemplateState::Idle(process);
                None
            }
            (Message::Failed(error), TemplateState::Loading { process, .. }) => {
                self.dismiss(process.child, None);
                self.load_failed(which, error)
            }
            (Message::Forked(pid), TemplateState::Forking { process, index, slot, limits, .. }) => {
                // Loading does not reset the count: a template may load and then end each time, and a load may be expensive.
                generation.failures = 0;
                generation.template = TemplateState::Idle(process);
                self.adopt(pid, index, number, slot, limits)
            }
            (Message::Refused(error), TemplateState::Forking { process, index, slot, .. }) => {
                generation.template = TemplateState::Idle(process);
                // The template may have forked the worker before it failed.
                self.quarantine(slot);
                self.request_refused(index, number, ForkError::Template(error))
            }
            (Message::Ended(status), state) => {
                let error = match state {
                    TemplateState::Loading { is_late: true, .. } => {
                        format!("it took longer than {:?}", self.settings.load_timeout)
                    }
                    TemplateState::Loading { .. } => format!("the template ended with {status} before it had loaded"),
                    TemplateState::Forking { index, slot, limits, is_late, .. } => {
                        // The template may have forked the worker, which is then a child of the supervisor.
                        match self.common.slots.pid(slot) {
                            0 => self.quarantine(slot),
                            pid => drop(self.adopt(pid, index, number, slot, limits)),
                        }
                        if is_late {
                            format!("the template took longer than {:?} to fork a worker", self.fork_timeout())
                        } else {
                            format!("the template ended with {status}")
                        }
                    }
                    _ => format!("the template ended with {status}"),
                };
                tracing::warn!(generation = number, %status, "a template ended: workers that it has forked continue to serve");
                self.load_failed(which, error)
            }
            (message, state) => {
                generation.template = state;
                tracing::error!(generation = generation.number, ?message, "unexpected message from the template");
                None
            }
        }
    }

    fn adopt(&mut self, pid: u32, index: usize, generation: u64, slot: usize, limits: Limits) -> Option<End> {
        match Child::claim(pid) {
            Ok(child) if index < self.places.len() => self.worker_started(child, index, generation, slot, limits),
            Ok(child) => {
                // The number of workers has been reduced meanwhile.
                self.dismiss(child, Some(slot));
                None
            }
            Err(error) => {
                // If the template has ended, the worker may become a child of the supervisor a moment later.
                self.quarantine(slot);
                self.request_refused(index, generation, error)
            }
        }
    }

    /// Handles a worker that a template could not fork, or that the supervisor cannot claim. During a reload, such a
    /// failure of the old generation must neither end nor delay the reload.
    fn request_refused(&mut self, index: usize, generation: u64, error: ForkError) -> Option<End> {
        if self.reload.is_none() || generation != self.current.number {
            return self.fork_refused(error);
        }
        let delay = self.place_mut(index, generation)?.failed(Instant::now());
        tracing::error!(worker = index, generation, %error, ?delay, "cannot replace a worker of the old generation yet: trying again");
        None
    }

    /// Handles the failure or end of a template: aborts the reload, ends a server that is not up yet, or schedules another
    /// template.
    fn load_failed(&mut self, which: Which, error: String) -> Option<End> {
        if which == Which::Next {
            self.abort_reload(&format!("cannot load the application: {error}"));
            return None;
        }
        if !self.is_up {
            return Some(End::Failed(PreforkError::Load(error)));
        }
        self.current.failures += 1;
        let delay = delay(self.current.failures);
        tracing::error!(
            generation = self.current.number,
            error,
            ?delay,
            "the current generation has no template: starting another one"
        );
        self.current.template = TemplateState::Due(Instant::now() + delay);
        None
    }
}
