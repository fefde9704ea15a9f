use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::decision::Decided;
use super::descriptors::Records;
use super::error::{PrepareError, PrepareObject};
use super::renewal::{Renewal, Replacement, Replacements};
use super::selector_core::{Poison, SelectorCore};
use crate::sys::{self, Queue, QueueCopy, descriptor};

/// The plan of a fork: the steps that [`commit`](Plan::commit) takes in the child, prepared in advance.
#[derive(Debug)]
pub(super) struct Plan {
    /// The child's queues, not yet complete.
    pub(super) queues: Vec<(&'static SelectorCore, sys::ChildQueue)>,
    /// Selectors for which the child gets no queue.
    pub(super) retired: Vec<&'static SelectorCore>,
    /// Fresh and dead objects, which replace the inherited ones at their descriptors.
    pub(super) replacements: Replacements,
    /// The pairs and timers of this process that fresh ones replace in the child.
    pub(super) renewals: Vec<Renewal>,
    /// Objects that only the child can make.
    pub(super) remakes: Vec<sys::Remake>,
    /// Muted registrations that the child inherits. They are added to the child's queue last, because until the fork the kernel
    /// delivers events to that queue too.
    pub(super) held_back: Vec<Decided>,
    /// Registrations that this process has muted.
    pub(super) muted: Vec<(&'static SelectorCore, RawFd)>,
    /// Registrations of bare descriptors, which may be closed without notice.
    pub(super) bare: Vec<(&'static SelectorCore, RawFd)>,
    /// Ends of pairs, and timers, that are severed.
    pub(super) severed: Vec<RawFd>,
    /// Dead endpoints for the descriptors of adopted selectors. The child uses those of the selectors that it must poison.
    pub(super) stops: Vec<(&'static SelectorCore, Replacement)>,
    /// The planner's decisions. The plan keeps the vector so that the next fork reuses its memory.
    pub(super) decisions: Vec<Decided>,
    /// Whether the plan was made in advance. Such a plan waits for the next fork, with the gate closed.
    pub(super) is_ahead: bool,
}

impl Plan {
    pub(super) const fn new() -> Plan {
        Plan {
            queues: Vec::new(),
            retired: Vec::new(),
            replacements: Replacements { steps: Vec::new(), spares: Vec::new() },
            renewals: Vec::new(),
            remakes: Vec::new(),
            held_back: Vec::new(),
            muted: Vec::new(),
            bare: Vec::new(),
            severed: Vec::new(),
            stops: Vec::new(),
            decisions: Vec::new(),
            is_ahead: false,
        }
    }

    /// Closes the prepared objects. Keeps the vectors' memory for the next fork.
    pub(super) fn clear(&mut self) {
        self.queues.clear();
        self.retired.clear();
        self.replacements.steps.clear();
        self.replacements.spares.clear();
        self.renewals.clear();
        self.held_back.clear();
        self.muted.clear();
        self.bare.clear();
        self.severed.clear();
        self.stops.clear();
        self.decisions.clear();
        self.is_ahead = false;
    }

    /// Like [`clear`](Plan::clear), in the child of an unplanned fork that reconciles late. Does not close the descriptors that
    /// the parent had prepared: the child may have closed them since, and have opened other files at them.
    pub(super) fn abandon(&mut self) {
        self.replacements.spares.drain(..).for_each(std::mem::forget);
        self.clear();
    }

    /// Drops the steps for `fd`, which its owner closes before the fork: another file may have this descriptor by then.
    pub(super) fn forget(&mut self, fd: RawFd) {
        for (_, queue) in &mut self.queues {
            queue.forget(fd);
        }
        self.replacements.steps.retain(|step| step.onto != fd);
        self.remakes.retain(|remake| remake.fd() != fd);
        self.muted.retain(|(_, muted)| *muted != fd);
        self.severed.retain(|severed| *severed != fd);
    }

    /// Like [`forget`](Plan::forget), for a selector that is dropped before the fork.
    pub(super) fn forget_selector(&mut self, selector: &SelectorCore) {
        let is_other = |other: &SelectorCore| !std::ptr::eq(other, selector);
        self.queues.retain(|(other, _)| is_other(other));
        self.retired.retain(|other| is_other(other));
        self.replacements.steps.retain(|step| step.onto != selector.kernel.queue.fd());
    }

    /// Whether the bare descriptors of a plan made in advance still refer to the registered files. Any other change has
    /// discarded the plan already.
    pub(super) fn still_holds(&self, records: &Records) -> bool {
        self.bare.iter().all(|(selector, fd)| is_registered(selector, *fd, records).is_ok_and(|is_there| is_there))
    }

    /// Completes the plan with state that changes without notice. Call it right before the fork, or in the child of an
    /// unplanned fork right before the commit.
    pub(super) fn complete(&mut self) -> Result<(), PrepareError> {
        for held in &self.held_back {
            let queue = self.queues.iter_mut().find(|(selector, _)| std::ptr::eq(*selector, held.selector));
            let Some((_, queue)) = queue else { continue };
            inherited(held.fd, queue.inherit_muted(held.fd, held.token, held.interest))?;
        }
        sys::Remake::list(&mut self.remakes);
        for renewal in &self.renewals {
            renewal.bring_up_to_date(&mut self.replacements)?;
        }
        // dup2(2) would refuse a descriptor beyond the limit in the child, even if it is open.
        let limit = descriptor::limit().unwrap_or(u64::MAX);
        let highest = self.private_descriptors().max().filter(|fd| *fd as u64 >= limit);
        let Some(fd) = highest else { return Ok(()) };
        let is_queue = self.queues.iter().any(|(selector, _)| selector.kernel.queue.fd() == fd);
        let object = if is_queue { PrepareObject::Queue(fd) } else { PrepareObject::Registration(fd) };
        let text = format!(
            "descriptor {fd} is beyond RLIMIT_NOFILE, which was lowered after the descriptor was opened: raise the limit"
        );
        Err(PrepareError::of(object)(io::Error::other(text)))
    }

    /// Lists the descriptors at which the child will have objects of its own.
    pub(super) fn private_descriptors(&self) -> impl Iterator<Item = RawFd> {
        let queues = self.queues.iter().map(|(selector, _)| &selector.kernel.queue);
        let queues = queues.filter(|queue| !queue.is_vacant()).map(Queue::fd);
        queues
            .chain(self.replacements.steps.iter().map(|step| step.onto))
            .chain(self.remakes.iter().map(sys::Remake::fd))
    }

    /// In the child, puts each selector's own queue and each fresh or dead object in place. `selectors` are all
    /// selectors of the process. A system call that fails poisons the selectors that it was for, or all selectors if
    /// the replaced descriptor is not registered. Allocates and frees nothing: async-signal-safe.
    pub(super) fn commit(
        &mut self,
        selectors: impl Iterator<Item = &'static SelectorCore> + Clone,
        records: &mut Records,
        generation: u32,
    ) {
        for selector in &self.retired {
            selector.poison(Poison::Errno(libc::ECANCELED));
            if sys::Queue::is_there_after_fork() {
                // The inherited descriptor belongs to the child. A replacement below makes it refer to a dead endpoint.
                selector.kernel.queue.adopt();
            }
        }
        for (selector, queue) in &mut self.queues {
            if let Err(errno) = queue.put_in_place(&selector.kernel.queue) {
                selector.poison(Poison::Errno(errno));
            }
            if selector.is_poisoned() {
                // The planner may have poisoned the selector. Its queue stays out of reach.
                selector.kernel.queue.disown();
            }
        }
        let replaced = self.replacements.steps.iter().filter_map(|step| {
            // Another thread of the parent may have closed the descriptor after the fork was prepared.
            if step.expected.is_some_and(|expected| descriptor::identity(step.onto).ok() != Some(expected)) {
                return None;
            }
            let errno = descriptor::replace(step.from, step.onto).err()?;
            Some((step.onto, errno))
        });
        remake(&self.remakes, selectors.clone());
        for (fd, errno) in replaced {
            if selectors.clone().any(|selector| selector.watches(fd)) {
                poison_watchers(selectors.clone(), fd, errno);
            } else {
                // Any code may use the descriptor, such as a signal handler that writes to the parent's pipe.
                selectors.clone().for_each(|selector| selector.poison(Poison::Unreplaced(fd, errno)));
            }
        }
        for (selector, queue) in &mut self.queues {
            // The descriptor of a poisoned selector may still refer to the parent's queue.
            if !selector.is_poisoned() {
                if let Err(errno) = complete(selector, queue) {
                    selector.poison(Poison::Errno(errno));
                }
            }
            for fd in queue.missing() {
                // An entry that the fork left out stays marked as absent.
                if let Some(entry) = selector.table.get(fd).filter(|entry| !entry.info().is_absent(generation)) {
                    entry.vacate();
                }
            }
        }
        for (selector, fd) in &self.muted {
            if let Some(entry) = selector.table.get(*fd) {
                entry.set_info(entry.info().with_muted(false));
            }
        }
        self.severed.iter().for_each(|fd| records.sever(*fd));
        for renewal in &self.renewals {
            if let Renewal::Pair(ends) = renewal {
                ends.iter().for_each(|end| records.renewed(end.fd, end.fresh_identity));
            }
        }
        for (_, stop) in self.stops.iter().filter(|(selector, _)| selector.is_poisoned()) {
            // The call fails only if the limit was lowered meanwhile.
            let _ = descriptor::replace(stop.from, stop.onto);
        }
        // Close the spares without writing to the vector's elements: the kernel must copy each page that a child writes to. The
        // next fork clears the rest of the plan, which frees memory.
        self.replacements.spares.iter().for_each(|spare| descriptor::close(spare.as_raw_fd()));
        // SAFETY: a length of 0 needs no elements. The elements beyond it are not dropped, which would close them again.
        unsafe { self.replacements.spares.set_len(0) };
    }
}

impl SelectorCore {
    /// Whether a failure at `fd` concerns this selector. Async-signal-safe.
    fn watches(&self, fd: RawFd) -> bool {
        let is_waker = self.kernel.waker.get().is_some_and(|(_, waker)| [waker.registered, waker.sender].contains(&fd));
        is_waker || self.table.get(fd).is_some_and(|entry| !entry.info().is_vacant()) || self.kernel.queue.fd() == fd
    }
}

/// In the child, poisons the selectors that a failure at `fd` concerns. Async-signal-safe.
fn poison_watchers(selectors: impl Iterator<Item = &'static SelectorCore>, fd: RawFd, errno: i32) {
    selectors.filter(|selector| selector.watches(fd)).for_each(|selector| selector.poison(Poison::Errno(errno)));
}

/// In the child, makes objects again. An error poisons the selectors that it concerns. Async-signal-safe.
pub(super) fn remake(remakes: &[sys::Remake], selectors: impl Iterator<Item = &'static SelectorCore> + Clone) {
    for (remake, errno) in remakes.iter().filter_map(|remake| Some((remake, remake.remake().err()?))) {
        poison_watchers(selectors.clone(), remake.fd(), errno);
    }
}

/// In the child, completes the queue of a selector, and signals a pending wake if the kernel must have it.
fn complete(selector: &SelectorCore, queue: &mut sys::ChildQueue) -> Result<(), i32> {
    let wakes = selector.kernel.wake.after_fork();
    queue.complete(&selector.kernel.queue, wakes)?;
    match selector.kernel.waker.get().filter(|(_, descriptors)| wakes && descriptors.registered >= 0) {
        Some((token, descriptors)) => sys::WakeSignal::signal_at(descriptors, &selector.kernel.queue, token),
        None => Ok(()),
    }
}

/// Whether a bare registration belongs to the file that is open at the descriptor now. `false` if there is no registration.
pub(super) fn is_registered(selector: &SelectorCore, fd: RawFd, records: &Records) -> Result<bool, PrepareError> {
    let Some((token, info)) = selector.table.get(fd).and_then(|entry| entry.get()) else { return Ok(false) };
    if !info.is_muted() {
        let holds = selector.kernel.queue.holds(fd, selector.kernel.probe(token));
        return holds.map_err(PrepareError::of(PrepareObject::Registration(fd)));
    }
    let known = records.get(fd).and_then(|record| record.muted);
    let found = descriptor::if_open(descriptor::open_file(fd));
    let found = found.map_err(PrepareError::of(PrepareObject::Inspection(fd)))?;
    Ok(found.is_some() && found == known)
}

/// Returns whether a registration exists, given the result of adding it to the child's queue. `false` means that the
/// descriptor was closed without notice. It may have been used again, for a file that cannot be polled.
pub(super) fn inherited(fd: RawFd, result: io::Result<()>) -> Result<bool, PrepareError> {
    match result {
        Err(error) if descriptor::is_closed(&error) || error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        result => result.map(|()| true).map_err(PrepareError::of(PrepareObject::Registration(fd))),
    }
}
