//! The state of the model: the queues of this process, and the descriptors that refer to them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control::{Call, set_working};
use crate::knote::Object;
use crate::linux::{file_type, list_descriptors};
use crate::names::{EVFILT_READ, EVFILT_WRITE, Kevent};
use crate::queue::Queue;

/// The model of one process.
#[derive(Debug)]
pub(crate) struct Model {
    /// The process that the other fields belong to, or 0 before the first call.
    pub(crate) process: libc::pid_t,
    /// The id of the queue that each descriptor refers to.
    pub(crate) descriptors: BTreeMap<RawFd, u64>,
    pub(crate) queues: BTreeMap<u64, Queue>,
    pub(crate) next_id: u64,
    /// The number of queues at which the next sweep is due.
    pub(crate) sweep_at: usize,
    pub(crate) faults: Vec<Fault>,
    /// Each marked descriptor, with the object that it referred to when it was marked. Closing the descriptor removes the mark.
    pub(crate) close_on_fork: BTreeMap<RawFd, Object>,
}

/// A failure that a test has set with [`inject`](crate::inject).
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) call: Call,
    /// How many calls still succeed before the first one fails.
    pub(crate) spare: usize,
    pub(crate) errno: i32,
}

/// Fewer queues are not worth a sweep.
const FEW: usize = 8;

static MODEL: Mutex<Model> = Mutex::new(Model {
    process: 0,
    descriptors: BTreeMap::new(),
    queues: BTreeMap::new(),
    next_id: 0,
    sweep_at: FEW,
    faults: Vec::new(),
    close_on_fork: BTreeMap::new(),
});

#[derive(Debug)]
pub(crate) struct Guard(MutexGuard<'static, Model>);

/// Locks the model. If this process is the child of a fork that has run no handlers, does the kernel's part of that fork first.
pub(crate) fn lock() -> Guard {
    let mut guard = lock_unchecked();
    // SAFETY: the call takes no pointer.
    let process = unsafe { libc::getpid() };
    if guard.process != process {
        if guard.process != 0 {
            crate::fork::do_kernels_part(&mut guard);
        }
        guard.process = process;
    }
    guard
}

fn lock_unchecked() -> Guard {
    let guard = MODEL.lock().unwrap_or_else(PoisonError::into_inner);
    set_working(true);
    Guard(guard)
}

impl Drop for Guard {
    fn drop(&mut self) {
        set_working(false);
    }
}

impl Deref for Guard {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.0
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Model {
        &mut self.0
    }
}

impl Model {
    /// Returns the error of `call` if a test makes it fail now.
    pub(crate) fn fail(&mut self, call: Call) -> io::Result<()> {
        match self.faults.iter_mut().find(|fault| fault.call == call) {
            Some(fault) if fault.spare == 0 => Err(io::Error::from_raw_os_error(fault.errno)),
            Some(fault) => {
                fault.spare -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Returns the id of the queue that a descriptor refers to. The program may have duplicated or closed the descriptor
    /// meanwhile.
    pub(crate) fn id_of(&mut self, fd: RawFd) -> Option<u64> {
        if self.descriptors.get(&fd).is_none_or(|id| !self.queues.get(id).is_some_and(|queue| queue.is_at(fd))) {
            self.descriptors.remove(&fd);
            if file_type(fd) != Some(0) {
                return None;
            }
            let id = self.queues.iter().find(|(_, queue)| queue.is_at(fd)).map(|(id, _)| *id)?;
            self.descriptors.insert(fd, id);
        }
        let id = self.descriptors.get(&fd).copied()?;
        self.queues.get_mut(&id)?.fd = fd;
        Some(id)
    }

    /// Sweeps when there are twice as many queues as after the last sweep.
    pub(crate) fn sweep_if_due(&mut self) {
        if self.queues.len() >= self.sweep_at {
            self.sweep();
            self.sweep_at = 2 * self.queues.len().max(FEW);
        }
    }

    /// Finds all descriptors of all queues, and drops the queues without one.
    pub(crate) fn sweep(&mut self) {
        if self.queues.is_empty() {
            return;
        }
        for fd in list_descriptors() {
            self.id_of(fd);
        }
        for fd in self.descriptors.keys().copied().collect::<Vec<_>>() {
            self.id_of(fd);
        }
        let found: BTreeSet<u64> = self.descriptors.values().copied().collect();
        self.queues.retain(|id, _| found.contains(id));
    }

    pub(crate) fn change(&mut self, id: u64, change: &Kevent) -> io::Result<()> {
        self.fail(Call::Change)?;
        let nested = match change.filter {
            EVFILT_READ | EVFILT_WRITE => RawFd::try_from(change.ident).ok().and_then(|fd| self.id_of(fd)),
            _ => None,
        };
        let queue = self.queues.get_mut(&id).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let result = queue.change(change, nested);
        queue.show();
        result
    }
}
