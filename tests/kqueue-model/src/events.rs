//! How a queue finds events, and how the program takes them.

use std::os::fd::{AsRawFd, RawFd};

use crate::knote::{Key, Signals, Watched};
use crate::linux::{self, ready_entries, syscall};
use crate::names::*;
use crate::queue::{FIRST_SERIAL, Queue};

impl Queue {
    /// Activates each knote whose descriptor has an edge in epoll, whose timer has expired, or whose signal has arrived in
    /// another process.
    pub(crate) fn note_edges(&mut self) {
        let mut entries = ready_entries(self.fd);
        entries.extend(ready_entries(self.writers.as_raw_fd()));
        for serial in entries.into_iter().filter(|data| *data >= FIRST_SERIAL) {
            let Some(key) = self.serials.get(&serial).copied() else { continue };
            if self.forget_closed(key, None) {
                continue;
            }
            let Some(knote) = self.knotes.get_mut(&key) else { continue };
            knote.look_at_process();
            if let Watched::Signal { count, .. } = &mut knote.watched {
                *count += 1;
            }
            self.activate(key);
        }
        self.look_at_another_process();
        self.count_expirations();
    }

    fn signals(&mut self) -> impl Iterator<Item = (Key, &mut Signals, &mut i64)> {
        let knotes = self.knotes.range_mut((EVFILT_SIGNAL, 0)..(EVFILT_SIGNAL + 1, 0));
        knotes.filter_map(|(key, knote)| match &mut knote.watched {
            Watched::Signal { signals, count } => Some((*key, signals, count)),
            _ => None,
        })
    }

    /// Whether a knote watches the signals of another process, which no descriptor shows.
    pub(crate) fn watches_another_process(&mut self) -> bool {
        self.signals().any(|(_, signals, _)| matches!(signals, Signals::Other { .. }))
    }

    fn look_at_another_process(&mut self) {
        let mut arrived = Vec::new();
        for (key, signals, count) in self.signals() {
            if let Signals::Other { process, was_pending } = signals {
                let is_pending = linux::is_pending_in(*process, key.1 as i32);
                if is_pending && !*was_pending {
                    *count += 1;
                    arrived.push(key);
                }
                *was_pending = is_pending;
            }
        }
        arrived.into_iter().for_each(|key| self.activate(key));
    }

    pub(crate) fn count_expirations(&mut self) {
        let now = linux::now(libc::CLOCK_MONOTONIC);
        let mut expired = Vec::new();
        for (key, knote) in self.knotes.range_mut((EVFILT_TIMER, 0)..(EVFILT_TIMER + 1, 0)) {
            if let Watched::Timer { next, period, count } = &mut knote.watched
                && let Some(due) = next.filter(|due| *due <= now)
            {
                let times = 1 + (now - due).checked_div(*period).unwrap_or(0);
                *count += times as i64;
                *next = (*period != 0).then(|| due + times * *period);
                expired.push(*key);
            }
        }
        expired.into_iter().for_each(|key| self.activate(key));
    }

    fn activate(&mut self, key: Key) {
        if let Some(knote) = self.knotes.get_mut(&key).filter(|knote| !knote.is_active) {
            knote.is_active = true;
            self.active.push_back(key);
        }
    }

    pub(crate) fn activate_if_ready(&mut self, key: Key) {
        if self.report(key).is_some() {
            self.activate(key);
        }
    }

    fn report(&self, key: Key) -> Option<Kevent> {
        self.knotes.get(&key)?.report(key)
    }

    /// Takes up to `room` events.
    pub(crate) fn take(&mut self, room: usize) -> Vec<Kevent> {
        self.note_edges();
        let mut events = Vec::new();
        let mut waiting = std::mem::take(&mut self.active);
        let mut still_active = Vec::new();
        while events.len() < room
            && let Some(key) = waiting.pop_front()
        {
            if self.forget_closed(key, None) {
                continue;
            }
            let Some(knote) = self.knotes.get_mut(&key) else { continue };
            if knote.is_disabled {
                still_active.push(key);
                continue;
            }
            knote.is_active = false;
            // "If the filter indicates that the condition that triggered the event no longer holds, the kevent is
            // removed from the kqueue and is not returned."
            let Some(event) = knote.report(key) else { continue };
            events.push(event);
            if knote.flags & EV_ONESHOT != 0 {
                self.detach(key);
            } else if knote.flags & (EV_CLEAR | EV_DISPATCH) != 0 {
                knote.is_disabled |= knote.flags & EV_DISPATCH != 0;
                if knote.flags & EV_CLEAR != 0 {
                    knote.clear();
                }
            } else {
                knote.is_active = true;
                still_active.push(key);
            }
        }
        waiting.extend(still_active);
        self.active = waiting;
        self.set_alarm();
        self.show();
        events
    }

    /// Makes the queue's descriptor readable if an event waits, and not readable otherwise.
    pub(crate) fn show(&mut self) {
        let waits = |key| self.knotes.get(key).is_some_and(|knote| !knote.is_disabled);
        let is_waiting = self.active.iter().any(waits);
        if is_waiting != self.is_kicked {
            let mut count = 1_u64.to_ne_bytes();
            let fd: RawFd = self.kick.as_raw_fd();
            let result = if is_waiting {
                // The kernel reads eight bytes.
                syscall!(write(fd, count.as_ptr().cast(), 8))
            } else {
                // The kernel writes eight bytes.
                syscall!(read(fd, count.as_mut_ptr().cast(), 8))
            };
            result.expect("an eventfd of the model's own");
            self.is_kicked = is_waiting;
        }
    }

    pub(crate) fn set_alarm(&self) {
        let timers = self.knotes.range((EVFILT_TIMER, 0)..(EVFILT_TIMER + 1, 0));
        let next = timers.filter_map(|(_, knote)| match knote.watched {
            Watched::Timer { next, .. } => next,
            _ => None,
        });
        let nanos = next.min().unwrap_or(0);
        let value =
            libc::timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as libc::c_long };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // The kernel reads `setting`. Setting the timer also clears its count of expirations.
        syscall!(timerfd_settime(self.alarm.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &setting, std::ptr::null_mut()))
            .expect("a timerfd of the model's own");
    }

    /// Records all edges, expirations and pending signals, before a fork.
    pub(crate) fn settle(&mut self) {
        self.note_edges();
        self.show();
        for (key, knote) in &mut self.knotes {
            knote.held = knote.report(*key).is_some();
            if let Watched::Signal { signals: Signals::Own { signalfd, was_pending }, .. } = &mut knote.watched {
                *was_pending = linux::poll_now(signalfd.as_raw_fd(), libc::POLLIN) != 0;
            }
        }
    }
}
