//! Operations that a process and the model carry out.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use forkio_tests::{has_ended, limit};

use super::case::Case;
use super::choice::pick;
use super::{Outcome, Outside, PROCESSES, Root, SELECTORS, hello};
use crate::message::{Arrival, Command, Event, Fd, Kind, Object, Policy, Reply};
use crate::model::check::Polled;
use crate::model::file::FileKind;
use crate::model::fork::Fork;
use crate::model::{Holder, Pid, SelectorId, SlotId};

impl Case<'_> {
    pub(super) fn new_selector(&mut self, pid: Pid) -> Outcome {
        if self.model.process(pid).selectors.len() < SELECTORS {
            let selector = self.next();
            let fds = self.opened(pid, &Command::NewSelector { selector })?.0;
            self.model.new_selector(pid, selector, fds[0]);
        }
        Ok(())
    }

    pub(super) fn new_waker(&mut self, pid: Pid, selector: SelectorId) -> Outcome {
        // A selector has one waker at a time.
        let has_waker = self.model.process(pid).slots.values().any(|slot| slot.holder == Holder::Waker(selector));
        if self.has_room(pid) && !has_waker {
            let (slot, token) = (self.next(), self.next());
            let fds = self.opened(pid, &Command::NewWaker { slot, selector, token })?.0;
            let [fd] = fds[..] else { return Err(format!("the waker is registered {} times", fds.len())) };
            self.model.new_waker(pid, slot, selector, fd, token);
        }
        Ok(())
    }

    pub(super) fn open(&mut self, pid: Pid, object: Object) -> Outcome {
        if !self.has_room(pid) {
            return Ok(());
        }
        let slot = self.next();
        let _slot_of_the_second = self.next();
        let (fds, address) = self.opened(pid, &Command::Open { slot, object })?;
        let outside = self.outside.len();
        let typed = |kind| Holder::Typed { kind, with: None };
        let (holder, kind) = match object {
            Object::TcpListener => {
                self.outside.push(Outside::TcpListener(address));
                (typed(Kind::Listener), FileKind::TcpListener { outside })
            }
            Object::UnixListener => {
                self.outside.push(Outside::UnixListener(address));
                (typed(Kind::Listener), FileKind::UnixListener { outside })
            }
            Object::Udp => {
                self.outside.push(Outside::Udp(address));
                (typed(Kind::Datagram), FileKind::Udp { outside })
            }
            Object::TcpStream => {
                let (stream, _) = self.driver.tcp.accept().map_err(|error| error.to_string())?;
                // Each byte must be a segment of its own.
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                stream.set_read_timeout(Some(limit())).map_err(|error| error.to_string())?;
                self.outside.push(Outside::Tcp(stream));
                (typed(Kind::Stream), FileKind::TcpStream { outside })
            }
            Object::UnixStream => {
                let (stream, _) = self.driver.unix.accept().map_err(|error| error.to_string())?;
                stream.set_read_timeout(Some(limit())).map_err(|error| error.to_string())?;
                self.outside.push(Outside::Unix(stream));
                (typed(Kind::Stream), FileKind::UnixStream { outside })
            }
            Object::StreamPair => {
                self.model.open_two(pid, slot, [fds[0], fds[1]], Kind::Pair, |_, other| FileKind::StreamEnd { other });
                return Ok(());
            }
            Object::DatagramPair => {
                self.model
                    .open_two(pid, slot, [fds[0], fds[1]], Kind::Pair, |_, other| FileKind::DatagramEnd { other });
                return Ok(());
            }
            Object::Pipe => {
                self.model.open_two(pid, slot, [fds[0], fds[1]], Kind::Pair, |end, other| match end {
                    0 => FileKind::PipeWriter { other },
                    _ => FileKind::PipeReader { other },
                });
                return Ok(());
            }
            Object::Eventfd => (Holder::Bare, FileKind::Eventfd),
            Object::Timerfd => (Holder::Bare, FileKind::Timerfd),
            Object::Timer => (typed(Kind::Timer), FileKind::Timerfd),
        };
        self.model.open(pid, slot, fds[0], holder, kind);
        Ok(())
    }

    pub(super) fn close(&mut self, pid: Pid, source: u8) -> Outcome {
        let ids = self.model.process(pid).slots.keys().copied().collect();
        let Some(slot) = pick(ids, source) else { return Ok(()) };
        let process = self.model.process(pid);
        let (fd, holder) = (process.slots[&slot].fd, process.slots[&slot].holder);
        // The kernel forgets a registration only when the last duplicate is closed. A process that does not know of its
        // children leaves the registration to the kernel, as mio does. The model does not predict such a close.
        let may_have_duplicates = self.unaware.contains(&pid) || process.has_duplicate(fd);
        let is_registered = matches!(holder, Holder::Typed { with: Some(_), .. });
        let leaves_registration = is_registered && may_have_duplicates && !self.aware.contains(&pid);
        if leaves_registration || process.must_deregister(fd, &self.model.files) {
            return Ok(());
        }
        self.tell(pid, &Command::Close { slot })?;
        let ended = self.model.close(pid, slot);
        self.see_ends(ended)
    }

    pub(super) fn set_policy(&mut self, pid: Pid, fd: Fd, policy: Policy) -> Outcome {
        let result = self.attempt(pid, &Command::SetPolicy { fd, policy })?;
        let expected = self.model.set_policy(pid, fd, policy);
        self.compare(result, expected)
    }

    pub(super) fn wake(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        self.tell(pid, &Command::Wake { slot })?;
        self.model.wake(pid, slot);
        Ok(())
    }

    pub(super) fn accept(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let is_network = self.model.file(pid, slot).is_network();
        let expected = self.model.accept(pid, slot);
        let result = self.attempt_until(pid, &Command::Accept { slot }, is_network && expected.is_ok())?;
        self.compare(result.map(|_| ()), expected)
    }

    pub(super) fn read(&mut self, pid: Pid, slot: SlotId, most: usize) -> Outcome {
        let file = self.model.file(pid, slot);
        let is_counter = matches!(file.kind, FileKind::Eventfd | FileKind::Timerfd);
        let is_late = file.is_late();
        let most = if is_counter { 8 } else { most };
        let expected = self.model.read(pid, slot, most);
        let result = self.attempt_until(pid, &Command::Read { slot, most }, is_late && expected.is_ok())?;
        let result = match result {
            Ok(Reply::Bytes(bytes)) => Ok(bytes),
            Ok(other) => return Err(format!("{other:?} instead of bytes")),
            Err(kind) => Err(kind),
        };
        self.compare(result, expected)
    }

    pub(super) fn write(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let byte = self.next_byte();
        let result = self.attempt(pid, &Command::Write { slot, byte })?;
        let expected = self.model.write(pid, slot, byte);
        self.compare(result, expected.map(|_| ()))?;
        if let Ok(Some(outside)) = expected {
            match self.outside[outside].receive() {
                Ok(Some(received)) if received == byte => {}
                other => return Err(format!("{other:?} came out of a connection that got {byte}")),
            }
        }
        Ok(())
    }

    /// Sends a byte from the driver to a source, or connects the driver to it.
    pub(super) fn send(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let byte = self.next_byte();
        let file = self.model.file(pid, slot);
        let Some(outside) = file.outside() else { return Ok(()) };
        let before = file.incoming.len();
        let arrival = match file.kind {
            FileKind::TcpStream { .. } => Some(Arrival::Bytes(before + 1)),
            FileKind::TcpListener { .. } | FileKind::Udp { .. } if before == 0 => Some(Arrival::Readable),
            _ => None,
        };
        let fd = self.model.process(pid).slots[&slot].fd;
        self.steps.push(format!("outside: send {byte} to descriptor {fd} of process {pid}"));
        let sent = match &mut self.outside[outside] {
            Outside::Tcp(stream) => stream.write_all(&[byte]),
            Outside::Unix(stream) => stream.write_all(&[byte]),
            Outside::Udp(address) => self.driver.udp.send_to(&[byte], &*address).map(|_| ()),
            Outside::TcpListener(address) => {
                TcpStream::connect(&*address).map(|stream| self.clients.push(Outside::Tcp(stream)))
            }
            Outside::UnixListener(path) => {
                UnixStream::connect(path).map(|stream| self.clients.push(Outside::Unix(stream)))
            }
        };
        sent.map_err(|error| format!("sending: {error}"))?;
        self.model.send(pid, slot, byte);
        match arrival {
            Some(until) => self.tell(pid, &Command::Settle { fd, until }),
            None => Ok(()),
        }
    }

    pub(super) fn shut(&mut self, pid: Pid, slot: SlotId) -> Outcome {
        let file = self.model.file(pid, slot);
        let (Some(outside), is_network) = (file.outside(), file.is_network()) else { return Ok(()) };
        let fd = self.model.process(pid).slots[&slot].fd;
        self.steps.push(format!("outside: shut the peer of descriptor {fd} of process {pid}"));
        let shut = match &self.outside[outside] {
            Outside::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Outside::Unix(stream) => stream.shutdown(Shutdown::Write),
            _ => Ok(()),
        };
        shut.map_err(|error| format!("shutting: {error}"))?;
        self.model.shut(pid, slot);
        if is_network { self.tell(pid, &Command::Settle { fd, until: Arrival::End }) } else { Ok(()) }
    }

    pub(super) fn poll(&mut self, pid: Pid, selector: SelectorId, capacity: usize) -> Outcome {
        let start = Instant::now();
        let mut millis = 0;
        loop {
            let command = Command::Poll { selector, capacity, millis };
            let events: Vec<Event> = match self.ask(pid, &command)? {
                Reply::Events(events) => events,
                other => return Err(format!("{other:?} instead of events")),
            };
            match self.model.poll(pid, selector, capacity, &events)? {
                Polled::Complete => return Ok(()),
                Polled::Late(tokens) if start.elapsed() > limit() => {
                    return Err(format!("no events for tokens {tokens:?} within {:?}", limit()));
                }
                Polled::Late(_) => millis = 100,
            }
        }
    }

    pub(super) fn prepare_ahead(&mut self, pid: Pid) -> Outcome {
        let is_done = match (self.ask(pid, &Command::PrepareAhead)?, self.model.clone().fork(pid, self.counter)) {
            // Preparing may succeed even if the fork must be refused.
            (Reply::Done, _) => true,
            (Reply::Refused { .. }, Fork::Refused(_)) => false,
            (reply, expected) => return Err(format!("{reply:?} instead of {expected:?}")),
        };
        self.ahead.insert(pid, is_done);
        self.prepared.insert(pid);
        self.report(pid)
    }

    pub(super) fn fork(&mut self, pid: Pid, unplanned: bool) -> Outcome {
        if self.model.processes.len() == PROCESSES {
            return Ok(());
        }
        let child = self.next();
        let before = self.model.clone();
        let expected = self.model.fork(pid, child);
        let has_no_stale_registration = before.process(pid).has_no_stale_registration();
        let is_ahead = self.ahead.get(&pid) == Some(&true);
        // Make a planned fork where the model does not describe the child of an unplanned one:
        // - A child that reconciles late has the descriptors of its parent's preparation.
        // - The child does not ask the kernel about bare descriptors, so it may keep stale registrations.
        // - If a planned fork must be refused, the child of an unplanned one would have no selectors.
        let may_be_unplanned = self.driver.kind == Root::Handlers || !self.prepared.contains(&pid);
        let unplanned = unplanned && may_be_unplanned && has_no_stale_registration && expected == Fork::Made;
        if !unplanned {
            self.driver.prepared_forks += usize::from(is_ahead);
            self.ahead.insert(pid, false);
            self.prepared.remove(&pid);
            self.unaware.remove(&pid);
            self.aware.insert(pid);
        } else if !self.aware.contains(&pid) {
            self.unaware.insert(pid);
        }
        self.aware.insert(child);
        self.ahead.insert(child, false);
        match (self.ask(pid, &Command::Fork { child, unplanned })?, expected) {
            (Reply::Done, Fork::Made) => {
                let (greeting, link) = hello(&self.driver.control)?;
                if greeting != child {
                    return Err(format!("a greeting of process {greeting} instead of {child}"));
                }
                self.driver.children.push(link.pid);
                self.children.insert(child, link);
                self.report(child)?;
            }
            (Reply::Refused { object, .. }, Fork::Refused(fds)) => {
                if !fds.iter().any(|fd| [format!("Pair({fd})"), format!("Timer({fd})")].contains(&object)) {
                    return Err(format!(
                        "refused for {object} instead of one of the descriptors {fds:?}, which cannot be renewed"
                    ));
                }
                self.model = before;
            }
            (reply, expected) => return Err(format!("{reply:?} instead of {expected:?}")),
        }
        self.report(pid)
    }

    pub(super) fn exit(&mut self, pid: Pid) -> Outcome {
        self.tell(pid, &Command::Exit)?;
        let link = self.children.remove(&pid).expect("a child");
        // Do not wait until the process is reaped: a zombie has no open descriptors.
        let start = Instant::now();
        while !has_ended(link.pid) {
            if start.elapsed() > limit() {
                return Err(format!("process {pid} does not end"));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let ended = self.model.exit(pid);
        self.see_ends(ended)
    }
}
