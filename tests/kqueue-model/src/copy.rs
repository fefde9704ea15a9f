//! The copy of a queue in the child of a fork.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::kernel::Kernel;
use crate::knote::{Key, Knote, Object, Signals, Watched};
use crate::linux::{self, aside, close, is_open, ready_entries, replace};
use crate::queue::Queue;

const FAILED: &str = "a child's copy of a queue";

impl Queue {
    /// Duplicates each queue of the parent that a knote watches, before the child's queues take the descriptors.
    pub(crate) fn keep_parents_queues(&mut self, copied: &BTreeSet<u64>) {
        for (key, knote) in &mut self.knotes {
            if let Watched::Descriptor(Object::Queue { id, parents: parents @ None }) = &mut knote.watched
                && copied.contains(id)
                && is_open(key.1 as RawFd)
            {
                *parents = aside(|| linux::duplicate(key.1 as RawFd)).ok();
                self.has_parents_queues = true;
            }
        }
    }

    /// Replaces the queue's objects with fresh ones of this process, at the same descriptors.
    pub(crate) fn replace_objects(&mut self) {
        let put = |make: fn() -> io::Result<OwnedFd>, fd: RawFd| {
            let is_close_on_exec = linux::is_close_on_exec(fd);
            // Close the descriptor first. The copy then needs no free descriptor, as on a real kernel.
            close(fd);
            let fresh = make().expect(FAILED).into_raw_fd();
            if fresh != fd {
                replace(fresh, fd).expect(FAILED);
                close(fresh);
            }
            linux::set_close_on_exec(fd, is_close_on_exec).expect(FAILED);
        };
        put(linux::epoll, self.fd);
        put(linux::epoll, self.writers.as_raw_fd());
        put(linux::eventfd, self.kick.as_raw_fd());
        put(linux::timerfd, self.alarm.as_raw_fd());
        self.is_kicked = false;
        self.watch_own().expect(FAILED);
    }

    /// Turns a duplicate of the queue's descriptor into a separate queue with the same events.
    pub(crate) fn separate(&self, duplicate: RawFd) -> Queue {
        let mut queue = Queue::new(self.is_copied, true).expect(FAILED);
        let is_close_on_exec = linux::is_close_on_exec(duplicate);
        replace(queue.fd, duplicate).expect(FAILED);
        close(queue.fd);
        linux::set_close_on_exec(duplicate, is_close_on_exec).expect(FAILED);
        queue.fd = duplicate;
        for (key, knote) in &self.knotes {
            if let Some(watched) = knote.watched.duplicate() {
                let serial = queue.take_serial();
                queue.serials.insert(serial, *key);
                queue.knotes.insert(*key, Knote { serial, watched, ..*knote });
            }
        }
        queue.active.clone_from(&self.active);
        queue.has_parents_queues = self.has_parents_queues;
        queue
    }

    /// Copies the events. `descriptors` maps each descriptor to the id of the child's queue.
    pub(crate) fn copy_knotes(&mut self, parent: libc::pid_t, descriptors: &BTreeMap<RawFd, u64>) {
        for key in self.knotes.keys().copied().collect::<Vec<_>>() {
            let is_copied = self.knotes.get_mut(&key).is_some_and(|knote| knote.copy(key, parent, descriptors));
            if !is_copied || self.watch_knote(key, &self.knotes[&key]).is_err() {
                self.detach(key);
            }
        }
        // A new entry has an edge if the descriptor is ready. Discard these edges: only readiness that begins after the
        // fork is an event.
        ready_entries(self.fd);
        ready_entries(self.writers.as_raw_fd());
        for key in self.knotes.keys().copied().collect::<Vec<_>>() {
            if let Some(knote) = self.knotes.get_mut(&key).filter(|knote| !knote.held) {
                knote.look_at_process();
                self.activate_if_ready(key);
            }
        }
        self.set_alarm();
        self.show();
    }
}

impl Knote {
    /// Turns the knote into the child's copy. Returns whether the child has this event.
    fn copy(&mut self, key: Key, parent: libc::pid_t, descriptors: &BTreeMap<RawFd, u64>) -> bool {
        let fd = key.1 as RawFd;
        match &mut self.watched {
            Watched::Descriptor(Object::Queue { id, .. }) => match descriptors.get(&fd) {
                Some(child) => {
                    *id = *child;
                    true
                }
                // "If the kqueue references a kqueue opened without the KQUEUE_CPONFORK flag, the event is not copied."
                None => false,
            },
            // "Registered events that reference file descriptors which are not duplicated on fork, are not copied."
            Watched::Descriptor(Object::File(_)) => is_open(fd),
            Watched::User { .. } => false,
            Watched::Signal { signals, .. } => {
                if let Signals::Own { was_pending, .. } = *signals {
                    *signals = Signals::Other { process: parent, was_pending };
                }
                true
            }
            Watched::Timer { .. } => {
                if Kernel::this() == Kernel::UnsafeTimers {
                    eprintln!("a kernel timer was copied on a kernel where that is not safe");
                    std::process::abort();
                }
                true
            }
            Watched::Process { .. } => true,
        }
    }
}

impl Watched {
    /// Returns a copy for a separate queue, or `None` if the process has no descriptor left.
    fn duplicate(&self) -> Option<Watched> {
        let duplicate = |fd: &OwnedFd| aside(|| linux::duplicate(fd.as_raw_fd())).ok();
        Some(match self {
            Watched::Descriptor(Object::File(identity)) => Watched::Descriptor(Object::File(*identity)),
            Watched::Descriptor(Object::Queue { id, parents }) => {
                let parents = match parents {
                    Some(queue) => Some(duplicate(queue)?),
                    None => None,
                };
                Watched::Descriptor(Object::Queue { id: *id, parents })
            }
            Watched::User { is_triggered } => Watched::User { is_triggered: *is_triggered },
            Watched::Timer { next, period, count } => Watched::Timer { next: *next, period: *period, count: *count },
            Watched::Signal { signals, count } => {
                let signals = match signals {
                    Signals::Own { signalfd, was_pending } => {
                        Signals::Own { signalfd: duplicate(signalfd)?, was_pending: *was_pending }
                    }
                    Signals::Other { process, was_pending } => {
                        Signals::Other { process: *process, was_pending: *was_pending }
                    }
                };
                Watched::Signal { signals, count: *count }
            }
            Watched::Process { pidfd, has_ended } => {
                let pidfd = match pidfd {
                    Some(pidfd) => Some(duplicate(pidfd)?),
                    None => None,
                };
                Watched::Process { pidfd, has_ended: *has_ended }
            }
        })
    }
}
