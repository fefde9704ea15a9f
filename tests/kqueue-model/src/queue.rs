//! One queue: its knotes, and the changes to them.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use crate::kernel::Kernel;
use crate::knote::{Key, Knote, Object, Signals, Watched, timing};
use crate::linux::{self, aside, is_open, syscall, unwatch, watch};
use crate::names::*;

/// The data of epoll entries that belong to no knote.
const WRITERS: u64 = 0;
const KICK: u64 = 1;
const ALARM: u64 = 2;
pub(crate) const FIRST_SERIAL: u64 = 3;

#[derive(Debug)]
pub(crate) struct Queue {
    /// The program's descriptor of this queue: an epoll instance. The instance has an edge-triggered entry for each
    /// descriptor that is watched for reading, and level-triggered entries for the three descriptors below.
    pub(crate) fd: RawFd,
    /// Whether the queue has `KQUEUE_CPONFORK`.
    pub(crate) is_copied: bool,
    /// An epoll instance for descriptors that are watched for writing, so that the two kinds of edges do not mix.
    pub(crate) writers: OwnedFd,
    /// An eventfd that is readable while an event waits to be taken.
    pub(crate) kick: OwnedFd,
    pub(crate) is_kicked: bool,
    /// A timerfd that is set to the next expiration.
    pub(crate) alarm: OwnedFd,
    pub(crate) knotes: BTreeMap<Key, Knote>,
    pub(crate) serials: BTreeMap<u64, Key>,
    next_serial: u64,
    /// Whether a knote may have a descriptor for the parent's queue.
    pub(crate) has_parents_queues: bool,
    /// Active knotes, in the order in which they became active.
    pub(crate) active: VecDeque<Key>,
}

fn errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Queue {
    pub(crate) fn new(is_copied: bool, is_close_on_exec: bool) -> io::Result<Queue> {
        let fd = if Kernel::this().is_freebsd() { aside(linux::epoll)? } else { linux::epoll()? };
        linux::set_close_on_exec(fd.as_raw_fd(), is_close_on_exec)?;
        let mut queue = Queue {
            fd: fd.as_raw_fd(),
            is_copied,
            writers: aside(linux::epoll)?,
            kick: aside(linux::eventfd)?,
            is_kicked: false,
            alarm: aside(linux::timerfd)?,
            knotes: BTreeMap::new(),
            serials: BTreeMap::new(),
            next_serial: FIRST_SERIAL,
            has_parents_queues: false,
            active: VecDeque::new(),
        };
        queue.watch_own()?;
        queue.fd = fd.into_raw_fd();
        Ok(queue)
    }

    pub(crate) fn watch_own(&self) -> io::Result<()> {
        for (fd, data) in [(&self.writers, WRITERS), (&self.kick, KICK), (&self.alarm, ALARM)] {
            watch(self.fd, fd.as_raw_fd(), libc::EPOLLIN, data)?;
        }
        Ok(())
    }

    /// Whether a descriptor refers to this queue: to the epoll instance that has the queue's own eventfd in it.
    pub(crate) fn is_at(&self, fd: RawFd) -> bool {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: KICK };
        syscall!(epoll_ctl(fd, libc::EPOLL_CTL_MOD, self.kick.as_raw_fd(), &mut event)).is_ok()
    }

    /// Returns the queue's descriptors that belong to the model.
    pub(crate) fn own(&self) -> impl Iterator<Item = &OwnedFd> {
        // Skips the knotes for reading and writing if possible: there may be many, and nearly all have no descriptor of the model.
        let end = if self.has_parents_queues { EVFILT_READ + 1 } else { EVFILT_WRITE };
        let of_knotes = self.knotes.range((EVFILT_SIGNAL, 0)..(end, 0)).filter_map(|(_, knote)| match &knote.watched {
            Watched::Signal { signals: Signals::Own { signalfd: fd, .. }, .. }
            | Watched::Process { pidfd: Some(fd), .. }
            | Watched::Descriptor(Object::Queue { parents: Some(fd), .. }) => Some(fd),
            _ => None,
        });
        [&self.writers, &self.kick, &self.alarm].into_iter().chain(of_knotes)
    }

    /// Returns the watched descriptors, with their tokens, in order. A descriptor may appear twice: for reading and for
    /// writing.
    pub(crate) fn watched(&mut self) -> Vec<(RawFd, u64)> {
        for key in self.knotes.keys().copied().collect::<Vec<_>>() {
            self.forget_closed(key, None);
        }
        let by_descriptor = self.knotes.iter().filter(|(key, _)| matches!(key.0, EVFILT_READ | EVFILT_WRITE));
        let mut watched: Vec<_> = by_descriptor.map(|(key, knote)| (key.1 as RawFd, knote.udata as u64)).collect();
        watched.sort_unstable();
        watched
    }

    /// Makes a change. `nested`: the queue that the identifier refers to, if it refers to one.
    pub(crate) fn change(&mut self, change: &Kevent, nested: Option<u64>) -> io::Result<()> {
        let key = (change.filter, change.ident);
        match change.filter {
            EVFILT_READ | EVFILT_WRITE => {
                self.forget_closed(key, nested);
                if !RawFd::try_from(change.ident).is_ok_and(is_open) {
                    return Err(errno(libc::EBADF));
                }
            }
            EVFILT_USER if Kernel::this() == Kernel::NoUserEvents => return Err(errno(libc::EINVAL)),
            EVFILT_USER | EVFILT_TIMER | EVFILT_SIGNAL | EVFILT_PROC => {}
            _ => return Err(errno(libc::EINVAL)),
        }
        self.note_edges();
        let is_new = !self.knotes.contains_key(&key);
        if is_new {
            if change.flags & EV_ADD == 0 {
                return Err(errno(libc::ENOENT));
            }
            self.attach(key, change, nested)?;
        }
        if change.flags & EV_DELETE != 0 {
            self.detach(key);
            self.set_alarm();
            return Ok(());
        }
        if change.flags & EV_ADD != 0 && !is_new {
            self.watch_again(key)?;
        }
        let Some(knote) = self.knotes.get_mut(&key) else { return Err(errno(libc::ENOENT)) };
        knote.modify(change, is_new)?;
        // Upon each change, a kernel also runs the filter, to detect a condition that holds already.
        self.count_expirations();
        self.activate_if_ready(key);
        self.set_alarm();
        Ok(())
    }

    fn attach(&mut self, key: Key, change: &Kevent, nested: Option<u64>) -> io::Result<()> {
        let mut flags = change.flags & (EV_ONESHOT | EV_CLEAR | EV_DISPATCH);
        let mut was_pending = false;
        let watched = match key.0 {
            EVFILT_WRITE if nested.is_some() => return Err(errno(libc::EINVAL)),
            EVFILT_READ | EVFILT_WRITE => Watched::Descriptor(Object::at(change.ident as RawFd, nested)?),
            EVFILT_USER => Watched::User { is_triggered: false },
            EVFILT_TIMER => {
                flags |= EV_CLEAR;
                let (next, period) = timing(change)?;
                Watched::Timer { next, period, count: 0 }
            }
            EVFILT_SIGNAL => {
                flags |= EV_CLEAR;
                let signalfd = aside(|| linux::signalfd(change.ident as i32))?;
                was_pending = linux::poll_now(signalfd.as_raw_fd(), libc::POLLIN) != 0;
                Watched::Signal { signals: Signals::Own { signalfd, was_pending }, count: 0 }
            }
            _ => {
                flags |= EV_ONESHOT;
                Watched::Process { pidfd: open_process(change.ident)?, has_ended: false }
            }
        };
        let knote = Knote {
            flags,
            fflags: change.fflags,
            data: change.data,
            udata: change.udata,
            serial: self.take_serial(),
            is_disabled: false,
            is_active: false,
            watched,
            held: false,
        };
        self.insert(key, knote)?;
        if was_pending {
            // Drops the edge of signals that are pending already: FreeBSD reports only signals that are sent from now on.
            self.note_edges();
            self.active.retain(|active| *active != key);
            if let Some(knote) = self.knotes.get_mut(&key) {
                knote.clear();
                knote.is_active = false;
            }
        }
        Ok(())
    }

    pub(crate) fn insert(&mut self, key: Key, knote: Knote) -> io::Result<()> {
        self.watch_knote(key, &knote)?;
        self.serials.insert(knote.serial, key);
        self.knotes.insert(key, knote);
        Ok(())
    }

    pub(crate) fn take_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial - 1
    }

    /// Returns the epoll instance, the descriptor and the events of the entry that a knote needs, if it needs one.
    fn entry(&self, key: Key, knote: &Knote) -> Option<(RawFd, RawFd, libc::c_int)> {
        let edge = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
        match &knote.watched {
            Watched::Descriptor(Object::Queue { parents: Some(fd), .. })
            | Watched::Signal { signals: Signals::Own { signalfd: fd, .. }, .. }
            | Watched::Process { pidfd: Some(fd), .. } => Some((self.fd, fd.as_raw_fd(), edge)),
            Watched::Descriptor(_) if key.0 == EVFILT_READ => Some((self.fd, key.1 as RawFd, edge)),
            Watched::Descriptor(_) => Some((self.writers.as_raw_fd(), key.1 as RawFd, libc::EPOLLOUT | libc::EPOLLET)),
            _ => None,
        }
    }

    pub(crate) fn watch_knote(&self, key: Key, knote: &Knote) -> io::Result<()> {
        match self.entry(key, knote) {
            Some((epoll, fd, events)) => watch(epoll, fd, events, knote.serial),
            None => Ok(()),
        }
    }

    /// Watches the descriptor of a knote again: the descriptor may refer to another anonymous object by now, and the
    /// model cannot tell such objects apart.
    fn watch_again(&mut self, key: Key) -> io::Result<()> {
        if !matches!(key.0, EVFILT_READ | EVFILT_WRITE) {
            return Ok(());
        }
        let serial = self.take_serial();
        if let Some(knote) = self.knotes.get_mut(&key) {
            self.serials.remove(&knote.serial);
            knote.serial = serial;
            self.serials.insert(serial, key);
        }
        self.watch_knote(key, &self.knotes[&key])
    }

    pub(crate) fn detach(&mut self, key: Key) {
        let Some(knote) = self.knotes.remove(&key) else { return };
        self.serials.remove(&knote.serial);
        if knote.is_active {
            self.active.retain(|active| *active != key);
        }
        let is_gone = matches!(&knote.watched, Watched::Descriptor(object) if !object.is_at(key.1 as RawFd, None));
        match self.entry(key, &knote) {
            // The descriptor refers to another object by now, and its entry belongs to that object.
            Some((_, fd, _)) if is_gone && fd == key.1 as RawFd => {}
            // Closing one of the model's descriptors does not remove its entry while another process has a duplicate.
            Some((epoll, fd, _)) => unwatch(epoll, fd),
            None => {}
        }
    }

    /// Removes a knote whose descriptor was closed. "Calling close() on a file descriptor will remove any kevents that
    /// reference the descriptor": Linux does not say when a descriptor is closed, so the model detects it later.
    pub(crate) fn forget_closed(&mut self, key: Key, nested: Option<u64>) -> bool {
        let Some(Knote { watched: Watched::Descriptor(known), .. }) = self.knotes.get(&key) else { return false };
        let is_closed = !known.is_at(key.1 as RawFd, nested);
        if is_closed {
            self.detach(key);
        }
        is_closed
    }
}

/// Opens a pidfd. Returns `None` for process 0 of FreeBSD, which is the kernel and never ends.
fn open_process(ident: usize) -> io::Result<Option<OwnedFd>> {
    let missing = || errno(libc::ESRCH);
    match libc::pid_t::try_from(ident).map_err(|_| missing())? {
        0 if Kernel::this().is_freebsd() => Ok(None),
        // pidfd_open(2) refuses such an id with EINVAL.
        ..=0 => Err(missing()),
        process => aside(|| linux::pidfd(process)).map(Some),
    }
}
