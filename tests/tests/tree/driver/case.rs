//! Carries out the operations of a case, and checks their results.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use forkio_tests::limit;

use super::choice::pick;
use super::{Driver, Link, Outcome, Outside, WAITING, reset};
use crate::message::{Command, Fd, Kind, Policy, Reply};
use crate::model::file::{File, FileKind};
use crate::model::{Expected, Holder, Model, Pid, Slot, SlotId};
use crate::operation::{Act, Operation};

/// The case that a driver runs: its model, its processes and their peers.
pub(super) struct Case<'a> {
    pub(super) driver: &'a mut Driver,
    pub(super) model: Model,
    /// All running processes except the root.
    pub(super) children: BTreeMap<Pid, Link>,
    pub(super) outside: Vec<Outside>,
    /// The connections whose end the driver has seen.
    pub(super) ended: BTreeSet<usize>,
    /// Whether a process must report that its next fork is prepared. A process is missing if the driver does not know.
    pub(super) ahead: BTreeMap<Pid, bool>,
    /// The processes that may have prepared their next fork: an operation that would discard a preparation may have failed.
    pub(super) prepared: BTreeSet<Pid>,
    /// The processes that have children of unplanned forks only.
    pub(super) unaware: BTreeSet<Pid>,
    /// The processes that know of relatives: they were forked, or have made a planned fork.
    pub(super) aware: BTreeSet<Pid>,
    /// The clients of the processes' listeners.
    pub(super) clients: Vec<Outside>,
    pub(super) steps: Vec<String>,
    /// Numbers the processes, tokens, slots and bytes.
    pub(super) counter: usize,
}

impl Case<'_> {
    pub(super) fn run(&mut self, operations: &[Operation]) -> Outcome {
        self.new_selector(0)?;
        self.new_waker(0, 0)?;
        for operation in operations {
            let living: Vec<Pid> = self.model.processes.keys().copied().collect();
            let pid = living[usize::from(operation.process) % living.len()];
            self.act(pid, &operation.act)?;
        }
        self.cause_events()?;
        self.end()
    }

    pub(super) fn act(&mut self, pid: Pid, act: &Act) -> Outcome {
        if act.may_change_plans() {
            self.ahead.remove(&pid);
        }
        match act {
            Act::NewSelector => self.new_selector(pid),
            Act::DropSelector { selector } => {
                let Some(selector) = self.choose_selector(pid, *selector) else { return Ok(()) };
                self.tell(pid, &Command::DropSelector { selector })?;
                self.model.drop_selector(pid, selector);
                Ok(())
            }
            Act::Open { object } => self.open(pid, *object),
            Act::NewWaker { selector } => match self.choose_selector(pid, *selector) {
                Some(selector) => self.new_waker(pid, selector),
                None => Ok(()),
            },
            Act::Duplicate { source, of_pair } => {
                // A fork does not notice that a timer is used through a duplicate of its descriptor.
                let is_fit = |slot: Slot, file: &File| !slot.is_timer() && (!of_pair || file.is_stream_end());
                let slot = self.choose_source(pid, *source, is_fit);
                let Some(slot) = slot.filter(|_| self.has_room(pid)) else { return Ok(()) };
                let into = self.next();
                let fds = self.opened(pid, &Command::Duplicate { slot, into })?.0;
                self.model.duplicate(pid, slot, into, fds[0]);
                Ok(())
            }
            Act::TakeFd { source } => {
                let Some(slot) = self.choose_source(pid, *source, |slot, _| !slot.is_timer()) else { return Ok(()) };
                self.tell(pid, &Command::TakeFd { slot })?;
                self.model.take_fd(pid, slot);
                Ok(())
            }
            Act::Close { source } => self.close(pid, *source),
            Act::Register { selector, source, any, by_fd, wanted, policy } => {
                let Some((selector, slot)) = self.choose_both(pid, *selector, *source, (!any).then_some(false)) else {
                    return Ok(());
                };
                let (target, own, fd) = self.target(pid, slot, *by_fd);
                let (token, wanted) = (self.next(), self.possible_interest(pid, slot, *wanted));
                let command = Command::Register { selector, target, token, wanted, policy: *policy };
                let result = self.attempt(pid, &command)?;
                let expected = self.model.register(pid, selector, fd, own, token, wanted, *policy);
                self.compare(result, expected)
            }
            Act::Reregister { selector, source, any, by_fd, wanted } => {
                let Some((selector, slot)) = self.choose_both(pid, *selector, *source, (!any).then_some(true)) else {
                    return Ok(());
                };
                let (target, own, fd) = self.target(pid, slot, *by_fd);
                let (token, wanted) = (self.next(), self.possible_interest(pid, slot, *wanted));
                let result = self.attempt(pid, &Command::Reregister { selector, target, token, wanted })?;
                let expected = self.model.reregister(pid, selector, fd, own, token, wanted);
                self.compare(result, expected)
            }
            Act::Deregister { selector, source, any, by_fd } => {
                let Some((selector, slot)) = self.choose_both(pid, *selector, *source, (!any).then_some(true)) else {
                    return Ok(());
                };
                let (target, own, fd) = self.target(pid, slot, *by_fd);
                let result = self.attempt(pid, &Command::Deregister { selector, target })?;
                let expected = self.model.deregister(pid, selector, fd, own);
                self.compare(result, expected)
            }
            Act::SetPolicy { source, any, policy } => match self.choose_registered(pid, *source, *any) {
                Some(fd) => self.set_policy(pid, fd, *policy),
                None => Ok(()),
            },
            Act::RenewPair { source } => {
                let is_fit = |slot: Slot, file: &File| file.is_stream_end() && self.is_registered(pid, slot.fd);
                let slot = self.choose_source(pid, *source, is_fit);
                match slot.map(|slot| self.model.process(pid).slots[&slot].fd) {
                    Some(fd) => self.set_policy(pid, fd, Policy::Renew),
                    None => Ok(()),
                }
            }
            Act::SetDefault { kind, policy } => {
                self.tell(pid, &Command::SetDefault { kind: *kind, policy: *policy })?;
                self.model.set_default(pid, *kind, *policy);
                Ok(())
            }
            Act::Mute { source, any } => {
                let Some(fd) = self.choose_registered(pid, *source, *any) else { return Ok(()) };
                let result = self.attempt(pid, &Command::Mute { fd })?;
                let expected = self.model.mute(pid, fd);
                self.compare(result, expected)
            }
            Act::Unmute { source } => {
                let is_muted = |fd| self.model.process(pid).is_muted(fd) && !self.model.process(pid).is_stale(fd);
                let slot = self.choose_source(pid, *source, |slot, _| is_muted(slot.fd));
                let Some(fd) = slot.map(|slot| self.model.process(pid).slots[&slot].fd) else { return Ok(()) };
                let result = self.attempt(pid, &Command::Unmute { fd })?;
                let expected = self.model.unmute(pid, fd);
                self.compare(result, expected)
            }
            Act::Wake { source } => {
                let wakers =
                    self.model.process(pid).slots.iter().filter(|(_, slot)| matches!(slot.holder, Holder::Waker(_)));
                match pick(wakers.map(|(id, _)| *id).collect(), *source) {
                    Some(slot) => self.wake(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Arm { source, due } => {
                let Some(slot) = self.choose_source(pid, *source, |_, file| file.kind == FileKind::Timerfd) else {
                    return Ok(());
                };
                self.tell(pid, &Command::Arm { slot, due: *due })?;
                self.model.arm(pid, slot, *due);
                Ok(())
            }
            Act::Accept { source } => {
                let is_listener =
                    |slot: Slot, _: &File| matches!(slot.holder, Holder::Typed { kind: Kind::Listener, .. });
                match self.choose_source(pid, *source, is_listener) {
                    Some(slot) => self.accept(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Read { source, most } => {
                let is_readable = |_: Slot, file: &File| {
                    !matches!(
                        file.kind,
                        FileKind::TcpListener { .. } | FileKind::UnixListener { .. } | FileKind::PipeWriter { .. }
                    )
                };
                match self.choose_source(pid, *source, is_readable) {
                    Some(slot) => self.read(pid, slot, (*most).into()),
                    None => Ok(()),
                }
            }
            Act::Write { source } => {
                match self.choose_source(pid, *source, |_, file| self.model.has_room(file, WAITING)) {
                    Some(slot) => self.write(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Send { source } => {
                let is_reachable = |_: Slot, file: &File| file.outside().is_some() && file.incoming.len() < WAITING;
                match self.choose_source(pid, *source, is_reachable).filter(|slot| !self.model.is_shut(pid, *slot)) {
                    Some(slot) => self.send(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Shut { source } => {
                let is_stream = |_: Slot, file: &File| {
                    matches!(file.kind, FileKind::TcpStream { .. } | FileKind::UnixStream { .. })
                };
                match self.choose_source(pid, *source, is_stream).filter(|slot| !self.model.is_shut(pid, *slot)) {
                    Some(slot) => self.shut(pid, slot),
                    None => Ok(()),
                }
            }
            Act::Poll { selector, capacity } => match self.choose_selector(pid, *selector) {
                Some(selector) => self.poll(pid, selector, (*capacity).into()),
                None => Ok(()),
            },
            Act::Report => self.report(pid),
            Act::PrepareAhead => self.prepare_ahead(pid),
            Act::Fork { unplanned } => self.fork(pid, *unplanned),
            Act::Exit if pid != 0 => self.exit(pid),
            Act::Exit => Ok(()),
        }
    }

    pub(super) fn report(&mut self, pid: Pid) -> Outcome {
        let seen = match self.ask(pid, &Command::Report)? {
            Reply::Report(seen) => seen,
            other => return Err(format!("{other:?} instead of a report")),
        };
        let process = self.model.process(pid);
        if (seen.generation, seen.selectors) != (process.generation, process.selectors.len()) {
            return Err(format!(
                "generation {} and {} selectors instead of {} and {}",
                seen.generation,
                seen.selectors,
                process.generation,
                process.selectors.len()
            ));
        }
        self.model.check_registrations(pid, &seen.registrations)?;
        for (id, selector) in &process.selectors {
            let due = self.model.watched(pid, *id);
            match seen.watched.iter().find(|(fd, _)| *fd == selector.fd) {
                Some((_, watched)) if *watched == due => {}
                other => return Err(format!("the kernel watches {other:?} instead of {due:?}")),
            }
        }
        if self.ahead.get(&pid).is_some_and(|ahead| *ahead != seen.ahead) {
            let due = !seen.ahead;
            return Err(format!("the next fork is prepared in advance: {} instead of {due}", seen.ahead));
        }
        // The baseline has the standard streams, and the root's connection to the driver.
        let mut due: BTreeSet<Fd> = self.driver.baseline.descriptors.iter().copied().collect();
        if let Some(child) = self.children.get(&pid) {
            due.remove(&self.driver.root.control);
            due.insert(child.control);
        }
        due.append(&mut process.descriptors());
        let open: BTreeSet<Fd> = seen.descriptors.into_iter().collect();
        if open == due || (seen.ahead && open.is_superset(&due)) {
            Ok(())
        } else {
            Err(format!("{open:?} are open instead of {due:?}"))
        }
    }

    /// Causes an event for each source, to find registrations that give no events.
    pub(super) fn cause_events(&mut self) -> Outcome {
        let slots: Vec<(Pid, SlotId)> = self
            .model
            .processes
            .iter()
            .flat_map(|(pid, process)| process.slots.keys().map(|slot| (*pid, *slot)))
            .collect();
        for (pid, slot) in slots {
            let file = self.model.file(pid, slot);
            match self.model.process(pid).slots[&slot].holder {
                Holder::Waker(_) => self.wake(pid, slot)?,
                _ if self.model.is_shut(pid, slot) || file.incoming.len() >= WAITING => {}
                _ if file.outside().is_some() => self.send(pid, slot)?,
                _ if self.model.has_room(file, WAITING) => self.write(pid, slot)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Polls and checks everything, ends all processes but the root, and checks the state of the root.
    pub(super) fn end(&mut self) -> Outcome {
        let pids: Vec<Pid> = self.model.processes.keys().copied().collect();
        for pid in &pids {
            for selector in self.model.process(*pid).selectors.keys().copied().collect::<Vec<_>>() {
                self.poll(*pid, selector, 64)?;
            }
            self.report(*pid)?;
        }
        // Sometimes the first child ends first, sometimes the last one.
        let children = pids.iter().copied().filter(|pid| *pid != 0);
        let children: Vec<Pid> =
            if self.counter.is_multiple_of(2) { children.collect() } else { children.rev().collect() };
        for pid in children {
            self.exit(pid)?;
        }
        self.report(0)?;
        for (index, outside) in self.outside.iter_mut().enumerate() {
            if matches!(outside, Outside::Tcp(_) | Outside::Unix(_)) && !self.ended.contains(&index) {
                outside.set_nonblocking(true).map_err(|error| error.to_string())?;
                match outside.receive() {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => return Err(format!("{other:?} from connection {index}, which is open and idle")),
                }
            }
        }
        let left = reset(&mut self.driver.root)?;
        self.driver.children.clear();
        let baseline = &self.driver.baseline;
        if (left.registrations, left.selectors) != (0, 0)
            || left.descriptors != baseline.descriptors
            || !left.children_failed.is_empty()
        {
            return Err(format!("left behind: {left:?}; before the case it was {baseline:?}"));
        }
        self.driver.baseline = left;
        Ok(())
    }

    /// Checks that the driver's peers see the end of connections that no process has open any more.
    pub(super) fn see_ends(&mut self, ended: Vec<usize>) -> Outcome {
        for outside in ended {
            self.steps.push(format!("outside: connection {outside} must be at its end"));
            match self.outside[outside].receive() {
                Ok(None) => self.ended.insert(outside),
                other => return Err(format!("{other:?} instead of the end of the connection")),
            };
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, pid: Pid, command: &Command) -> Outcome<Reply> {
        let link = match pid {
            0 => &mut self.driver.root,
            _ => self.children.get_mut(&pid).expect("a child"),
        };
        let reply = link.ask(command);
        let said = reply.as_ref().map_or_else(Clone::clone, |reply| format!("{reply:?}"));
        self.steps.push(format!("process {pid}: {command:?} -> {said}"));
        reply
    }

    /// Carries out an operation that cannot fail.
    pub(super) fn tell(&mut self, pid: Pid, command: &Command) -> Outcome {
        match self.ask(pid, command)? {
            Reply::Done => Ok(()),
            other => Err(format!("{other:?} from an operation that cannot fail")),
        }
    }

    /// Carries out an operation that opens descriptors, and cannot fail.
    pub(super) fn opened(&mut self, pid: Pid, command: &Command) -> Outcome<(Vec<Fd>, String)> {
        match self.ask(pid, command)? {
            Reply::Opened { fds, address } => Ok((fds, address)),
            other => Err(format!("{other:?} from an operation that cannot fail")),
        }
    }

    /// Carries out an operation that may fail. The inner error is the name of the [`ErrorKind`].
    pub(super) fn attempt(&mut self, pid: Pid, command: &Command) -> Outcome<Result<(), String>> {
        Ok(self.attempt_until(pid, command, false)?.map(|_| ()))
    }

    /// Like [`attempt`](Case::attempt). If `late`, repeats an operation that would block, because the network or a timer may be
    /// late.
    pub(super) fn attempt_until(&mut self, pid: Pid, command: &Command, late: bool) -> Outcome<Result<Reply, String>> {
        let start = Instant::now();
        loop {
            match self.ask(pid, command)? {
                Reply::Failed { kind, .. } if late && kind == "WouldBlock" && start.elapsed() < limit() => {
                    self.steps.pop();
                    std::thread::sleep(Duration::from_micros(200));
                }
                Reply::Failed { kind, .. } => return Ok(Err(kind)),
                reply => return Ok(Ok(reply)),
            }
        }
    }

    pub(super) fn compare<T: PartialEq + std::fmt::Debug>(
        &self,
        result: Result<T, String>,
        expected: Expected<T>,
    ) -> Outcome {
        let expected = expected.map_err(|kind| format!("{kind:?}"));
        if result == expected { Ok(()) } else { Err(format!("{result:?} instead of {expected:?}")) }
    }

    pub(super) fn next(&mut self) -> usize {
        self.counter += 1;
        self.counter - 1
    }

    pub(super) fn next_byte(&mut self) -> u8 {
        self.next() as u8
    }
}
