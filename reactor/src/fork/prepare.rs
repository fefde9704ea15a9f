//! The work of prepare: what the child will need, and what commit will do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::Arc;

use super::policy::{ForkPolicy, SourceKind};
use super::selectors::Live;
use super::table::{About, Entry};
use super::world::{SELECTORS, find_pair};
use super::{PrepareError, PrepareObject, QueueCopy, generation};
use crate::schedule::Schedule;
use crate::selector::Shared;
use crate::sys::descriptor::{self, Identity};
use crate::{Interest, Token, sys};

/// What stood at the numbers of muted registrations: see [`World`](super::world::World).
type Muted = BTreeMap<(u32, RawFd), Identity>;

/// What commit will do, in this order.
#[derive(Debug)]
pub(super) struct Plan {
    /// The child's queues in the making, each with the selector whose number it takes.
    pub(super) queues: Vec<(Live, sys::QueueCopy)>,
    /// Objects to put in place of what stands at a number.
    pub(super) replacements: Vec<Replacement>,
    /// Wakers: if a wake is pending when the process forks, it is to be pending in the child.
    pub(super) wakers: Vec<(Live, RawFd)>,
    /// Registrations that the parent has muted.
    pub(super) muted: Vec<(Live, RawFd)>,
    /// Those of them that the child inherits. They are copied last: a queue that waits for its fork is told of every event,
    /// and this process wants none of them.
    held_back: Vec<(Live, RawFd, Token, Interest)>,
    /// Registrations by number, which nobody tells of when the number is closed.
    bare: Vec<(Live, RawFd)>,
    /// Sockets with their fresh counterparts' peers: what waits to be read at the one is written to the other.
    pending: Vec<(RawFd, RawFd)>,
    /// Timers of which the child gets one of its own. `None`: whichever selector it is in.
    timers: Vec<(Option<Live>, RawFd)>,
    /// Ends of socket pairs, and timers, that are severed: in the child they are none any more.
    pub(super) parted: Vec<RawFd>,
    /// What only the child can make, before everything else.
    pub(super) remakes: sys::Remakes,
    /// Closed at the end, in both processes.
    pub(super) spares: Vec<OwnedFd>,
    /// The process that has made it ahead of a fork, and waits for that; 0: none. Until then the gates are shut.
    pub(super) ahead_in: u32,
}

#[derive(Debug)]
pub(super) struct Replacement {
    /// Whose poll fails if this does. `None`: everybody's.
    pub(super) selector: Option<Live>,
    pub(super) from: RawFd,
    pub(super) onto: RawFd,
}

impl Plan {
    pub(super) const fn new() -> Plan {
        Plan {
            queues: Vec::new(),
            replacements: Vec::new(),
            wakers: Vec::new(),
            muted: Vec::new(),
            held_back: Vec::new(),
            bare: Vec::new(),
            pending: Vec::new(),
            timers: Vec::new(),
            parted: Vec::new(),
            remakes: sys::Remakes::new(),
            spares: Vec::new(),
            ahead_in: 0,
        }
    }

    /// Closes what was prepared. Keeps the vectors' memory.
    pub(super) fn clear(&mut self) {
        let ahead_in = std::mem::take(&mut self.ahead_in);
        if ahead_in != 0 && ahead_in != process::id() {
            // A fork by others has taken it along. Nobody has told what it left open, and what stands at those numbers now
            // may be something else.
            self.spares.drain(..).for_each(std::mem::forget);
        }
        self.queues.clear();
        self.replacements.clear();
        self.wakers.clear();
        self.muted.clear();
        self.held_back.clear();
        self.bare.clear();
        self.pending.clear();
        self.timers.clear();
        self.parted.clear();
        self.spares.clear();
    }

    /// Of a plan that was made ahead: whether the numbers still stand for what is registered. Whatever else it depends on
    /// tells when it changes.
    pub(super) fn still_holds(&self, muted: &Muted) -> bool {
        self.bare.iter().all(|(live, fd)| {
            let shared = live.get();
            let entry = shared.registered.table.get(*fd).and_then(Entry::get);
            entry.is_some_and(|(token, about)| {
                is_at_its_number(muted, shared, *fd, token, about).is_ok_and(|is_there| is_there)
            })
        })
    }

    /// The rest, right before the fork: what changes without a word, and what is not to wait for the fork.
    pub(super) fn complete(&mut self, timers: &BTreeMap<RawFd, Arc<Schedule>>) -> Result<(), PrepareError> {
        for (live, fd, token, interest) in &self.held_back {
            let copy = self.queues.iter_mut().find(|(planned, _)| planned == live);
            copy.map_or(Ok(()), |(_, copy)| inherit(copy, *fd, *token, *interest))?;
        }
        for (from, to) in &self.pending {
            descriptor::copy_pending(*from, *to).map_err(failed(PrepareObject::Pair(*from)))?;
        }
        self.remakes.prepare();
        for (selector, fd) in &self.timers {
            let fresh = match timers.get(fd).filter(|schedule| !schedule.is_severed()) {
                Some(schedule) => sys::timer::renewed(schedule),
                None => sys::timer::renewed_by_descriptor(*fd).map(Some),
            };
            // `None`: it is among those that the child makes.
            if let Some(fresh) = fresh.map_err(failed(PrepareObject::Timer(*fd)))? {
                // Last: they stand, also where another selector's registration of the number is severed.
                self.replacements.push(Replacement { selector: *selector, from: fresh.as_raw_fd(), onto: *fd });
                self.spares.push(fresh);
            }
        }
        self.check_numbers()
    }

    /// dup2(2) refuses numbers beyond the limit, also those that are open: better now than in the child.
    fn check_numbers(&self) -> Result<(), PrepareError> {
        let number = |live: &Live| live.get().queue.as_fd().as_raw_fd();
        let queues = self.queues.iter().map(|(live, _)| (PrepareObject::Queue(number(live)), number(live)));
        let others = self.replacements.iter();
        let others = others.map(|replacement| (PrepareObject::Registration(replacement.onto), replacement.onto));
        let highest = queues.chain(others).max_by_key(|(_, number)| *number);
        match highest {
            Some((object, number)) if !descriptor::is_within_limit(number) => {
                let source = io::Error::other(format!(
                    "descriptor {number} is beyond RLIMIT_NOFILE, which was lowered after it was opened: raise it"
                ));
                Err(PrepareError { object, source })
            }
            _ => Ok(()),
        }
    }

    /// Closes what is left in the child, and frees nothing: the next fork does. Where the plan is kept nothing is written
    /// either, because a page that a child writes to is one that it has to copy.
    pub(super) fn close(&mut self) {
        for spare in &self.spares {
            descriptor::close(spare);
        }
        // SAFETY: none is left, and none of them is to be dropped: they are closed.
        unsafe { self.spares.set_len(0) };
    }
}

/// The work of [`prepare`](super::prepare) that can be done ahead. [`Plan::complete`] is the rest.
pub(super) struct Preparation<'a> {
    plan: &'a mut Plan,
    pairs: &'a BTreeMap<RawFd, RawFd>,
    muted: &'a Muted,
    /// The dead endpoint, once something is to be severed.
    dead: Option<RawFd>,
    timers: &'a BTreeMap<RawFd, Arc<Schedule>>,
    renewed_timers: BTreeSet<RawFd>,
    renewed: Vec<RenewedPair>,
    /// Registrations of sockets that may belong to a pair which is renewed on behalf of another one.
    deferred: Vec<(Live, RawFd, Token, About)>,
}

/// The ends of a pair, with the fresh sockets that take their place.
struct RenewedPair {
    ends: [(RawFd, Identity, RawFd); 2],
}

impl<'a> Preparation<'a> {
    pub(super) fn new(
        pairs: &'a BTreeMap<RawFd, RawFd>,
        muted: &'a Muted,
        timers: &'a BTreeMap<RawFd, Arc<Schedule>>,
        plan: &'a mut Plan,
    ) -> Preparation<'a> {
        // What the fork that made this process has left.
        plan.clear();
        Preparation {
            plan,
            pairs,
            muted,
            dead: None,
            timers,
            renewed_timers: BTreeSet::new(),
            renewed: Vec::new(),
            deferred: Vec::new(),
        }
    }

    pub(super) fn run(mut self, private_pairs: &[RawFd]) -> Result<(), PrepareError> {
        for live in SELECTORS.iter() {
            let shared = live.get();
            let number = shared.queue.as_fd().as_raw_fd();
            let mut copy = if shared.registered.is_retired() {
                let dead = self.dead_endpoint(number)?;
                self.replace(live, dead, number);
                None
            } else {
                let copy = sys::QueueCopy::new(&shared.queue, &mut self.plan.spares);
                Some(copy.map_err(failed(PrepareObject::Queue(number)))?)
            };
            for (fd, entry) in shared.registered.table.iter() {
                let Some((token, about)) = entry.get() else { continue };
                match self.look_closer(shared, fd, token, about)? {
                    Some(closer) => {
                        if closer != about {
                            entry.set(token, closer);
                        }
                        if closer.is_bare() {
                            self.plan.bare.push((live, fd));
                        }
                        match &mut copy {
                            Some(copy) => self.plan(live, copy, fd, token, closer)?,
                            None => self.plan_retired(live, fd, token, closer)?,
                        }
                    }
                    None if about.is_dropped(generation()) => {}
                    None => entry.clear(),
                }
            }
            if let Some(mut copy) = copy {
                copy.renew_wakers(&shared.wakers);
                self.plan.queues.push((live, copy));
            }
        }
        for end in private_pairs {
            self.renew_pair(None, *end)?;
        }
        self.plan_deferred()?;
        self.renew_other_timers();
        // What is severed for one selector and renewed for another one is renewed.
        self.plan.replacements.retain(|replacement| !self.renewed_timers.contains(&replacement.onto));
        let ends: Vec<RawFd> = self.renewed.iter().flat_map(|pair| pair.ends.map(|(end, ..)| end)).collect();
        self.plan.parted.retain(|fd| !ends.contains(fd) && !self.renewed_timers.contains(fd));
        self.recall_replaced()
    }

    /// A number that is replaced may be in another selector's queue already, or on its way there, together with what stands
    /// there now: it is to be added in the child, as its replacement.
    fn recall_replaced(&mut self) -> Result<(), PrepareError> {
        let Plan { queues, replacements, held_back, timers, .. } = &mut *self.plan;
        let replaced = replacements.iter().map(|replacement| replacement.onto);
        for onto in replaced.chain(timers.iter().map(|(_, fd)| *fd)) {
            for (live, copy) in &mut *queues {
                let Some((token, about)) = live.get().registered.table.get(onto).and_then(Entry::get) else {
                    continue;
                };
                if about.is_dropped(generation()) || about.policy() != ForkPolicy::Inherit {
                    continue;
                }
                let waiting = held_back.iter().position(|(selector, fd, ..)| selector == live && *fd == onto);
                let is_recalled = match waiting {
                    Some(index) => {
                        held_back.swap_remove(index);
                        true
                    }
                    None => copy.recall(onto).map_err(failed(PrepareObject::Registration(onto)))?,
                };
                if is_recalled {
                    copy.add_in_child(onto, token, about.kernel_interest());
                }
            }
        }
        Ok(())
    }

    /// Brings what the table says about a registration up to date; `None` if this process does not have it.
    fn look_closer(
        &self,
        shared: &Shared,
        fd: RawFd,
        token: Token,
        about: About,
    ) -> Result<Option<About>, PrepareError> {
        if about.is_dropped(generation()) {
            return Ok(None);
        }
        let mut about = about;
        if about.is_bare() {
            let failed = failed(PrepareObject::Registration(fd));
            if !is_at_its_number(self.muted, shared, fd, token, about).map_err(failed)? {
                return Ok(None);
            }
            if about.kind().is_none() {
                match descriptor::kind(fd) {
                    Ok(kind) => about = about.with_kind(kind),
                    Err(_) => return Ok(None),
                }
            }
        }
        let drops = about.kind() != Some(SourceKind::Waker) && about.policy() == ForkPolicy::NoFork;
        Ok(Some(about.with_dropped_in(drops.then(|| generation() + 1))))
    }

    fn plan(
        &mut self,
        live: Live,
        copy: &mut sys::QueueCopy,
        fd: RawFd,
        token: Token,
        about: About,
    ) -> Result<(), PrepareError> {
        let kind = about.kind().unwrap_or(SourceKind::Other);
        let interest = about.kernel_interest();
        if about.is_muted() {
            self.plan.muted.push((live, fd));
        }
        match about.policy() {
            _ if kind == SourceKind::Waker => {
                self.renew_waker(live, fd)?;
                copy.add_in_child(fd, token, interest);
            }
            // Deferred although its own policy may be another: its peer, or a duplicate, may be renewed.
            _ if kind == SourceKind::Pair => self.deferred.push((live, fd, token, about)),
            ForkPolicy::Inherit if kind == SourceKind::Signal || self.is_selector(fd, kind) => {
                copy.add_in_child(fd, token, interest);
            }
            ForkPolicy::Inherit if about.is_muted() => self.plan.held_back.push((live, fd, token, interest)),
            ForkPolicy::Inherit => inherit(copy, fd, token, interest)?,
            ForkPolicy::NoFork => copy.leave_out(fd, interest),
            ForkPolicy::Sever => {
                self.sever(live, fd)?;
                copy.add_in_child(fd, token, interest);
            }
            ForkPolicy::Renew if kind == SourceKind::Timer => {
                self.renew_timer(Some(live), fd);
                copy.add_in_child(fd, token, interest);
            }
            ForkPolicy::Renew => self.deferred.push((live, fd, token, about)),
        }
        Ok(())
    }

    /// As [`plan`](Preparation::plan), where the child has the descriptor but no queue for it.
    fn plan_retired(&mut self, live: Live, fd: RawFd, token: Token, about: About) -> Result<(), PrepareError> {
        match (about.kind(), about.policy()) {
            (Some(SourceKind::Waker), _) => self.renew_waker(live, fd)?,
            (Some(SourceKind::Timer), ForkPolicy::Renew) => self.renew_timer(Some(live), fd),
            (Some(SourceKind::Pair), _) | (_, ForkPolicy::Renew) => self.deferred.push((live, fd, token, about)),
            (_, ForkPolicy::Sever) => self.sever(live, fd)?,
            (_, ForkPolicy::Inherit | ForkPolicy::NoFork) => {}
        }
        Ok(())
    }

    /// Whether a registered queue is one of those that the fork copies: in the child the number stands for the copy.
    /// (A signalfd is added there for another reason: it watches the signals of the process that adds it.)
    fn is_selector(&self, fd: RawFd, kind: SourceKind) -> bool {
        kind == SourceKind::Queue && SELECTORS.iter().any(|live| live.get().queue.as_fd().as_raw_fd() == fd)
    }

    fn renew_waker(&mut self, live: Live, fd: RawFd) -> Result<(), PrepareError> {
        let failed = failed(PrepareObject::Waker(fd));
        // Without a slot it is just being dropped by another thread, and nobody will send.
        let sending = live.get().wakers.find(fd.cast_unsigned()).map_or(fd, |(_, sending)| sending);
        for (fresh, number) in sys::WakeSignal::renew(fd, sending).map_err(failed)? {
            self.replace(live, fresh.as_raw_fd(), number);
            self.plan.spares.push(fresh);
        }
        self.plan.wakers.push((live, fd));
        Ok(())
    }

    /// The child is to have a fresh timer for the one at `fd`; one, in however many selectors it is.
    fn renew_timer(&mut self, live: Option<Live>, fd: RawFd) {
        if self.renewed_timers.insert(fd) {
            self.plan.timers.push((live, fd));
        }
    }

    /// A timer is private to a process whether it is registered or not, unless it is registered to be something else.
    fn renew_other_timers(&mut self) {
        for (fd, _) in self.timers.iter().filter(|(_, schedule)| !schedule.is_severed()) {
            let mut entries = SELECTORS.iter().filter_map(|live| live.get().registered.table.get(*fd)?.about());
            let is_other = |about: About| matches!(about.policy(), ForkPolicy::Inherit | ForkPolicy::Sever);
            if !entries.any(|about| !about.is_dropped(generation()) && is_other(about)) {
                self.renew_timer(None, *fd);
            }
        }
    }

    fn sever(&mut self, live: Live, fd: RawFd) -> Result<(), PrepareError> {
        let dead = self.dead_endpoint(fd)?;
        self.replace(live, dead, fd);
        if self.pairs.contains_key(&fd) || self.timers.contains_key(&fd) {
            self.plan.parted.push(fd);
        }
        Ok(())
    }

    /// What is put in place of `fd`; made once.
    fn dead_endpoint(&mut self, fd: RawFd) -> Result<RawFd, PrepareError> {
        if let Some(dead) = self.dead {
            return Ok(dead);
        }
        let fresh = descriptor::dead_endpoint().map_err(failed(PrepareObject::DeadEndpoint(fd)))?;
        let dead = fresh.as_raw_fd();
        self.plan.spares.push(fresh);
        Ok(*self.dead.insert(dead))
    }

    fn replace(&mut self, selector: impl Into<Option<Live>>, from: RawFd, onto: RawFd) {
        let selector = selector.into();
        self.plan.replacements.push(Replacement { selector, from, onto });
    }

    fn plan_deferred(&mut self) -> Result<(), PrepareError> {
        let deferred = std::mem::take(&mut self.deferred);
        for (live, fd, _, about) in &deferred {
            if about.policy() == ForkPolicy::Renew {
                self.renew_pair(Some(*live), *fd)?;
            }
        }
        for (live, fd, token, about) in deferred {
            let (policy, interest) = (about.policy(), about.kernel_interest());
            let fresh = self.fresh_end(fd, policy)?;
            if let Some(fresh) = fresh {
                self.replace(live, fresh, fd);
            } else if policy == ForkPolicy::Sever {
                self.sever(live, fd)?;
            }
            let mut queues = self.plan.queues.iter_mut();
            let Some((_, copy)) = queues.find(|(planned, _)| *planned == live) else { continue };
            match policy {
                ForkPolicy::NoFork => copy.leave_out(fd, interest),
                ForkPolicy::Inherit if fresh.is_none() && about.is_muted() => {
                    self.plan.held_back.push((live, fd, token, interest));
                }
                ForkPolicy::Inherit if fresh.is_none() => inherit(copy, fd, token, interest)?,
                _ => copy.add_in_child(fd, token, interest),
            }
        }
        Ok(())
    }

    /// Makes a fresh pair for the one that `fd` is, or duplicates, an end of; once.
    fn renew_pair(&mut self, live: Option<Live>, fd: RawFd) -> Result<(), PrepareError> {
        let object = PrepareObject::Pair(fd);
        let identity = descriptor::identity(fd).map_err(failed(object))?;
        if self.renewed.iter().any(|pair| pair.ends.iter().any(|end| end.1 == identity)) {
            return Ok(());
        }
        let pair = descriptor::is_unix_stream(fd).then(|| find_pair(self.pairs, identity)).flatten();
        let Some((end, peer)) = pair else {
            let source = io::Error::new(
                io::ErrorKind::Unsupported,
                "only wakers, timers and stream socket pairs made in this process can be renewed: give it another policy",
            );
            return Err(PrepareError { object, source });
        };
        let fresh = descriptor::stream_pair().map_err(failed(object))?;
        let peer_identity = descriptor::identity(peer).map_err(failed(object))?;
        let [first, second] = [fresh[0].as_raw_fd(), fresh[1].as_raw_fd()];
        self.replace(live, first, end);
        self.replace(live, second, peer);
        self.plan.pending.extend([(end, second), (peer, first)]);
        self.renewed.push(RenewedPair { ends: [(end, identity, first), (peer, peer_identity, second)] });
        self.plan.spares.extend(fresh);
        Ok(())
    }

    /// What takes the place of `fd` if it belongs to a pair that is renewed.
    fn fresh_end(&self, fd: RawFd, policy: ForkPolicy) -> Result<Option<RawFd>, PrepareError> {
        let ends = || self.renewed.iter().flat_map(|pair| pair.ends);
        if let Some((.., fresh)) = ends().find(|(end, ..)| *end == fd) {
            return Ok(Some(fresh));
        }
        if policy != ForkPolicy::Renew {
            return Ok(None);
        }
        let identity = descriptor::identity(fd).map_err(failed(PrepareObject::Pair(fd)))?;
        Ok(ends().find(|(_, end, _)| *end == identity).map(|(.., fresh)| fresh))
    }
}

/// Whether a registration by number is of what stands there now.
fn is_at_its_number(muted: &Muted, shared: &Shared, fd: RawFd, token: Token, about: About) -> io::Result<bool> {
    if !about.is_muted() {
        return shared.queue.holds(fd, token, about.interest());
    }
    let known = muted.get(&(shared.id, fd));
    Ok(known.is_some_and(|known| descriptor::identity(fd).is_ok_and(|found| found == *known)))
}

/// Copies a registration to the child's queue.
fn inherit(copy: &mut sys::QueueCopy, fd: RawFd, token: Token, interest: Interest) -> Result<(), PrepareError> {
    match copy.inherit(fd, token, interest) {
        // Closed by number, behind its owner's back: the kernel has forgotten it too.
        Err(error) if descriptor::is_closed(&error) => Ok(()),
        result => result.map_err(failed(PrepareObject::Registration(fd))),
    }
}

fn failed(object: PrepareObject) -> impl Fn(io::Error) -> PrepareError + Copy {
    move |source| PrepareError { object, source }
}
