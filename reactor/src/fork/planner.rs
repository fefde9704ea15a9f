//! Makes the plan of a fork from the registrations of a process: first one decision per registration, then the child's
//! queues, then the fresh objects that the decisions need, and last the registrations in the child's queues.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::decision::{Decided, Decision};
use super::descriptors::Records;
use super::entry::{Entry, EntryInfo, PATIENCE};
use super::error::{PrepareError, PrepareObject};
use super::foreign_pairs::SignalPipe;
use super::plan::{self, Plan};
use super::policy::{ForkPolicy, SourceKind};
use super::process_state::{Adopted, ProcessState, generation, selectors};
use super::renewal::{self, Renewal, Replacement};
use super::selector_core::{Poison, SelectorCore};
use crate::sys::{self, QueueCopy, descriptor};
use crate::{Interest, Token};

type Result<T> = std::result::Result<T, PrepareError>;

/// The process that makes the plan, and the kind of fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The parent, before the fork.
    Planned,
    /// The child, after an unplanned fork. Its queues are still the parent's. A table entry may be wrong: the child may have
    /// closed the descriptor since the fork, and may have another file there. Also, other threads of the parent ran while
    /// the kernel copied first the descriptors and then the memory.
    Unplanned,
}

/// Makes the plan of a fork. The caller has locked the process state, and has closed the gate or reconciles.
pub(super) fn make_plan(state: &mut ProcessState, mode: Mode) -> Result<()> {
    let ProcessState { plan, records, adopted, .. } = state;
    plan.clear();
    // A poisoned selector stays poisoned in every child.
    let selectors: Vec<_> = selectors().filter(|selector| !selector.is_poisoned()).collect();
    let replaced = BTreeSet::new();
    Planner { plan, records, adopted, mode, selectors: &selectors, replaced, dead: None }.run()
}

struct Planner<'a> {
    plan: &'a mut Plan,
    records: &'a Records,
    adopted: &'a Adopted,
    mode: Mode,
    selectors: &'a [&'static SelectorCore],
    /// The descriptors at which the child gets another object.
    replaced: BTreeSet<RawFd>,
    /// The dead endpoint, once a descriptor needs it.
    dead: Option<RawFd>,
}

impl Planner<'_> {
    fn run(mut self) -> Result<()> {
        sys::Remake::list(&mut self.plan.remakes);
        if self.mode == Mode::Unplanned {
            // The child makes these objects before all other fresh ones, which might take their descriptors.
            plan::remake(&self.plan.remakes, self.selectors.iter().copied());
            // A fresh object may take the descriptor of a lost queue. (The kernel's list has confirmed the adopted queues.)
            let own = self.selectors.iter().filter(|selector| !selector.is_adopted());
            own.for_each(|selector| selector.kernel.forget_queue_if_lost());
        }
        let mut decisions = std::mem::take(&mut self.plan.decisions);
        for selector in self.selectors {
            self.decide(selector, &mut decisions)?;
        }
        for selector in self.selectors {
            self.plan_queue(selector)?;
        }
        self.renew_and_sever(&decisions)?;
        self.fill_queues(&decisions)?;
        self.plan.decisions = decisions;
        Ok(())
    }

    /// Decides about each registration of `selector`, and brings its table up to date.
    fn decide(&mut self, selector: &'static SelectorCore, decisions: &mut Vec<Decided>) -> Result<()> {
        for (fd, entry) in selector.table.iter() {
            let Some((info, kind)) = self.inspect(selector, fd, entry)? else { continue };
            let Some((token, before)) = entry.get() else { continue };
            let is_queue_at_fd = |selector: &&SelectorCore| selector.kernel.queue.fd() == fd;
            let is_selector = kind == SourceKind::Queue && self.selectors.iter().any(is_queue_at_fd);
            let policy = self.records.policy(fd, token, info, kind);
            let policy = policy.map_err(PrepareError::of(PrepareObject::Inspection(fd)))?;
            let decision = Decision::new(policy, info, kind, is_selector);
            let is_remade = sys::Remake::EXISTS && matches!(kind, SourceKind::Signal | SourceKind::Process);
            let needs_object = decision.is_replaced() || decision == Decision::AddInChild || is_remade;
            if self.mode == Mode::Unplanned && needs_object && !self.is_still_registered(selector, fd, token, kind)? {
                entry.vacate();
                continue;
            }
            let absent_from = (decision == Decision::LeaveOut).then_some(generation() + 1);
            let after = info.absent_from(absent_from);
            if after != before {
                entry.set_info(after);
            }
            if info.is_muted() {
                self.plan.muted.push((selector, fd));
            }
            // Skip decisions that need no step: after a fork, the kernel must copy each page that this process writes to.
            if decision != Decision::LeaveOut || !sys::ChildQueue::BEGINS_EMPTY {
                let interest = selector.kernel_interest(info);
                decisions.push(Decided { selector, fd, token, interest, decision });
            }
        }
        Ok(())
    }

    /// In the child of an unplanned fork, whether `fd` still refers to the registered file.
    fn is_still_registered(&self, selector: &SelectorCore, fd: RawFd, token: Token, kind: SourceKind) -> Result<bool> {
        if sys::Queue::IS_EXACT && selector.table.get(fd).is_some_and(|entry| entry.info().is_muted()) {
            return plan::is_registered(selector, fd, self.records);
        }
        if self.records.get(fd).is_some_and(|record| record.end.is_some()) {
            return Ok(self.records.is_intact(fd));
        }
        let is_still = selector.kernel.queue.still_has(fd, selector.kernel.probe(token), kind);
        is_still.map_err(PrepareError::of(PrepareObject::Inspection(fd)))
    }

    /// Returns the state of an entry and the kind of its source; `None` if this process does not have the registration.
    fn inspect(
        &mut self,
        selector: &'static SelectorCore,
        fd: RawFd,
        entry: &Entry,
    ) -> Result<Option<(EntryInfo, SourceKind)>> {
        if self.mode == Mode::Unplanned {
            entry.settle_after_fork();
        } else if !entry.settles_within(PATIENCE) {
            return Err(PrepareError::of(PrepareObject::OtherThreads)(io::Error::from_raw_os_error(libc::ETIMEDOUT)));
        }
        let info = entry.info();
        if info.is_vacant() || info.is_absent(generation()) {
            return Ok(None);
        }
        if !info.is_bare() {
            return Ok(Some((info, info.kind().unwrap_or(SourceKind::Other))));
        }
        let is_there = match self.mode {
            Mode::Planned => plan::is_registered(selector, fd, self.records)?,
            Mode::Unplanned => descriptor::is_open(fd),
        };
        // An unknown kind is looked up in every fork: a bare socket may have become a listener.
        let kind = || descriptor::if_open(info.kind().map_or_else(|| descriptor::kind(fd), Ok));
        let kind = if is_there { kind().map_err(PrepareError::of(PrepareObject::Inspection(fd)))? } else { None };
        if kind.is_some() {
            self.plan.bare.push((selector, fd));
        } else {
            entry.vacate();
        }
        Ok(kind.map(|kind| (info, kind)))
    }

    /// Makes the fresh objects and the dead endpoint that replace objects in the child.
    fn renew_and_sever(&mut self, decisions: &[Decided]) -> Result<()> {
        for selector in self.selectors {
            self.renew_waker(selector)?;
        }
        let (records, mode) = (self.records, self.mode);
        let with =
            |decision| decisions.iter().filter(move |decided| decided.decision == decision).map(|decided| decided.fd);
        let always =
            records.always_renewed().filter(|ends| ends.iter().all(|fd| records.is_intact(*fd))).map(|[fd, _]| fd);
        let pipe = self.adopted.pipe.iter().filter(|_| mode == Mode::Planned).flat_map(SignalPipe::descriptors);
        for fd in always.chain(pipe).chain(with(Decision::RenewPair)) {
            self.renew_pair(fd)?;
        }
        with(Decision::RenewTimer).for_each(|fd| self.renew_timer(fd));
        for (fd, record) in records.iter() {
            let is_alive = record.timer.as_ref().is_some_and(|timer| !timer.is_severed());
            if is_alive
                && self.is_still_own(fd, SourceKind::Timer)?
                && !self.selectors.iter().any(|selector| self.keeps_timer(selector, fd))
            {
                self.renew_timer(fd);
            }
        }
        with(Decision::Sever).try_for_each(|fd| self.sever(fd))
    }

    /// Whether `fd` still refers to the timer or waker that this crate has made. After an unplanned fork, `fd` may be
    /// closed, or refer to another file, such as a fresh object.
    fn is_still_own(&self, fd: RawFd, kind: SourceKind) -> Result<bool> {
        let is_fresh = || self.plan.replacements.spares.iter().any(|spare| spare.as_raw_fd() == fd);
        let is_still = || sys::is_still_own(fd, kind).map_err(PrepareError::of(PrepareObject::Inspection(fd)));
        Ok(self.mode == Mode::Planned || (!is_fresh() && is_still()?))
    }

    /// Whether the policy of a registration keeps the child from getting a timer of its own at `fd`. By default the child gets
    /// one.
    fn keeps_timer(&self, selector: &SelectorCore, fd: RawFd) -> bool {
        selector.table.get(fd).and_then(Entry::get).is_some_and(|(_, info)| {
            let policy = info.policy(SourceKind::Timer);
            !info.is_absent(generation()) && matches!(policy, ForkPolicy::Inherit | ForkPolicy::Sever)
        })
    }

    fn renew_waker(&mut self, selector: &'static SelectorCore) -> Result<()> {
        let waker = selector.kernel.waker.get().filter(|(_, waker)| waker.registered >= 0);
        let Some((_, descriptors)) = waker else { return Ok(()) };
        let fd = descriptors.registered;
        if !selector.is_adopted() && !self.is_still_own(fd, SourceKind::Waker)? {
            selector.poison(Poison::Errno(libc::EBADF));
            return Ok(());
        }
        let fresh = sys::WakeSignal::renew(descriptors).map_err(PrepareError::of(PrepareObject::Waker(fd)))?;
        for (fresh, onto) in fresh {
            self.plan.replacements.add(fresh, onto);
        }
        Ok(())
    }

    /// Makes a fresh pair in place of the one that `fd` belongs to, once per pair. `fd` is an end or a duplicate of an end.
    fn renew_pair(&mut self, fd: RawFd) -> Result<()> {
        if self.replaced.contains(&fd) {
            return Ok(());
        }
        let failed = PrepareError::of(PrepareObject::Pair(fd));
        let unknown = PrepareError::of(PrepareObject::Inspection(fd));
        let identity = match descriptor::identity(fd) {
            // The descriptor was closed, or was not open yet when the kernel copied the descriptors.
            Err(error) if self.mode == Mode::Unplanned && descriptor::is_closed(&error) => return Ok(()),
            identity => identity.map_err(unknown)?,
        };
        let known = self.plan.renewals.iter().find_map(|renewal| match renewal {
            Renewal::Pair(ends) => ends.iter().find(|end| end.identity == identity).copied(),
            Renewal::Timer { .. } => None,
        });
        if let Some(end) = known {
            // A duplicate of an end gets a duplicate of the fresh end.
            self.replace(end.fresh, fd);
            return Ok(());
        }
        let pair = self.records.find_pair(identity);
        let Some(ends) = pair.filter(|[_, peer]| self.records.is_intact(*peer)) else {
            if self.mode == Mode::Unplanned && (pair.is_some() || self.records.get(fd).is_some()) {
                return Ok(());
            }
            let text =
                "only wakers, timers and stream socket pairs made in this process can be renewed: set another policy";
            return Err(failed(io::Error::new(io::ErrorKind::Unsupported, text)));
        };
        let ends = renewal::renew_pair(ends, &mut self.plan.replacements).map_err(failed)?;
        self.plan.renewals.push(Renewal::Pair(ends));
        self.replaced.extend(ends.map(|end| end.fd));
        // If `fd` is a duplicate, this replaces it too.
        self.renew_pair(fd)
    }

    /// Plans a fresh timer in place of `fd`. [`Plan::complete`] makes it.
    fn renew_timer(&mut self, fd: RawFd) {
        if self.replaced.insert(fd) {
            let state = self.records.get(fd).and_then(|record| record.timer.clone());
            self.plan.renewals.push(Renewal::Timer { fd, state });
        }
    }

    /// Severs `fd`, unless the plan already replaces the object at `fd`.
    fn sever(&mut self, fd: RawFd) -> Result<()> {
        if self.replaced.contains(&fd) {
            return Ok(());
        }
        let dead = self.dead_endpoint(fd)?;
        self.replace(dead, fd);
        if self.records.get(fd).is_some() {
            self.plan.severed.push(fd);
        }
        Ok(())
    }

    fn replace(&mut self, from: RawFd, onto: RawFd) {
        // Another thread may close `onto` before the fork: an adopted selector has no gate. The child then skips this step.
        let expected = self.adopted.pipe.is_some().then(|| descriptor::identity(onto).ok()).flatten();
        self.plan.replacements.steps.push(Replacement { from, onto, expected });
        self.replaced.insert(onto);
    }

    /// Returns the dead endpoint that the child gets in place of `fd`. All severed descriptors share one.
    fn dead_endpoint(&mut self, fd: RawFd) -> Result<RawFd> {
        if let Some(dead) = self.dead {
            return Ok(dead);
        }
        let fresh = descriptor::dead_endpoint().map_err(PrepareError::of(PrepareObject::DeadEndpoint(fd)))?;
        let dead = fresh.as_raw_fd();
        self.plan.replacements.spares.push(fresh);
        Ok(*self.dead.insert(dead))
    }

    /// Opens the child's queue for `selector`. If `selector` is retired, plans that the child has no queue.
    fn plan_queue(&mut self, selector: &'static SelectorCore) -> Result<()> {
        let fd = selector.kernel.queue.fd();
        let adopted = self.adopted.queues.iter().find(|queue| std::ptr::eq(queue.core, selector));
        let duplicates = adopted.map_or(&[][..], |queue| &queue.duplicates);
        let all = || duplicates.iter().copied().chain([fd]);
        if selector.is_retired() {
            if sys::Queue::is_there_after_fork() && !selector.kernel.queue.is_vacant() {
                let dead = self.dead_endpoint(fd)?;
                all().for_each(|onto| self.replace(dead, onto));
            }
            self.plan.retired.push(selector);
            return Ok(());
        }
        let (spares, is_planned) = (&mut self.plan.replacements.spares, self.mode == Mode::Planned);
        let queue = sys::ChildQueue::new(&selector.kernel.queue, spares, is_planned);
        let mut queue = queue.map_err(PrepareError::of(PrepareObject::Queue(fd)))?;
        if let Some((token, waker)) = selector.kernel.waker.get() {
            queue.renew_waker(token);
            if waker.registered >= 0 {
                let interest = if selector.is_adopted() { Interest::READABLE.marked() } else { Interest::READABLE };
                queue.add_in_child(waker.registered, token, interest);
            }
        }
        if selector.is_adopted() {
            // When the child takes this step, `fd` refers to its own queue.
            duplicates.iter().for_each(|duplicate| self.replace(fd, *duplicate));
            // Other code polls the queue, and does not ask whether the selector is poisoned.
            let dead = self.dead_endpoint(fd)?;
            self.plan.stops.extend(all().map(|onto| (selector, Replacement { from: dead, onto, expected: None })));
        }
        self.plan.queues.push((selector, queue));
        Ok(())
    }

    /// Adds the registrations to the child's queues.
    fn fill_queues(&mut self, decisions: &[Decided]) -> Result<()> {
        let Plan { queues, held_back, remakes, replacements, .. } = &mut *self.plan;
        // A descriptor that the kernel has just given to a fresh object was not open: its registration is stale.
        let spares = replacements.spares.iter().filter(|_| self.mode == Mode::Unplanned);
        let fresh: BTreeSet<_> = spares.map(AsRawFd::as_raw_fd).collect();
        // Decisions and queues are both in the order of the selectors.
        let mut queues = queues.iter_mut();
        for decisions in decisions.chunk_by(|a, b| std::ptr::eq(a.selector, b.selector)) {
            let of = decisions[0].selector;
            if of.is_retired() {
                continue;
            }
            let Some((_, queue)) = queues.find(|(selector, _)| std::ptr::eq(*selector, of)) else { break };
            for decided in decisions {
                let Decided { fd, token, interest, decision, .. } = *decided;
                let is_replaced = self.replaced.contains(&fd) || remakes.iter().any(|remake| remake.fd() == fd);
                let mut exists = !fresh.contains(&fd);
                match decision {
                    _ if !exists => {}
                    Decision::LeaveOut => queue.leave_out(fd, interest),
                    Decision::Inherit if !is_replaced => {
                        exists = plan::inherited(fd, queue.inherit(fd, token, interest))?;
                    }
                    Decision::HoldBack if !is_replaced => held_back.push(*decided),
                    _ => queue.add_in_child(fd, token, interest),
                }
                if !exists {
                    of.table.get(fd).into_iter().for_each(Entry::vacate);
                }
            }
        }
        Ok(())
    }
}
