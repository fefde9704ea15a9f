//! Copy on fork: the child gets a private copy of every selector.
//!
//! The model is FreeBSD's `KQUEUE_CPONFORK` (kqueue(2), commit b11289f87123): the child has a deep copy of the kernel
//! queue at the same descriptor number, each registration copied, and what was active active in the copy. On top of it
//! every registration has a [`ForkPolicy`]: most are inherited, some the child must not have.
//!
//! # The protocol: whatever can fail, fails before the fork
//!
//! 1. [`prepare`], in the parent: keeps registrations still, and makes every kernel object that the child will need. An
//!    error here has changed nothing, and no process was made.
//! 2. `fork(2)`.
//! 3. [`Prepared::commit`], first thing in the child: moves the prepared objects over the inherited numbers. It
//!    allocates nothing, takes no lock and does not panic; it is async-signal-safe.
//!    [`Prepared::abort`] in the parent, also when the fork failed: closes the prepared objects.
//!
//! [`fork`] does all three. Should one of the few system calls that only the child can make fail, the selector is
//! *poisoned*: its next [`Poll::poll`](crate::Poll::poll) returns that error. It never hangs, and never polls a
//! half-armed queue.
//!
//! # What the child sees
//!
//! - Each live selector, at its own number, with its own epoll instance. What a process registers, deregisters or
//!   wakes is not felt by another one.
//! - A registration whose policy is [`NoFork`](ForkPolicy::NoFork) is not there: deregistering it succeeds,
//!   reregistering is `NotFound`, registering it anew works.
//! - A [muted](mute) registration is armed.
//!
//! What nobody registered is none of this module's business: `fork(2)` duplicates the descriptor, and both processes
//! hold it.
//!
//! # Examples
//!
//! ```no_run
//! use forkio_reactor::fork::{ForkResult, fork};
//! use forkio_reactor::{Events, Poll, Token, Waker};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(4);
//! let waker = Waker::new(poll.registry(), Token(0))?;
//!
//! // SAFETY: this process has one thread.
//! match unsafe { fork()? } {
//!     ForkResult::Parent { child } => {
//!         waker.wake()?; // The child does not notice.
//!         poll.poll(&mut events, None)?;
//!         println!("{child} is on its own");
//!     }
//!     ForkResult::Child => {
//!         poll.poll(&mut events, Some(Duration::from_millis(10)))?;
//!         assert!(events.is_empty());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::selector::Shared;
use crate::sys::descriptor::{self, Identity};
use crate::sys::process;
use crate::{Interest, Token, sync, sys};

pub(crate) mod gate;
mod policy;
pub(crate) mod registered;
pub(crate) mod table;

pub use policy::{ForkPolicy, SourceKind, default_policy, set_default_policy};
pub use process::SignalsBlocked;
use table::About;

/// What copy on fork asks of a kernel queue.
pub(crate) trait CopyOnFork: Sized {
    /// Parent, before the fork: an empty queue for the child.
    fn new_copy() -> io::Result<Self>;

    /// Parent, before the fork: the child's queue is to have this registration, armed.
    fn copy(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()>;

    /// Parent, before the fork: whether the queue has a registration for what is open under this number now.
    fn holds(&self, fd: RawFd) -> io::Result<bool>;

    /// Child, with the queue at its final number: adds what could not be added before. Async-signal-safe; the error is
    /// an errno.
    fn add_in_child(&self, fd: RawFd, token: Token, interest: Interest) -> Result<(), i32>;
}

/// How many forks lie between this process and the one that its program started as.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Whether this process has a parent or a child that shares its descriptors.
static HAS_FORKED: AtomicBool = AtomicBool::new(false);

/// The thread that is between prepare and the end of a fork, as the address of its `MARK`; 0: none.
static FORKING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MARK: u8 = const { 0 };
}

/// All that forks look after. The lock is held from prepare to the end of the fork, so the child finds it in the hands of
/// the one thread it has.
static WORLD: Mutex<World> = Mutex::new(World { selectors: Vec::new(), pairs: BTreeMap::new(), plan: Plan::new() });

#[derive(Debug)]
struct World {
    selectors: Vec<Live>,
    /// The socket pairs made in this process, each end with the other.
    pairs: BTreeMap<RawFd, RawFd>,
    /// Kept from fork to fork, so that commit frees nothing.
    plan: Plan,
}

/// A selector that exists: it leaves the list, under the lock, before it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Live(*const Shared);

// SAFETY: `Shared` is `Sync`, and the pointer is valid wherever the list is locked.
unsafe impl Send for Live {}

impl Live {
    /// Only to be called while the lock is held.
    fn get(&self) -> &Shared {
        // SAFETY: the lock is held, so the selector has not left the list and is not freed.
        unsafe { &*self.0 }
    }
}

/// What commit will do, in this order.
#[derive(Debug)]
struct Plan {
    /// The child's queues, each with the selector whose number it takes.
    queues: Vec<(Live, sys::Queue)>,
    /// Objects to put in place of what stands at a number.
    replacements: Vec<Replacement>,
    /// Wakers: if a wake is pending when the process forks, it is to be pending in the child.
    wakers: Vec<(Live, RawFd)>,
    /// Registrations of replaced numbers: an epoll knows a number only together with the object behind it.
    additions: Vec<Addition>,
    /// Registrations that the parent has muted.
    muted: Vec<(Live, RawFd)>,
    /// Closed at the end, in both processes.
    spares: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Replacement {
    /// Whose poll fails if this does.
    selector: Live,
    from: RawFd,
    onto: RawFd,
}

#[derive(Debug)]
struct Addition {
    selector: Live,
    fd: RawFd,
    token: Token,
    interest: Interest,
}

impl Plan {
    const fn new() -> Plan {
        Plan {
            queues: Vec::new(),
            replacements: Vec::new(),
            wakers: Vec::new(),
            additions: Vec::new(),
            muted: Vec::new(),
            spares: Vec::new(),
        }
    }

    /// Closes what was prepared. Keeps the vectors' memory.
    fn clear(&mut self) {
        self.queues.clear();
        self.replacements.clear();
        self.wakers.clear();
        self.additions.clear();
        self.muted.clear();
        self.spares.clear();
    }
}

fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new selector takes part in forks from now on.
pub(crate) fn adopt(selector: &Shared) {
    world().selectors.push(Live(ptr::from_ref(selector)));
}

/// A selector is about to be freed.
pub(crate) fn disown(selector: &Shared) {
    let gone = Live(ptr::from_ref(selector));
    world().selectors.retain(|live| *live != gone);
}

/// A source that is registered with selector `id` is about to be closed.
pub(crate) fn closing(id: u32, fd: RawFd) {
    if !HAS_FORKED.load(Ordering::Relaxed) {
        // The kernel forgets the registration together with the descriptor; the table is told by a counter.
        table::closed(fd);
        return;
    }
    // A relative may hold a duplicate, and then the kernel does not forget.
    let world = world();
    if let Some(live) = world.selectors.iter().find(|live| live.get().id == id) {
        let shared = live.get();
        // Not registered any more is as good.
        let _ = shared.registered.deregister(&shared.queue, fd);
    }
}

#[cfg(feature = "net")]
pub(crate) fn remember_pair(a: RawFd, b: RawFd) {
    let mut world = world();
    world.pairs.insert(a, b);
    world.pairs.insert(b, a);
}

/// One end is closed or given away: what is left is no pair any more.
pub(crate) fn forget_pair(fd: RawFd) {
    let mut world = world();
    if let Some(peer) = world.pairs.remove(&fd) {
        world.pairs.remove(&peer);
    }
}

fn is_forking_here() -> bool {
    FORKING.load(Ordering::Relaxed) == this_thread()
}

fn this_thread() -> usize {
    MARK.with(|mark| ptr::from_ref(mark).addr())
}

/// How many forks, made through this crate, lie between this process and the one that its program started as: 0 there,
/// 1 in its children, 2 in theirs.
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// A registration, as [`registrations`] lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registration {
    /// The selector's descriptor.
    pub selector: RawFd,
    /// The registered descriptor.
    pub fd: RawFd,
    /// The token it was registered with.
    pub token: Token,
    /// The interest it was registered with.
    pub interest: Interest,
    /// What it is; `None` for a bare descriptor that no fork has had to look at yet.
    pub kind: Option<SourceKind>,
    /// The policy that the next fork follows.
    pub policy: ForkPolicy,
    /// Whether [`mute`] holds it back in this process.
    pub muted: bool,
}

/// Every registration of this process, in the order of selectors and descriptors.
pub fn registrations() -> Vec<Registration> {
    let world = world();
    let mut list = Vec::new();
    for live in &world.selectors {
        let shared = live.get();
        for (fd, entry) in shared.registered.table.iter() {
            let Some((token, about)) = entry.get() else { continue };
            if about.is_live(fd, generation()) {
                list.push(Registration {
                    selector: shared.queue.as_fd().as_raw_fd(),
                    fd,
                    token,
                    interest: about.interest(),
                    kind: about.kind(),
                    policy: about.policy(),
                    muted: about.is_muted(),
                });
            }
        }
    }
    list
}

/// How many selectors are alive in this process.
pub fn selectors() -> usize {
    world().selectors.len()
}

/// The number of the selector made last among those alive, counted from 1 over the whole process; 0: there is none.
///
/// A cache of what [`registrations`] says about selectors as they were made is good as long as this does not change.
pub fn newest_selector() -> u32 {
    world().selectors.last().map_or(0, |live| live.get().id)
}

/// Tags the registration of `source`, an I/O object or a descriptor number, in whatever selector it is.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if it is registered nowhere.
///
/// # Examples
///
#[cfg_attr(feature = "net", doc = "```")]
#[cfg_attr(not(feature = "net"), doc = "```ignore")]
/// use forkio_reactor::fork::{ForkPolicy, set_policy};
/// use forkio_reactor::net::UdpSocket;
/// use forkio_reactor::{Interest, Poll, Token};
///
/// # fn main() -> std::io::Result<()> {
/// let poll = Poll::new()?;
/// let mut socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// poll.registry().register(&mut socket, Token(1), Interest::READABLE)?;
/// set_policy(&socket, ForkPolicy::NoFork)?;
/// # Ok(())
/// # }
/// ```
pub fn set_policy(source: &impl AsRawFd, policy: ForkPolicy) -> io::Result<()> {
    change(source.as_raw_fd(), |_, _, about| Ok(about.with_policy(policy)))
}

/// The policy that the next fork follows for `source`, an I/O object or a descriptor number; `None` if it is registered
/// nowhere.
pub fn policy(source: &impl AsRawFd) -> Option<ForkPolicy> {
    let fd = source.as_raw_fd();
    world().selectors.iter().find_map(|live| {
        let (_, about) = live.get().registered.table.get(fd)?.get()?;
        about.is_live(fd, generation()).then(|| about.policy())
    })
}

/// Holds back the events of `source`, an I/O object or a descriptor number, in this process: it stays registered, and
/// children get it armed. The parent of a prefork server does this with its listeners, so that connections do not wake
/// it.
///
/// Muting twice is muting once.
///
/// # Errors
///
/// [`NotFound`](io::ErrorKind::NotFound) if it is registered nowhere; otherwise those of `epoll_ctl(2)`.
pub fn mute(source: &impl AsRawFd) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |shared, _, about| {
        if !about.is_muted() {
            shared.queue.delete(fd)?;
        }
        Ok(about.with_muted(true))
    })
}

/// Ends a [`mute`]. A source that is ready gives an event.
///
/// # Errors
///
/// As [`mute`].
pub fn unmute(source: &impl AsRawFd) -> io::Result<()> {
    let fd = source.as_raw_fd();
    change(fd, |shared, token, about| {
        if about.is_muted() {
            shared.queue.add(fd, token, about.interest())?;
        }
        Ok(about.with_muted(false))
    })
}

fn change(fd: RawFd, change: impl Fn(&Shared, Token, About) -> io::Result<About>) -> io::Result<()> {
    let mut found = false;
    for live in &world().selectors {
        let shared = live.get();
        found |= shared.registered.change(fd, |token, about| change(shared, token, about))?;
    }
    if found {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("descriptor {fd} is not registered with any `Registry`")))
    }
}

/// Whether `fd` is an end, or a duplicate of an end, of a stream socket pair made in this process: what
/// [`ForkPolicy::Renew`] can renew beside wakers.
pub fn is_pair_end(fd: RawFd) -> bool {
    descriptor::is_unix_stream(fd)
        && descriptor::identity(fd).is_ok_and(|identity| find_pair(&world().pairs, identity).is_some())
}

/// The pair one end of which is the socket `identity`: that end first.
fn find_pair(pairs: &BTreeMap<RawFd, RawFd>, identity: Identity) -> Option<(RawFd, RawFd)> {
    let mut ends = pairs.iter();
    ends.find(|(end, _)| descriptor::identity(**end).is_ok_and(|found| found == identity)).map(|(&a, &b)| (a, b))
}

/// How many bytes wait to be read at `source`, as `ioctl(FIONREAD)` counts them.
///
/// # Errors
///
/// Those of `ioctl(2)`.
pub fn pending_bytes(source: &impl AsRawFd) -> io::Result<usize> {
    descriptor::pending_bytes(source.as_raw_fd())
}

/// Whether the calling thread is certainly the only one that the process has, and has ever had. `false` says nothing:
/// only glibc, since 2.32, tells (`__libc_single_threaded`), and only once there has been a selector.
pub fn is_single_threaded() -> bool {
    process::is_single_threaded()
}

/// Blocks all signals of the calling thread until the value is dropped.
///
/// [`fork`] does so by itself. Who calls [`prepare`] should do so before it: a handler that runs in the child before
/// commit, and writes to a self-pipe, would write to the parent's.
pub fn block_signals() -> SignalsBlocked {
    SignalsBlocked::new()
}

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkResult {
    /// The process that called [`fork`].
    Parent {
        /// The child's process id.
        child: i32,
    },
    /// The new process.
    Child,
}

/// Why [`fork`] made no process.
#[derive(Debug)]
#[non_exhaustive]
pub enum ForkError {
    /// Something that the child needs could not be made.
    Prepare(PrepareError),
    /// `fork(2)` failed.
    Fork(io::Error),
}

impl fmt::Display for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForkError::Prepare(error) => error.fmt(f),
            ForkError::Fork(error) => write!(f, "fork(2) failed: {error}"),
        }
    }
}

impl std::error::Error for ForkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ForkError::Prepare(error) => Some(error),
            ForkError::Fork(error) => Some(error),
        }
    }
}

/// Forks: [`prepare`], `fork(2)`, [`commit`](Prepared::commit) or [`abort`](Prepared::abort), with signals blocked.
///
/// # Errors
///
/// [`ForkError`]. Nothing has changed then.
///
/// # Safety
///
/// If the process has other threads, the child has only this one, and locks that others held stay locked for ever: it
/// may then only do what signal-safety(7) allows.
pub unsafe fn fork() -> Result<ForkResult, ForkError> {
    let _blocked = block_signals();
    let prepared = prepare().map_err(ForkError::Prepare)?;
    // SAFETY: the caller's promise is the same.
    match unsafe { process::fork() } {
        Ok(0) => {
            // SAFETY: this is the child, and nothing has happened in it yet.
            unsafe { prepared.commit() };
            Ok(ForkResult::Child)
        }
        Ok(child) => {
            prepared.abort();
            Ok(ForkResult::Parent { child })
        }
        Err(error) => {
            prepared.abort();
            Err(ForkError::Fork(error))
        }
    }
}

/// What a failed [`prepare`] was making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrepareObject {
    /// The child's kernel queue for the selector at this descriptor.
    Queue(RawFd),
    /// The child's copy of the registration of this descriptor.
    Registration(RawFd),
    /// A fresh kernel object for the waker at this descriptor.
    Waker(RawFd),
    /// A fresh socket pair for the one that this descriptor is an end of.
    Pair(RawFd),
    /// The dead endpoint for the severed descriptor.
    DeadEndpoint(RawFd),
    /// Nothing: this thread is forking already.
    NestedFork,
}

/// Why a fork could not be prepared. Nothing has changed.
#[derive(Debug)]
pub struct PrepareError {
    object: PrepareObject,
    source: io::Error,
}

impl PrepareError {
    /// What was being made.
    pub fn object(&self) -> PrepareObject {
        self.object
    }

    /// The operating system's error.
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot prepare the fork: ")?;
        match self.object {
            PrepareObject::Queue(fd) => write!(f, "making the child's queue for the selector at descriptor {fd}")?,
            PrepareObject::Registration(fd) => write!(f, "copying the registration of descriptor {fd}")?,
            PrepareObject::Waker(fd) => write!(f, "renewing the waker at descriptor {fd}")?,
            PrepareObject::Pair(fd) => write!(f, "renewing the socket pair of descriptor {fd}")?,
            PrepareObject::DeadEndpoint(fd) => write!(f, "making a dead endpoint to sever descriptor {fd}")?,
            PrepareObject::NestedFork => f.write_str("this thread is forking already")?,
        }
        write!(f, ": {}", self.source)?;
        match descriptor::limit_behind(&self.source) {
            Some(limit) => write!(f, "; {limit}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A fork that is prepared: to be [committed](Prepared::commit) in the child and [aborted](Prepared::abort) in the
/// parent. Dropping it aborts.
///
/// Until then other threads' registrations wait, and the thread that prepared may not create, drop, register with or
/// deregister from a selector.
#[derive(Debug)]
#[must_use = "a fork that is neither committed nor aborted keeps registrations waiting"]
pub struct Prepared {
    world: MutexGuard<'static, World>,
}

/// Prepares a fork: makes every kernel object that the child will need.
///
/// # Errors
///
/// [`PrepareError`], with everything as it was before.
pub fn prepare() -> Result<Prepared, PrepareError> {
    if is_forking_here() {
        let source = io::Error::other("end the first fork before the next one");
        return Err(PrepareError { object: PrepareObject::NestedFork, source });
    }
    let mut world = world();
    FORKING.store(this_thread(), Ordering::Relaxed);
    HAS_FORKED.store(true, Ordering::Relaxed);
    for live in &world.selectors {
        live.get().registered.gate.shut();
    }
    let World { selectors, pairs, plan } = &mut *world;
    let result = Preparation::new(selectors, pairs, plan).run();
    // Dropped on an error, which aborts.
    let prepared = Prepared { world };
    result.map(|()| prepared)
}

/// The work of [`prepare`].
struct Preparation<'a> {
    selectors: &'a [Live],
    plan: &'a mut Plan,
    pairs: &'a BTreeMap<RawFd, RawFd>,
    /// The dead endpoint, once something is to be severed.
    dead: Option<RawFd>,
    renewed: Vec<RenewedPair>,
    /// Registrations of sockets that may belong to a pair which is renewed on behalf of another one.
    deferred: Vec<(Live, RawFd, Token, About)>,
}

/// The ends of a pair, with the fresh sockets that take their place.
struct RenewedPair {
    ends: [(RawFd, Identity, RawFd); 2],
}

impl<'a> Preparation<'a> {
    fn new(selectors: &'a [Live], pairs: &'a BTreeMap<RawFd, RawFd>, plan: &'a mut Plan) -> Preparation<'a> {
        Preparation { selectors, plan, pairs, dead: None, renewed: Vec::new(), deferred: Vec::new() }
    }

    fn run(mut self) -> Result<(), PrepareError> {
        for live in self.selectors {
            let shared = live.get();
            let number = shared.queue.as_fd().as_raw_fd();
            let copy = sys::Queue::new_copy().map_err(failed(PrepareObject::Queue(number)))?;
            for (fd, entry) in shared.registered.table.iter() {
                let Some((token, about)) = entry.get() else { continue };
                match self.look_closer(shared, fd, about)? {
                    Some(closer) if closer != about => {
                        entry.set(token, closer);
                        self.plan(*live, &copy, fd, token, closer)?;
                    }
                    Some(about) => self.plan(*live, &copy, fd, token, about)?,
                    None if about.is_dropped(generation()) => {}
                    None => entry.clear(),
                }
            }
            self.plan.queues.push((*live, copy));
        }
        self.plan_deferred()
    }

    /// Brings what the table says about a registration up to date; `None` if this process does not have it.
    fn look_closer(&self, shared: &Shared, fd: RawFd, about: About) -> Result<Option<About>, PrepareError> {
        if !about.is_live(fd, generation()) {
            return Ok(None);
        }
        let mut about = about;
        if about.is_bare() {
            let failed = failed(PrepareObject::Registration(fd));
            if !about.is_muted() && !shared.queue.holds(fd).map_err(failed)? {
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
        copy: &sys::Queue,
        fd: RawFd,
        token: Token,
        about: About,
    ) -> Result<(), PrepareError> {
        let kind = about.kind().unwrap_or(SourceKind::Other);
        let interest = about.interest();
        if about.is_muted() {
            self.plan.muted.push((live, fd));
        }
        match about.policy() {
            _ if kind == SourceKind::Waker => self.renew_waker(live, fd, token, interest),
            // Deferred although its own policy may be another: its peer, or a duplicate, may be renewed.
            _ if kind == SourceKind::Pair => {
                self.deferred.push((live, fd, token, about));
                Ok(())
            }
            ForkPolicy::Inherit if kind == SourceKind::Signal || self.is_selector(fd, kind) => {
                self.plan.additions.push(Addition { selector: live, fd, token, interest });
                Ok(())
            }
            ForkPolicy::Inherit => inherit(copy, fd, token, interest),
            ForkPolicy::NoFork => Ok(()),
            ForkPolicy::Sever => self.sever(live, fd, token, interest),
            ForkPolicy::Renew => {
                self.deferred.push((live, fd, token, about));
                Ok(())
            }
        }
    }

    /// Whether a registered queue is one of those that the fork copies: in the child the number stands for the copy.
    /// (A signalfd is added there for another reason: it watches the signals of the process that adds it.)
    fn is_selector(&self, fd: RawFd, kind: SourceKind) -> bool {
        kind == SourceKind::Queue && self.selectors.iter().any(|live| live.get().queue.as_fd().as_raw_fd() == fd)
    }

    fn renew_waker(&mut self, live: Live, fd: RawFd, token: Token, interest: Interest) -> Result<(), PrepareError> {
        let fresh = sys::WakeSignal::new().map_err(failed(PrepareObject::Waker(fd)))?.into_fd();
        self.replace(live, fresh.as_raw_fd(), fd);
        self.plan.spares.push(fresh);
        self.plan.wakers.push((live, fd));
        self.plan.additions.push(Addition { selector: live, fd, token, interest });
        Ok(())
    }

    fn sever(&mut self, live: Live, fd: RawFd, token: Token, interest: Interest) -> Result<(), PrepareError> {
        let dead = match self.dead {
            Some(dead) => dead,
            None => {
                let fresh = descriptor::dead_endpoint().map_err(failed(PrepareObject::DeadEndpoint(fd)))?;
                let dead = fresh.as_raw_fd();
                self.plan.spares.push(fresh);
                *self.dead.insert(dead)
            }
        };
        self.replace(live, dead, fd);
        self.plan.additions.push(Addition { selector: live, fd, token, interest });
        Ok(())
    }

    fn replace(&mut self, selector: Live, from: RawFd, onto: RawFd) {
        self.plan.replacements.push(Replacement { selector, from, onto });
    }

    fn plan_deferred(&mut self) -> Result<(), PrepareError> {
        let deferred = std::mem::take(&mut self.deferred);
        for (live, fd, _, about) in &deferred {
            if about.policy() == ForkPolicy::Renew {
                self.renew_pair(*live, *fd)?;
            }
        }
        for (live, fd, token, about) in deferred {
            let (policy, interest) = (about.policy(), about.interest());
            let planned = self.plan.queues.iter().position(|(queue, _)| *queue == live);
            if let Some(fresh) = self.fresh_end(fd, policy)? {
                self.replace(live, fresh, fd);
                self.plan.additions.push(Addition { selector: live, fd, token, interest });
            } else if policy == ForkPolicy::Sever {
                self.sever(live, fd, token, interest)?;
            } else if policy == ForkPolicy::Inherit
                && let Some(index) = planned
            {
                inherit(&self.plan.queues[index].1, fd, token, interest)?;
            }
        }
        Ok(())
    }

    /// Makes a fresh pair for the one that `fd` is, or duplicates, an end of; once.
    fn renew_pair(&mut self, live: Live, fd: RawFd) -> Result<(), PrepareError> {
        let object = PrepareObject::Pair(fd);
        let identity = descriptor::identity(fd).map_err(failed(object))?;
        if self.renewed.iter().any(|pair| pair.ends.iter().any(|end| end.1 == identity)) {
            return Ok(());
        }
        let pair = descriptor::is_unix_stream(fd).then(|| find_pair(self.pairs, identity)).flatten();
        let Some((end, peer)) = pair else {
            let source = io::Error::new(
                io::ErrorKind::Unsupported,
                "only wakers and stream socket pairs made in this process can be renewed: give it another policy",
            );
            return Err(PrepareError { object, source });
        };
        let fresh = descriptor::stream_pair().map_err(failed(object))?;
        descriptor::copy_pending(end, &fresh[1]).map_err(failed(object))?;
        descriptor::copy_pending(peer, &fresh[0]).map_err(failed(object))?;
        let peer_identity = descriptor::identity(peer).map_err(failed(object))?;
        let [first, second] = [fresh[0].as_raw_fd(), fresh[1].as_raw_fd()];
        self.replace(live, first, end);
        self.replace(live, second, peer);
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

/// Copies a registration to the child's queue.
fn inherit(copy: &sys::Queue, fd: RawFd, token: Token, interest: Interest) -> Result<(), PrepareError> {
    match copy.copy(fd, token, interest) {
        // Closed by number, behind its owner's back: the kernel has forgotten it too.
        Err(error) if descriptor::is_closed(&error) => Ok(()),
        result => result.map_err(failed(PrepareObject::Registration(fd))),
    }
}

fn failed(object: PrepareObject) -> impl Fn(io::Error) -> PrepareError + Copy {
    move |source| PrepareError { object, source }
}

impl Prepared {
    /// Ends the fork in the child: this process now has selectors of its own.
    ///
    /// A system call that fails here poisons the selector it was for.
    ///
    /// # Safety
    ///
    /// To be called in the child of a `fork(2)` that the thread made after [`prepare`], before anything else uses a
    /// descriptor or a selector there, with signals [blocked](block_signals).
    pub unsafe fn commit(mut self) {
        let World { selectors, plan, .. } = &mut *self.world;
        for (live, copy) in &plan.queues {
            let shared = live.get();
            let number = shared.queue.as_fd().as_raw_fd();
            if let Err(errno) = descriptor::replace(copy.as_fd().as_raw_fd(), number) {
                shared.registered.poison(errno);
            }
        }
        for replacement in &plan.replacements {
            if let Err(errno) = descriptor::replace(replacement.from, replacement.onto) {
                replacement.selector.get().registered.poison(errno);
            }
        }
        for (live, fd) in &plan.wakers {
            let shared = live.get();
            // The flag as it was at the fork: who raised it may be a thread that does not exist here.
            if shared.wakers.find(*fd).is_some_and(|slot| slot.flag.is_raised())
                && let Err(errno) = sys::WakeSignal::send_at(*fd)
            {
                shared.registered.poison(errno);
            }
        }
        for Addition { selector, fd, token, interest } in &plan.additions {
            let shared = selector.get();
            if let Err(errno) = shared.queue.add_in_child(*fd, *token, *interest) {
                shared.registered.poison(errno);
            }
        }
        for (live, fd) in &plan.muted {
            let entry = live.get().registered.table.get(*fd);
            if let Some((entry, (token, about))) = entry.and_then(|entry| Some((entry, entry.get()?))) {
                entry.set(token, about.with_muted(false));
            }
        }
        GENERATION.fetch_add(1, Ordering::Relaxed);
        plan.clear();
        for live in selectors {
            live.get().registered.gate.reset();
        }
        FORKING.store(0, Ordering::Relaxed);
        // The rest of `Drop` is for the parent; what it would do is done.
    }

    /// Ends the fork in the parent, whether a child was made or not.
    pub fn abort(self) {
        drop(self);
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // After a commit there is nothing to close, and opening an open gate is opening it once.
        let World { selectors, plan, .. } = &mut *self.world;
        plan.clear();
        for live in selectors {
            live.get().registered.gate.open();
        }
        FORKING.store(0, Ordering::Relaxed);
    }
}
