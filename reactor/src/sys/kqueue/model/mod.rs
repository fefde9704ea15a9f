//! A model of kqueue(2) on Linux: what tests of the backend have for a kernel.
//!
//! It stands in for `kernel.rs`, call by call. Queues and what they know are its own; the sockets and pipes that they watch
//! are Linux's, and so are the forks. A queue's number is that of an epoll instance, so that it can be duplicated, watched
//! and closed like any other; who else watches it sees it readable when the queue has an event.
//!
//! Its rules are those of FreeBSD 15's manual, and the program `kqueue-report` holds them against the manual's sentences, one
//! by one. Which kernel it is says the environment variable `FORKIO_KQUEUE_MODEL`; see [`Kernel`].
//!
//! # What it does not show
//!
//! - A descriptor that is closed and opened again is told from the first by its inode, which eventfds and other anonymous
//!   objects share.
//! - `EVFILT_SIGNAL` records only signals that are blocked.
//! - `data` and `fflags` of sockets are rough: the number of bytes to read, one error for all errors.

use std::cell::UnsafeCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::syscall;

mod queue;

use queue::Queue;

/// `struct kevent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Kevent {
    pub ident: usize,
    pub filter: Filter,
    pub flags: Flags,
    pub fflags: u32,
    pub data: i64,
    pub udata: *mut libc::c_void,
}

/// The type of a filter's number.
pub type Filter = i16;
/// The type of a set of flags.
pub type Flags = u16;

/// The names of `sys/event.h`, with FreeBSD's values.
#[allow(missing_docs)]
mod names {
    use super::{Filter, Flags};

    pub const EVFILT_READ: Filter = -1;
    pub const EVFILT_WRITE: Filter = -2;
    pub const EVFILT_PROC: Filter = -5;
    pub const EVFILT_SIGNAL: Filter = -6;
    pub const EVFILT_TIMER: Filter = -7;
    pub const EVFILT_USER: Filter = -11;

    pub const EV_ADD: Flags = 0x1;
    pub const EV_DELETE: Flags = 0x2;
    pub const EV_ENABLE: Flags = 0x4;
    pub const EV_DISABLE: Flags = 0x8;
    pub const EV_ONESHOT: Flags = 0x10;
    pub const EV_CLEAR: Flags = 0x20;
    pub const EV_RECEIPT: Flags = 0x40;
    pub const EV_DISPATCH: Flags = 0x80;
    pub const EV_ERROR: Flags = 0x4000;
    pub const EV_EOF: Flags = 0x8000;

    pub const NOTE_TRIGGER: u32 = 0x0100_0000;
    pub const NOTE_FFNOP: u32 = 0;
    pub const NOTE_FFAND: u32 = 0x4000_0000;
    pub const NOTE_FFOR: u32 = 0x8000_0000;
    pub const NOTE_FFCOPY: u32 = 0xc000_0000;
    pub const NOTE_EXIT: u32 = 0x8000_0000;
    pub const NOTE_SECONDS: u32 = 1;
    pub const NOTE_MSECONDS: u32 = 2;
    pub const NOTE_USECONDS: u32 = 4;
    pub const NOTE_NSECONDS: u32 = 8;
    pub const NOTE_ABSTIME: u32 = 16;

    pub const KQUEUE_CLOEXEC: u32 = 1;
    pub const KQUEUE_CPONFORK: u32 = 2;
}
pub use names::*;

#[allow(missing_docs)]
pub const EVFILT_AIO: Option<Filter> = None;
#[allow(missing_docs)]
pub const EVFILT_LIO: Option<Filter> = None;

#[allow(missing_docs)]
pub const TIMER_UNIT: (u32, u64) = (NOTE_NSECONDS, 1);
#[allow(missing_docs)]
pub const ABSOLUTE: Option<u32> = Some(NOTE_ABSTIME);

/// `EV_SET(2)` with the fields that registrations use.
pub fn kevent_of(ident: usize, filter: Filter, flags: Flags, udata: usize) -> Kevent {
    Kevent { ident, filter, flags, fflags: 0, data: 0, udata: udata as _ }
}

/// Which kernel the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `copying`, and without the variable: has `KQUEUE_CPONFORK`, as FreeBSD 15.
    Copying,
    /// `copying-some`: as the manual's wording has it, events of close-on-exec descriptors are not copied.
    CopyingSome,
    /// `unsafe-timers`: has `KQUEUE_CPONFORK`, and a timer that fires while its queue is copied destroys the process
    /// (CVE-2026-58083): here a queue with a timer that is copied does.
    UnsafeTimers,
    /// `einval`: has kqueuex(2) without the flag, as FreeBSD 14.
    Einval,
    /// `dropping`: has no kqueuex(2), as everybody else.
    Dropping,
    /// `no-user-events`: the same, and no `EVFILT_USER`, as NetBSD before 10 and OpenBSD.
    NoUserEvents,
}

impl Kernel {
    /// The one that the environment names.
    ///
    /// # Panics
    ///
    /// If it names none.
    pub fn this() -> Kernel {
        static KERNEL: LazyLock<Kernel> = LazyLock::new(|| {
            let name = std::env::var("FORKIO_KQUEUE_MODEL").unwrap_or_default();
            match name.as_str() {
                "" | "copying" => Kernel::Copying,
                "copying-some" => Kernel::CopyingSome,
                "unsafe-timers" => Kernel::UnsafeTimers,
                "einval" => Kernel::Einval,
                "dropping" => Kernel::Dropping,
                "no-user-events" => Kernel::NoUserEvents,
                _ => panic!("FORKIO_KQUEUE_MODEL={name}: there is no such model"),
            }
        });
        *KERNEL
    }

    /// Whether it has `KQUEUE_CPONFORK`.
    pub fn is_copying(self) -> bool {
        !matches!(self, Kernel::Einval | Kernel::Dropping | Kernel::NoUserEvents)
    }
}

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// kqueue(2) and kqueuex(2).
    Create,
    /// A change by kevent(2), which is answered with the error.
    Change,
}

/// From now on calls of this sort fail with `errno`, after the first `spare` of them; 0: they succeed again.
pub fn inject(call: Call, spare: usize, errno: i32) {
    let mut model = model();
    model.faults.retain(|fault| fault.call != call);
    if errno != 0 {
        model.faults.push(Fault { call, spare, errno });
    }
}

/// What a queue watches by descriptor, each with its token, once: for comparison with a table.
pub fn watched(queue: RawFd) -> Vec<(RawFd, u64)> {
    let mut model = model();
    let Some(id) = model.numbers.get(&queue).copied() else { return Vec::new() };
    let mut watched = model.queues.get_mut(&id).map(Queue::watched).unwrap_or_default();
    watched.dedup();
    watched
}

/// Numbers that a kernel would not need: of objects of the model's behind a queue.
pub fn own() -> BTreeSet<RawFd> {
    model().queues.values().flat_map(Queue::own).map(AsRawFd::as_raw_fd).collect()
}

/// Marks a descriptor as close-on-fork (`O_CLOFORK`): children do not have it.
pub fn set_close_on_fork(fd: RawFd) {
    model().close_on_fork.insert(fd);
}

/// A new queue, close-on-exec.
///
/// # Errors
///
/// Those of the system.
pub fn kqueue() -> io::Result<RawFd> {
    create(false)
}

/// kqueuex(2); `None`: this kernel has no such function.
pub fn kqueuex(flags: u32) -> Option<io::Result<RawFd>> {
    match Kernel::this() {
        Kernel::Dropping | Kernel::NoUserEvents => None,
        Kernel::Einval if flags & !KQUEUE_CLOEXEC != 0 => Some(Err(io::Error::from_raw_os_error(libc::EINVAL))),
        _ if flags & !(KQUEUE_CLOEXEC | KQUEUE_CPONFORK) != 0 => Some(Err(io::Error::from_raw_os_error(libc::EINVAL))),
        _ => Some(create(flags & KQUEUE_CPONFORK != 0)),
    }
}

fn create(is_copied: bool) -> io::Result<RawFd> {
    let mut model = model();
    model.fail(Call::Create)?;
    let (number, queue) = Queue::new(is_copied)?;
    let id = model.next;
    model.next += 1;
    model.numbers.insert(number, id);
    model.queues.insert(id, queue);
    Ok(number)
}

/// kevent(2).
///
/// # Errors
///
/// Those of the system.
///
/// # Safety
///
/// There are `nchanges` changes at `changes`, and room for `nevents` events at `events`.
pub unsafe fn kevent(
    queue: RawFd,
    changes: *const Kevent,
    nchanges: usize,
    events: *mut Kevent,
    nevents: usize,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let put = |at: usize, event: Kevent| {
        // SAFETY: callers pass no more than `nevents` events.
        unsafe { events.add(at).write(event) }
    };
    let bad = || io::Error::from_raw_os_error(libc::EBADF);
    let deadline = timeout.map(|timeout| Instant::now().checked_add(timeout));
    let mut model = model();
    let changes = match nchanges {
        0 => Vec::new(),
        // SAFETY: the caller's promise.
        _ => unsafe { std::slice::from_raw_parts(changes, nchanges) }.to_vec(),
    };
    let id = model.numbers.get(&queue).copied().filter(|_| is_queue(queue)).ok_or_else(bad)?;
    let mut answers = 0;
    for change in changes {
        let result = model.change(id, &change);
        let errno = result.as_ref().map_or_else(|error| error.raw_os_error().unwrap_or(libc::EINVAL), |()| 0);
        if errno != 0 || change.flags & EV_RECEIPT != 0 {
            if answers < nevents {
                put(answers, Kevent { flags: EV_ERROR, data: errno.into(), ..change });
                answers += 1;
            } else {
                result?;
                // "If this flag is encountered and there is no remaining space in eventlist to hold the EV_ERROR event, then
                // subsequent changes will not get processed."
                break;
            }
        }
    }
    if answers > 0 || nevents == 0 {
        return Ok(answers);
    }
    loop {
        let events: Vec<Kevent> = model.queues.get_mut(&id).ok_or_else(bad)?.retrieve(nevents);
        if !events.is_empty() {
            let count = events.len();
            events.into_iter().enumerate().for_each(|(at, event)| put(at, event));
            return Ok(count);
        }
        drop(model);
        // `None`: no limit, or one that no clock will reach.
        let left = deadline.flatten().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(0);
        }
        let left = left.map(|left| libc::timespec {
            tv_sec: left.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut poll = libc::pollfd { fd: queue, events: libc::POLLIN, revents: 0 };
        let left = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: one structure; the mask stays as it is.
        syscall!(ppoll(&mut poll, 1, left, std::ptr::null()))?;
        model = self::model();
        if model.numbers.get(&queue) != Some(&id) {
            return Err(bad());
        }
    }
}

/// close(2) of a queue.
pub fn close(queue: RawFd) {
    let mut model = model();
    // SAFETY: the caller owns the number.
    unsafe { libc::close(queue) };
    if let Some(id) = model.numbers.remove(&queue)
        && !model.numbers.values().any(|other| *other == id)
    {
        model.queues.remove(&id);
    }
}

/// dup3(2) of a queue, close-on-exec.
///
/// # Errors
///
/// Those of the system.
pub fn replace(from: RawFd, onto: RawFd) -> Result<(), i32> {
    let mut model = model();
    crate::sys::descriptor::replace(from, onto)?;
    if let Some(id) = model.numbers.get(&from).copied() {
        model.numbers.insert(onto, id);
        if let Some(queue) = model.queues.get_mut(&id) {
            queue.number = onto;
        }
    }
    Ok(())
}

/// Whether the model is at work: what a kernel would do in its own memory.
pub fn is_working() -> bool {
    WORKING.load(Ordering::Relaxed)
}

static WORKING: AtomicBool = AtomicBool::new(false);

/// The model, locked.
struct Guard(MutexGuard<'static, Model>);

impl Drop for Guard {
    fn drop(&mut self) {
        WORKING.store(false, Ordering::Relaxed);
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

#[derive(Debug)]
struct Model {
    /// Which queue a number stands for.
    numbers: BTreeMap<RawFd, u64>,
    queues: BTreeMap<u64, Queue>,
    next: u64,
    faults: Vec<Fault>,
    close_on_fork: BTreeSet<RawFd>,
}

#[derive(Debug)]
struct Fault {
    call: Call,
    spare: usize,
    errno: i32,
}

impl Model {
    fn fail(&mut self, call: Call) -> io::Result<()> {
        match self.faults.iter_mut().find(|fault| fault.call == call) {
            Some(fault) if fault.spare == 0 => Err(io::Error::from_raw_os_error(fault.errno)),
            Some(fault) => {
                fault.spare -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, id: u64, change: &Kevent) -> io::Result<()> {
        self.fail(Call::Change)?;
        let queue = self.queues.get_mut(&id).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let result = queue.change(change, self.numbers.get(&(change.ident as RawFd)).copied());
        queue.show();
        result
    }
}

/// Whether the number still stands for an epoll instance, which has no file type.
fn is_queue(fd: RawFd) -> bool {
    file_type(fd) == Some(0)
}

fn file_type(fd: RawFd) -> Option<libc::mode_t> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills `stat`.
    syscall!(fstat(fd, stat.as_mut_ptr())).ok()?;
    // SAFETY: it has.
    Some(unsafe { stat.assume_init() }.st_mode & libc::S_IFMT)
}

fn is_open(fd: RawFd) -> bool {
    syscall!(fcntl(fd, libc::F_GETFD)).is_ok()
}

static MODEL: Mutex<Model> = Mutex::new(Model {
    numbers: BTreeMap::new(),
    queues: BTreeMap::new(),
    next: 0,
    faults: Vec::new(),
    close_on_fork: BTreeSet::new(),
});

/// Before `main`, so that the kernel's part of a fork comes after everybody's handlers in the parent, and before them in
/// the child.
#[used]
#[unsafe(link_section = ".init_array")]
static SEE_FORKS: extern "C" fn() = {
    extern "C" fn see_forks() {
        // SAFETY: the handlers may be called by any fork.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
    }
    see_forks
};

fn model() -> Guard {
    let guard = MODEL.lock().unwrap_or_else(PoisonError::into_inner);
    WORKING.store(true, Ordering::Relaxed);
    Guard(guard)
}

/// The lock between the beginning and the end of a fork.
struct Held(UnsafeCell<Option<Guard>>);

// SAFETY: only touched by the thread that holds the lock.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

unsafe extern "C" fn before_fork() {
    let mut model = model();
    for queue in model.queues.values_mut() {
        queue.settle();
    }
    // SAFETY: this thread has the lock.
    unsafe { *HELD.0.get() = Some(model) };
}

unsafe extern "C" fn after_fork() {
    // SAFETY: this thread has the lock, from before the fork.
    drop(unsafe { (*HELD.0.get()).take() });
}

/// The kernel's part of a fork: copies the queues that ask for it, and drops the others.
unsafe extern "C" fn in_child() {
    // SAFETY: this thread has the lock, from before the fork.
    let Some(mut guard) = (unsafe { (*HELD.0.get()).take() }) else { return };
    let model = &mut *guard;
    let mut unused = std::mem::take(&mut model.close_on_fork);
    for fd in &unused {
        // SAFETY: that is what it was marked for.
        unsafe { libc::close(*fd) };
    }
    let dropped: BTreeSet<u64> = model.queues.iter().filter(|(_, queue)| !queue.is_copied).map(|(id, _)| *id).collect();
    model.numbers.retain(|number, id| {
        if dropped.contains(id) {
            // SAFETY: in a child the number is unused.
            unsafe { libc::close(*number) };
            unused.insert(*number);
        }
        !dropped.contains(id)
    });
    model.queues.retain(|id, _| !dropped.contains(id));
    queue::leave_unused(unused);
    for (number, id) in &model.numbers {
        if let Some(queue) = model.queues.get_mut(id) {
            queue.number = *number;
        }
    }
    for queue in model.queues.values_mut() {
        queue.copy();
    }
    for (number, id) in &model.numbers {
        match model.queues.get(id) {
            Some(queue) if queue.number != *number => {
                crate::sys::descriptor::replace(queue.number, *number).expect("duplicating a copied queue");
            }
            _ => {}
        }
    }
    for queue in model.queues.values_mut() {
        queue.copy_knotes(&dropped);
    }
}
