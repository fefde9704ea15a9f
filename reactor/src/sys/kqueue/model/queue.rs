//! One queue of the model: its knotes, and how the filters see what they watch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use super::*;
use crate::sys::descriptor::{self, Identity};

/// What identifies a knote.
type Key = (Filter, usize);

/// Data of the epoll's entries that are no knote's.
const WRITERS: u64 = 0;
const KICK: u64 = 1;
const ALARM: u64 = 2;
const FIRST_SERIAL: u64 = 3;

#[derive(Debug)]
pub(super) struct Queue {
    /// An epoll instance: what is watched to be read, edge-triggered; and the three below, level-triggered.
    pub(super) number: RawFd,
    pub(super) is_copied: bool,
    /// An epoll instance of its own for what is watched to be written, so that edges of the two do not mix.
    writers: OwnedFd,
    /// An eventfd that is readable while an event waits to be retrieved.
    kick: OwnedFd,
    is_kicked: bool,
    /// A timerfd, set to the next expiration.
    alarm: OwnedFd,
    knotes: BTreeMap<Key, Knote>,
    serials: BTreeMap<u64, Key>,
    next_serial: u64,
    /// Active knotes, in the order in which they became so.
    active: VecDeque<Key>,
}

#[derive(Debug)]
struct Knote {
    flags: Flags,
    fflags: u32,
    data: i64,
    udata: *mut libc::c_void,
    serial: u64,
    is_disabled: bool,
    watched: Watched,
    /// Whether its condition held when the process forked.
    held: bool,
}

// SAFETY: `udata` is opaque.
unsafe impl Send for Knote {}

#[derive(Debug)]
enum Watched {
    Descriptor(Object),
    User {
        is_triggered: bool,
    },
    /// In nanoseconds of the monotonic clock; period 0: once.
    Timer {
        next: Option<u64>,
        period: u64,
        count: i64,
    },
    Signal {
        signals: OwnedFd,
        count: i64,
    },
    Process {
        process: OwnedFd,
        has_ended: bool,
    },
}

/// What is open under a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Queue(u64),
    File(Identity),
}

fn errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers have just been given it by the kernel.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Numbers that a fork has left unused in this process: a kernel's side of a queue would not take them up, so nor may the
/// model's. Only locked where the model is.
static UNUSED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

pub(super) fn leave_unused(numbers: BTreeSet<RawFd>) {
    *UNUSED.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
}

/// A descriptor of the model's own.
fn aside(fd: OwnedFd) -> io::Result<OwnedFd> {
    let unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fd = fd;
    while unused.contains(&fd.as_raw_fd()) {
        fd = syscall!(fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, fd.as_raw_fd() + 1)).map(owned)?;
    }
    Ok(fd)
}

fn epoll() -> io::Result<OwnedFd> {
    syscall!(epoll_create1(libc::EPOLL_CLOEXEC)).map(owned)
}

fn eventfd() -> io::Result<OwnedFd> {
    syscall!(eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)).map(owned)
}

fn timerfd() -> io::Result<OwnedFd> {
    syscall!(timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)).map(owned)
}

fn now(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills `now`.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn watch(epoll: RawFd, fd: RawFd, events: libc::c_int, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
    match syscall!(epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event)) {
        // An open file description that was watched under this number before.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            syscall!(epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, &mut event))?;
        }
        result => {
            result?;
        }
    }
    Ok(())
}

fn unwatch(epoll: RawFd, fd: RawFd) {
    // It may be closed, or something else.
    let _ = syscall!(epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()));
}

/// Data of the entries of an epoll instance that are ready.
fn ready_entries(epoll: RawFd) -> Vec<u64> {
    let mut found = Vec::new();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    loop {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = syscall!(epoll_wait(epoll, events.as_mut_ptr(), 64, 0)).unwrap_or(0) as usize;
        found.extend(events[..count].iter().map(|event| event.u64));
        if count < events.len() {
            return found;
        }
    }
}

/// What a filter says about a descriptor that is ready.
struct Ready {
    flags: Flags,
    fflags: u32,
    data: i64,
}

/// The filters' function for descriptors.
fn look(fd: RawFd, filter: Filter) -> Option<Ready> {
    let (events, eof) = match filter {
        EVFILT_READ => (libc::POLLIN | libc::POLLRDHUP, libc::POLLRDHUP | libc::POLLHUP),
        _ => (libc::POLLOUT, libc::POLLERR | libc::POLLHUP),
    };
    let mut poll = libc::pollfd { fd, events, revents: 0 };
    // A signal may interrupt it although it does not wait.
    // SAFETY: one structure.
    while let Err(error) = syscall!(poll(&mut poll, 1, 0)) {
        if error.kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
    let found = poll.revents;
    if found == 0 || found & libc::POLLNVAL != 0 {
        return None;
    }
    let is_socket = file_type(fd) == Some(libc::S_IFSOCK);
    let data = if filter == EVFILT_READ { descriptor::pending_bytes(fd).unwrap_or(1) as i64 } else { 1 };
    Some(Ready {
        flags: if found & eof != 0 { EV_EOF } else { 0 },
        // Which error it was only the socket's owner may ask: asking takes it.
        fflags: if is_socket && found & libc::POLLERR != 0 { libc::ECONNRESET as u32 } else { 0 },
        data,
    })
}

impl Queue {
    pub(super) fn new(is_copied: bool) -> io::Result<(RawFd, Queue)> {
        let number = epoll()?;
        let queue = Queue {
            number: number.as_raw_fd(),
            is_copied,
            writers: aside(epoll()?)?,
            kick: aside(eventfd()?)?,
            is_kicked: false,
            alarm: aside(timerfd()?)?,
            knotes: BTreeMap::new(),
            serials: BTreeMap::new(),
            next_serial: FIRST_SERIAL,
            active: VecDeque::new(),
        };
        queue.watch_own()?;
        Ok((number.into_raw_fd(), queue))
    }

    fn watch_own(&self) -> io::Result<()> {
        for (fd, data) in [(&self.writers, WRITERS), (&self.kick, KICK), (&self.alarm, ALARM)] {
            watch(self.number, fd.as_raw_fd(), libc::EPOLLIN, data)?;
        }
        Ok(())
    }

    /// Descriptors that it has beside its number.
    pub(super) fn own(&self) -> impl Iterator<Item = &OwnedFd> {
        let watched = self.knotes.values().filter_map(|knote| match &knote.watched {
            Watched::Signal { signals: fd, .. } | Watched::Process { process: fd, .. } => Some(fd),
            Watched::Descriptor(_) | Watched::User { .. } | Watched::Timer { .. } => None,
        });
        [&self.writers, &self.kick, &self.alarm].into_iter().chain(watched)
    }

    /// What is watched by descriptor, with tokens.
    pub(super) fn watched(&mut self) -> Vec<(RawFd, u64)> {
        for key in self.knotes.keys().copied().collect::<Vec<_>>() {
            self.forget_closed(key, None);
        }
        let by_descriptor = self.knotes.iter().filter(|(key, _)| matches!(key.0, EVFILT_READ | EVFILT_WRITE));
        let mut watched: Vec<_> = by_descriptor.map(|(key, knote)| (key.1 as RawFd, knote.udata as u64)).collect();
        watched.sort_unstable();
        watched
    }

    /// Makes a change. `nested`: the queue that the identifier stands for, if it does.
    pub(super) fn change(&mut self, change: &Kevent, nested: Option<u64>) -> io::Result<()> {
        let key = (change.filter, change.ident);
        let fd = change.ident as RawFd;
        match change.filter {
            EVFILT_READ | EVFILT_WRITE if !is_open(fd) || RawFd::try_from(change.ident).is_err() => {
                self.forget_closed(key, nested);
                return Err(errno(libc::EBADF));
            }
            EVFILT_READ | EVFILT_WRITE => {
                self.forget_closed(key, nested);
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
            self.watch_anew(key)?;
        }
        let Some(knote) = self.knotes.get_mut(&key) else { return Err(errno(libc::ENOENT)) };
        knote.udata = change.udata;
        if change.flags & EV_DISABLE != 0 {
            knote.is_disabled = true;
        } else if change.flags & (EV_ENABLE | EV_ADD) != 0 {
            knote.is_disabled = false;
        }
        match &mut knote.watched {
            Watched::User { is_triggered } => {
                let flags = change.fflags & 0x00ff_ffff;
                match change.fflags & NOTE_FFCOPY {
                    NOTE_FFAND => knote.fflags &= flags,
                    NOTE_FFOR => knote.fflags |= flags,
                    NOTE_FFCOPY => knote.fflags = flags,
                    _ => {}
                }
                *is_triggered |= change.fflags & NOTE_TRIGGER != 0;
            }
            Watched::Timer { next, period, count } if change.flags & EV_ADD != 0 && !is_new => {
                // "If an existing timer is re-added, the existing timer will be effectively canceled (throwing away any
                // undelivered record of previous timer expiration) and re-started."
                (*next, *period) = timing(change)?;
                *count = 0;
            }
            _ => {}
        }
        // The filter is executed upon each change, to detect a condition that holds already.
        self.count_expirations();
        self.activate_if_ready(key);
        self.set_alarm();
        Ok(())
    }

    fn attach(&mut self, key: Key, change: &Kevent, nested: Option<u64>) -> io::Result<()> {
        let serial = self.next_serial;
        self.next_serial += 1;
        let mut flags = change.flags & (EV_ONESHOT | EV_CLEAR | EV_DISPATCH);
        let fd = change.ident as RawFd;
        let watched = match key.0 {
            EVFILT_READ | EVFILT_WRITE => Watched::Descriptor(object(fd, nested)?),
            EVFILT_USER => Watched::User { is_triggered: false },
            EVFILT_TIMER => {
                flags |= EV_CLEAR;
                let (next, period) = timing(change)?;
                Watched::Timer { next, period, count: 0 }
            }
            EVFILT_SIGNAL => {
                flags |= EV_CLEAR;
                let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
                // SAFETY: sigemptyset fills the set.
                unsafe {
                    libc::sigemptyset(set.as_mut_ptr());
                    libc::sigaddset(set.as_mut_ptr(), fd);
                }
                // SAFETY: the set is filled.
                let signals = syscall!(signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
                Watched::Signal { signals: aside(owned(signals))?, count: 0 }
            }
            _ => {
                flags |= EV_ONESHOT;
                let process = syscall!(syscall(libc::SYS_pidfd_open, fd, 0)).map_err(|error| {
                    // Of a number that is none.
                    if error.raw_os_error() == Some(libc::EINVAL) { errno(libc::ESRCH) } else { error }
                })?;
                Watched::Process { process: aside(owned(process as RawFd))?, has_ended: false }
            }
        };
        let knote = Knote {
            flags,
            fflags: if key.0 == EVFILT_USER { change.fflags & 0x00ff_ffff } else { change.fflags },
            data: change.data,
            udata: change.udata,
            serial,
            is_disabled: false,
            watched,
            held: false,
        };
        self.watch_knote(key, &knote)?;
        self.serials.insert(serial, key);
        self.knotes.insert(key, knote);
        Ok(())
    }

    fn watch_knote(&self, key: Key, knote: &Knote) -> io::Result<()> {
        let edge = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
        match &knote.watched {
            Watched::Descriptor(_) if key.0 == EVFILT_READ => watch(self.number, key.1 as RawFd, edge, knote.serial),
            Watched::Descriptor(_) => {
                watch(self.writers.as_raw_fd(), key.1 as RawFd, libc::EPOLLOUT | libc::EPOLLET, knote.serial)
            }
            Watched::Signal { signals, .. } => watch(self.number, signals.as_raw_fd(), edge, knote.serial),
            Watched::Process { process, .. } => watch(self.number, process.as_raw_fd(), edge, knote.serial),
            Watched::User { .. } | Watched::Timer { .. } => Ok(()),
        }
    }

    /// The number may stand for another anonymous object by now, which looks like the one before.
    fn watch_anew(&mut self, key: Key) -> io::Result<()> {
        let serial = self.next_serial;
        self.next_serial += 1;
        if let Some(knote) = self.knotes.get_mut(&key) {
            self.serials.remove(&knote.serial);
            knote.serial = serial;
            self.serials.insert(serial, key);
        }
        self.watch_knote(key, &self.knotes[&key])
    }

    fn detach(&mut self, key: Key) {
        if let Some(knote) = self.knotes.remove(&key) {
            self.serials.remove(&knote.serial);
            self.active.retain(|active| *active != key);
            if let Watched::Descriptor(object) = knote.watched
                && is_still(key.1 as RawFd, object)
            {
                let epoll = if key.0 == EVFILT_READ { self.number } else { self.writers.as_raw_fd() };
                unwatch(epoll, key.1 as RawFd);
            }
        }
    }

    /// "Calling close() on a file descriptor will remove any kevents that reference the descriptor": what Linux did not tell
    /// at the close is found out here.
    fn forget_closed(&mut self, key: Key, nested: Option<u64>) -> bool {
        let Some(Knote { watched: Watched::Descriptor(known), .. }) = self.knotes.get(&key) else { return false };
        let is_closed = match known {
            Object::Queue(id) => nested.is_some_and(|nested| nested != *id) || !is_open(key.1 as RawFd),
            known => !is_still(key.1 as RawFd, *known) || nested.is_some(),
        };
        if is_closed {
            self.detach(key);
        }
        is_closed
    }

    /// Takes what epoll has to say about knotes.
    fn note_edges(&mut self) {
        let mut entries = ready_entries(self.number);
        entries.extend(ready_entries(self.writers.as_raw_fd()));
        for serial in entries.into_iter().filter(|data| *data >= FIRST_SERIAL) {
            let Some(key) = self.serials.get(&serial).copied() else { continue };
            if self.forget_closed(key, None) {
                continue;
            }
            let Some(knote) = self.knotes.get_mut(&key) else { continue };
            match &mut knote.watched {
                Watched::Signal { count, .. } => *count += 1,
                Watched::Process { process, has_ended } => {
                    *has_ended = true;
                    knote.data = exit_status(process);
                }
                _ => {}
            }
            self.activate(key);
        }
        self.count_expirations();
    }

    fn count_expirations(&mut self) {
        let now = now(libc::CLOCK_MONOTONIC);
        let mut expired = Vec::new();
        for (key, knote) in &mut self.knotes {
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
        if !self.active.contains(&key) {
            self.active.push_back(key);
        }
    }

    fn activate_if_ready(&mut self, key: Key) {
        if self.report(key).is_some() {
            self.activate(key);
        }
    }

    /// The event of a knote whose condition holds.
    fn report(&self, key: Key) -> Option<Kevent> {
        let knote = self.knotes.get(&key)?;
        let event = Kevent { ident: key.1, filter: key.0, flags: knote.flags, fflags: 0, data: 0, udata: knote.udata };
        match &knote.watched {
            Watched::Descriptor(_) => {
                let ready = look(key.1 as RawFd, key.0)?;
                Some(Kevent { flags: knote.flags | ready.flags, fflags: ready.fflags, data: ready.data, ..event })
            }
            Watched::User { is_triggered } => {
                is_triggered.then_some(Kevent { fflags: knote.fflags, data: knote.data, ..event })
            }
            Watched::Timer { count, .. } | Watched::Signal { count, .. } => {
                (*count > 0).then_some(Kevent { data: *count, ..event })
            }
            Watched::Process { has_ended, .. } => has_ended.then_some(Kevent {
                flags: knote.flags | EV_EOF,
                fflags: NOTE_EXIT,
                data: knote.data,
                ..event
            }),
        }
    }

    /// Takes up to `room` events.
    pub(super) fn retrieve(&mut self, room: usize) -> Vec<Kevent> {
        self.note_edges();
        let mut events = Vec::new();
        for key in self.active.iter().copied().collect::<Vec<_>>() {
            if events.len() == room {
                break;
            }
            if self.forget_closed(key, None) || self.knotes.get(&key).is_none_or(|knote| knote.is_disabled) {
                continue;
            }
            self.active.retain(|active| *active != key);
            // "If the filter indicates that the condition that triggered the event no longer holds, the kevent is removed
            // from the kqueue and is not returned."
            let Some(event) = self.report(key) else { continue };
            events.push(event);
            let Some(knote) = self.knotes.get_mut(&key) else { continue };
            if knote.flags & EV_ONESHOT != 0 {
                self.detach(key);
            } else if knote.flags & (EV_CLEAR | EV_DISPATCH) != 0 {
                knote.is_disabled |= knote.flags & EV_DISPATCH != 0;
                if knote.flags & EV_CLEAR != 0 {
                    knote.clear();
                }
            } else {
                self.active.push_back(key);
            }
        }
        self.set_alarm();
        self.show();
        events
    }

    /// Makes the number readable if an event waits.
    pub(super) fn show(&mut self) {
        let waits = |key| self.knotes.get(key).is_some_and(|knote| !knote.is_disabled);
        let is_waiting = self.active.iter().any(waits);
        if is_waiting != self.is_kicked {
            let mut count = 1_u64.to_ne_bytes();
            let fd = self.kick.as_raw_fd();
            let result = if is_waiting {
                // SAFETY: the kernel reads eight bytes.
                syscall!(write(fd, count.as_ptr().cast(), 8))
            } else {
                // SAFETY: the kernel writes eight bytes.
                syscall!(read(fd, count.as_mut_ptr().cast(), 8))
            };
            result.expect("an eventfd of the model's own");
            self.is_kicked = is_waiting;
        }
    }

    fn set_alarm(&self) {
        let next = self.knotes.values().filter_map(|knote| match knote.watched {
            Watched::Timer { next, .. } => next,
            _ => None,
        });
        let nanos = next.min().unwrap_or(0);
        let value = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as libc::time_t,
            tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
        };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: the kernel reads `setting`. Setting it also takes what it has counted.
        syscall!(timerfd_settime(self.alarm.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &setting, std::ptr::null_mut()))
            .expect("a timerfd of the model's own");
    }

    /// Before a fork: all that has happened is known here.
    pub(super) fn settle(&mut self) {
        self.note_edges();
        self.show();
        let held: Vec<(Key, bool)> = self.knotes.keys().map(|key| (*key, self.report(*key).is_some())).collect();
        for (key, held) in held {
            if let Some(knote) = self.knotes.get_mut(&key) {
                knote.held = held;
            }
        }
    }

    /// In a child: a queue of its own at the same number. It needs no number that is free: a kernel does not either.
    pub(super) fn copy(&mut self) {
        let put = |make: fn() -> io::Result<OwnedFd>, number: RawFd| {
            // SAFETY: the number is the model's, and stands for the parent's object.
            unsafe { libc::close(number) };
            let fresh = make().expect("a child's copy of a queue").into_raw_fd();
            if fresh != number {
                descriptor::replace(fresh, number).expect("a child's copy of a queue");
                // SAFETY: made above.
                unsafe { libc::close(fresh) };
            }
        };
        put(epoll, self.number);
        put(epoll, self.writers.as_raw_fd());
        put(eventfd, self.kick.as_raw_fd());
        put(timerfd, self.alarm.as_raw_fd());
        self.is_kicked = false;
        self.watch_own().expect("a child's copy of a queue");
    }

    /// In a child: which events are copied, filter by filter. `dropped`: queues that the child does not have.
    pub(super) fn copy_knotes(&mut self, dropped: &BTreeSet<u64>) {
        let keys: Vec<Key> = self.knotes.keys().copied().collect();
        for key in keys {
            let fd = key.1 as RawFd;
            let is_copied = match &self.knotes[&key].watched {
                // "Registered events that reference file descriptors which are not duplicated on fork, are not copied."
                Watched::Descriptor(Object::Queue(id)) if dropped.contains(id) => false,
                Watched::Descriptor(_) if Kernel::this() == Kernel::CopyingSome => {
                    syscall!(fcntl(fd, libc::F_GETFD)).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0)
                }
                Watched::Descriptor(_) => is_open(fd),
                Watched::Timer { .. } if Kernel::this() == Kernel::UnsafeTimers => {
                    panic!("a kernel timer was copied on a kernel where that is not safe");
                }
                _ => true,
            };
            let result = self.watch_knote(key, &self.knotes[&key]);
            if !is_copied || result.is_err() {
                self.detach(key);
            }
        }
        // Watching anew reports what is ready: what was not active before is not in the copy either.
        ready_entries(self.number);
        ready_entries(self.writers.as_raw_fd());
        for key in self.knotes.keys().copied().collect::<Vec<_>>() {
            if !self.knotes[&key].held {
                self.activate_if_ready(key);
            }
        }
        self.set_alarm();
        self.show();
    }
}

impl Knote {
    /// `EV_CLEAR`: "Reset the state of the event after it is retrieved by the user."
    fn clear(&mut self) {
        match &mut self.watched {
            Watched::User { is_triggered } => *is_triggered = false,
            Watched::Timer { count, .. } | Watched::Signal { count, .. } => *count = 0,
            Watched::Descriptor(_) | Watched::Process { .. } => {}
        }
    }
}

fn object(fd: RawFd, nested: Option<u64>) -> io::Result<Object> {
    match nested {
        Some(id) => Ok(Object::Queue(id)),
        None => descriptor::identity(fd).map(Object::File),
    }
}

fn is_still(fd: RawFd, known: Object) -> bool {
    match known {
        Object::Queue(_) => is_open(fd),
        Object::File(identity) => descriptor::identity(fd).is_ok_and(|found| found == identity),
    }
}

/// When a timer expires first, and its period.
fn timing(change: &Kevent) -> io::Result<(Option<u64>, u64)> {
    let amount = u64::try_from(change.data).map_err(|_| errno(libc::EINVAL))?;
    let unit = match change.fflags & (NOTE_SECONDS | NOTE_MSECONDS | NOTE_USECONDS | NOTE_NSECONDS) {
        NOTE_SECONDS => 1_000_000_000,
        0 | NOTE_MSECONDS => 1_000_000,
        NOTE_USECONDS => 1_000,
        NOTE_NSECONDS => 1,
        _ => return Err(errno(libc::EINVAL)),
    };
    let nanos = amount.saturating_mul(unit);
    let monotonic = now(libc::CLOCK_MONOTONIC);
    if change.fflags & NOTE_ABSTIME != 0 {
        let left = nanos.saturating_sub(now(libc::CLOCK_REALTIME));
        return Ok((Some(monotonic.saturating_add(left)), 0));
    }
    let period = if change.flags & EV_ONESHOT != 0 { 0 } else { nanos.max(1) };
    Ok((Some(monotonic.saturating_add(nanos)), period))
}

/// In the encoding of wait(2), without reaping.
fn exit_status(process: &OwnedFd) -> i64 {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = process.as_raw_fd().cast_unsigned();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel fills `info`; all zero is a valid value.
    if syscall!(waitid(libc::P_PIDFD, id, info.as_mut_ptr(), options)).is_err() {
        return 0;
    }
    // SAFETY: it was zeroed, and is filled as for SIGCHLD.
    let (code, status) = unsafe {
        let info = info.assume_init();
        (info.si_code, info.si_status())
    };
    i64::from(match code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    })
}
