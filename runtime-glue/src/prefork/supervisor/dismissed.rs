//! Processes that the server no longer needs, and slots that may still be in use.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Supervisor;
use super::generation::Generation;
use crate::Child;
use crate::prefork::slots::CANCELLED;
use crate::prefork::template::TemplateProcess;

/// How long a worker may take to appear after its template has ended or reported an error.
const QUARANTINE: Duration = Duration::from_secs(5);

/// A process that the supervisor has killed, because the server no longer needs it.
pub(super) struct Dismissed {
    pub(super) child: Child,
    /// The slot of a worker. For a template, the slot of the worker that it may have been forking.
    pub(super) slot: Option<usize>,
}

impl Supervisor {
    /// Kills a template, which has no work to finish, and cancels the worker that it is forking.
    pub(super) fn dismiss_template(&mut self, template: Option<(TemplateProcess, Option<usize>)>) {
        if let Some((TemplateProcess { child, .. }, slot)) = template {
            if let Some(slot) = slot {
                self.common.slots.raise(slot, CANCELLED);
            }
            self.dismiss(child, slot);
        }
    }

    pub(super) fn dismiss(&mut self, child: Child, slot: Option<usize>) {
        if let Err(error) = child.kill() {
            tracing::debug!(%error, "cannot kill a process that is no longer needed: it has ended");
        }
        self.dismissed.push(Dismissed { child, slot });
    }

    pub(super) fn dismissed_ended(&mut self, position: usize) {
        let Dismissed { child, slot } = self.dismissed.remove(position);
        let Some(slot) = slot else { return };
        if self.common.slots.pid(slot) == child.id() {
            self.common.clear(slot);
        } else {
            self.quarantine(slot);
        }
    }

    /// Cancels a worker that may still appear in a slot, and keeps the slot: the process between template and worker
    /// may outlive the template.
    pub(super) fn quarantine(&mut self, slot: usize) {
        self.common.slots.raise(slot, CANCELLED);
        self.quarantined.push((slot, Instant::now() + QUARANTINE));
    }

    /// Kills workers that have appeared in quarantined slots. Releases slots in which no worker has appeared in time.
    pub(super) fn check_quarantine(&mut self, now: Instant) {
        for (slot, until) in std::mem::take(&mut self.quarantined) {
            match self.common.slots.pid(slot) {
                0 if until > now => self.quarantined.push((slot, until)),
                0 => self.common.clear(slot),
                pid => match Child::claim(pid) {
                    Ok(child) => self.dismiss(child, Some(slot)),
                    // The process in between may still be the worker's parent.
                    Err(_) if until > now => self.quarantined.push((slot, until)),
                    // The worker has ended, and the reaper has reaped it.
                    Err(_) => self.common.clear(slot),
                },
            }
        }
    }

    /// Returns whether a child belongs to the server. The reaper must not reap such a child.
    pub(super) fn is_server_process(&self, pid: u32) -> bool {
        let templates = [Some(&self.current), self.reload.as_ref().map(|reload| &reload.generation)];
        let mut templates = templates.into_iter().flatten().filter_map(Generation::template);
        self.workers.iter().any(|worker| is_child(&worker.child, pid))
            || self.ended.iter().any(|child| is_child(child, pid))
            || self.service.is_child(pid)
            || self.dismissed.iter().any(|dismissed| is_child(&dismissed.child, pid))
            || self.upgrade.as_ref().is_some_and(|upgrade| is_child(&upgrade.child, pid))
            || templates.any(|template: &TemplateProcess| is_child(&template.child, pid))
    }
}

/// Returns the position of a dismissed process that has ended.
pub(super) fn poll_dismissed(dismissed: &mut [Dismissed], cx: &mut Context<'_>) -> Poll<usize> {
    for (position, dismissed) in dismissed.iter_mut().enumerate() {
        if dismissed.child.poll_wait(cx).is_ready() {
            return Poll::Ready(position);
        }
    }
    Poll::Pending
}

fn is_child(child: &Child, pid: u32) -> bool {
    child.id() == pid
}
