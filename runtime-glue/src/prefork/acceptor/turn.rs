//! When it is a worker's turn to accept.

use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Accept;
use super::queue::Accepted;
use crate::prefork::Connections;
use crate::sys;

/// How long a connection may wait before a worker without room excludes the workers that have room. Even a busy worker
/// returns to its listener much sooner.
const OVERLOOKED_AFTER: Duration = Duration::from_millis(500);

/// How long a worker stays the first one that the kernel wakes. A change takes two system calls: too many for each
/// connection of a busy server.
const REARM_PERIOD: Duration = Duration::from_millis(1);

pub(super) struct Turn {
    pub(super) connections: Connections,
    pub(super) rule: Rule,
    pub(super) armed: Armed,
    /// When this worker, without room itself, first saw a connection waiting, and how many connections all workers had
    /// accepted by then.
    pub(super) waiting: Option<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Only this worker accepts from the queue, or each connection wakes all workers.
    None,
    /// A connection wakes one worker. `since`: when this worker was last moved to the end of the kernel's list.
    Exclusive { since: Instant },
    /// A connection wakes all workers that have room.
    Balanced,
}

/// Whether connections wake this worker.
pub(super) struct Armed(pub(super) bool);

impl Armed {
    pub(super) fn mute(&mut self, listener: &impl AsFd) {
        // On an error the worker is still woken, which only wastes time.
        self.0 = self.0 && crate::policy::mute(listener).is_err();
    }

    pub(super) fn unmute(&mut self, listener: &impl AsFd) -> io::Result<()> {
        if !self.0 {
            crate::policy::unmute(listener)?;
            self.0 = true;
        }
        Ok(())
    }
}

impl Turn {
    /// Accepts a connection. Returns `None` if this worker is full, or must leave connections to workers with fewer.
    pub(super) fn poll_accept<L: Accept>(
        &mut self,
        listener: &L,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Accepted<L>>>> {
        let Turn { connections, rule, armed, waiting } = self;
        let _accepting = connections.shared().accepting.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.is_full() {
            return Poll::Ready(None);
        }
        if *rule == Rule::Balanced && !connections.admits() {
            // Otherwise each connection would wake this worker, which would not accept it.
            armed.mute(listener);
            return Poll::Ready(None);
        }
        *waiting = None;
        if let Err(error) = armed.unmute(listener) {
            return Poll::Ready(Some(Err(error)));
        }
        let accepted = ready!(listener.poll_accept(cx));
        // Move to the end of the kernel's list. The kernel wakes the first sleeping worker on the list, which would always be the
        // same worker in a quiet server.
        match rule {
            Rule::Exclusive { since } if since.elapsed() >= REARM_PERIOD => {
                *since = Instant::now();
                if connections.shares_queues() {
                    armed.mute(listener);
                    if let Err(error) = armed.unmute(listener) {
                        tracing::warn!(%error, "cannot watch a listener again: the next accept tries again");
                    }
                }
            }
            _ => {}
        }
        Poll::Ready(Some(accepted.map(|(stream, peer)| (connections.count(stream), peer))))
    }

    /// Whether a connection has been waiting for [`OVERLOOKED_AFTER`], and no worker has accepted any connection
    /// meanwhile.
    pub(super) fn has_overlooked_connection(&mut self, listener: &impl AsFd) -> bool {
        let accepted = self.connections.accepted_by_all();
        self.waiting = match self.waiting {
            _ if !sys::is_readable(listener).unwrap_or(true) => None,
            Some((since, before)) if before == accepted => Some((since, before)),
            _ => Some((Instant::now(), accepted)),
        };
        // If the connection still waits afterwards, the time starts again.
        self.waiting.take_if(|(since, _)| since.elapsed() >= OVERLOOKED_AFTER).is_some()
    }

    /// Waits until another worker may have overlooked a connection.
    pub(super) async fn wait(&self, listener: &impl AsFd) {
        if let Some((since, _)) = self.waiting {
            return sleep_until(since + OVERLOOKED_AFTER).await;
        }
        // Most waits are cancelled during this sleep, and need not watch the queue.
        sleep(OVERLOOKED_AFTER).await;
        if let Err(error) = connection(listener).await {
            tracing::debug!(%error, "cannot watch the queue of a muted listener: checking it every second");
            sleep(OVERLOOKED_AFTER).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        match self.rule {
            Rule::None => {}
            // The kernel may have woken only this worker for a connection.
            Rule::Exclusive { .. } => self.connections.wake_workers(),
            Rule::Balanced => self.connections.stop_accepting(),
        }
    }
}

/// Waits until a connection waits in the queue of a listener that is muted.
async fn connection(listener: &impl AsFd) -> io::Result<()> {
    if !sys::is_readable(listener)? {
        // This watches a duplicate, because the registration of the listener's own descriptor is muted.
        let watched = sys::watch(listener.as_fd().try_clone_to_owned()?)?;
        watched.readable().await?.retain_ready();
    }
    Ok(())
}
