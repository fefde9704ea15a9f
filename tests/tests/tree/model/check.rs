//! Checks the events and the registrations that a process sees.

use std::collections::BTreeSet;

use super::file::{FileKind, readiness};
use super::{Model, Pid, SelectorId};
use crate::message::{Event, Fd, Kind, Registration};

/// The result of checking a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    /// All events have come.
    Complete,
    /// The events for these tokens may still come: poll again.
    Late(Vec<usize>),
}

impl Model {
    /// Checks the events of a poll with room for `capacity`. The error says what is wrong with them.
    pub(crate) fn poll(
        &mut self,
        pid: Pid,
        selector: SelectorId,
        capacity: usize,
        events: &[Event],
    ) -> Result<Polled, String> {
        let process = self.processes.get_mut(&pid).expect("a living process");
        let selector = process.selectors.get_mut(&selector).expect("a selector");
        if events.len() > capacity {
            return Err(format!("{} events in room for {capacity}", events.len()));
        }
        let mut seen = BTreeSet::new();
        for event in events {
            let Some(((file, _), watch)) = selector.queue.iter_mut().find(|(_, watch)| watch.token == event.token)
            else {
                return Err(format!("an event for token {}, which is not registered with the selector", event.token));
            };
            if !seen.insert(event.token) {
                return Err(format!("two events for token {}", event.token));
            }
            let file = &mut self.files[*file];
            let expected = readiness(file.level_for(watch.wanted));
            if event.readiness != expected {
                return Err(format!("{event:?} instead of {expected:?}"));
            }
            // The network may report one change twice.
            if !watch.must && !watch.may && !file.is_network() {
                return Err(format!("an event for token {} although nothing has happened", event.token));
            }
            (watch.must, watch.may) = (false, false);
            if file.kind == FileKind::Waker {
                file.count = 0;
            }
        }
        let mut late = Vec::new();
        if events.len() < capacity {
            for ((file, _), watch) in &mut selector.queue {
                let file = &self.files[*file];
                if watch.must && file.level_for(watch.wanted) != 0 && !seen.contains(&watch.token) {
                    if !file.is_late() {
                        return Err(format!("no event for token {}", watch.token));
                    }
                    late.push(watch.token);
                } else {
                    (watch.must, watch.may) = (false, false);
                }
            }
        }
        Ok(if late.is_empty() { Polled::Complete } else { Polled::Late(late) })
    }

    /// The descriptors that a selector's kernel queue watches, with their tokens.
    pub(crate) fn watched(&self, pid: Pid, selector: SelectorId) -> Vec<(Fd, u64)> {
        let queue = &self.process(pid).selectors[&selector].queue;
        let mut watched: Vec<_> = queue.iter().map(|((_, fd), watch)| (*fd, watch.token as u64)).collect();
        watched.sort_unstable();
        watched
    }

    /// Checks the registrations that a process lists. The error says what is wrong with the list.
    pub(crate) fn check_registrations(&self, pid: Pid, listed: &[Registration]) -> Result<(), String> {
        let process = self.process(pid);
        let mut unknown: BTreeSet<(Fd, Fd)> = listed.iter().map(|line| (line.selector, line.fd)).collect();
        if unknown.len() != listed.len() {
            return Err("a registration is listed twice".to_owned());
        }
        for selector in process.selectors.values() {
            for (fd, entry) in selector.table.iter().filter(|(_, entry)| !entry.dropped) {
                let line = listed.iter().find(|line| (line.selector, line.fd) == (selector.fd, *fd));
                unknown.remove(&(selector.fd, *fd));
                if !process.is_live(*fd, entry) {
                    // A bare descriptor that was closed while it was registered may be listed until the next fork.
                    continue;
                }
                let Some(line) = line else { return Err(format!("descriptor {fd} is not listed")) };
                let kind_is_right = match line.kind {
                    None => false,
                    Some(kind) => kind == entry.kind.unwrap_or_else(|| self.files[entry.file].source_kind()),
                };
                let policy = entry.policy.unwrap_or_else(|| process.default_policy(line.kind.unwrap_or(Kind::Other)));
                if !kind_is_right
                    || line.token != entry.token
                    || (line.readable, line.writable) != (entry.wanted.is_readable(), entry.wanted.is_writable())
                    || line.policy != policy
                    || line.muted != entry.muted
                {
                    return Err(format!("{line:?} instead of {entry:?} with policy {policy:?}"));
                }
            }
        }
        match unknown.first() {
            Some((selector, fd)) => Err(format!("descriptor {fd} is listed for selector {selector}")),
            None => Ok(()),
        }
    }
}
