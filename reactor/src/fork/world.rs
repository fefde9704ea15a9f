//! All that forks look after, in one place and under one lock.

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::prepare::Plan;
use crate::schedule::Schedule;
use crate::selector::Shared;
use crate::sys::descriptor::{self, Identity};

/// Everything static that a commit writes to, on one page: a page that a child writes to is one that it has to copy, which
/// takes longer than a system call.
#[repr(align(512))]
struct OnOnePage {
    generation: AtomicU32,
    owner: AtomicU32,
    forking: AtomicUsize,
    hold: Mutex<()>,
    world: Mutex<World>,
}

const _: () = assert!(size_of::<OnOnePage>() == align_of::<OnOnePage>());

static STATE: OnOnePage = OnOnePage {
    generation: AtomicU32::new(0),
    owner: AtomicU32::new(0),
    forking: AtomicUsize::new(0),
    hold: Mutex::new(()),
    world: Mutex::new(World {
        selectors: Vec::new(),
        pairs: BTreeMap::new(),
        private_pairs: Vec::new(),
        timers: BTreeMap::new(),
        plan: Plan::new(),
    }),
};

/// How many forks lie between this process and the one that its program started as.
pub(super) static GENERATION: &AtomicU32 = &STATE.generation;

/// The process that the selectors belong to; 0: there has never been one.
pub(super) static OWNER: &AtomicU32 = &STATE.owner;

/// The thread that is between prepare and the end of a fork, as the address of its `MARK`; 0: none.
pub(super) static FORKING: &AtomicUsize = &STATE.forking;

/// All that forks look after. The lock is held from prepare to the end of the fork, so the child finds it in the hands of
/// the one thread it has.
static WORLD: &Mutex<World> = &STATE.world;

/// Held by whoever keeps forks waiting, and by a fork from prepare to its end.
pub(super) static HOLD: &Mutex<()> = &STATE.hold;

thread_local! {
    static MARK: u8 = const { 0 };
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) selectors: Vec<Live>,
    /// The socket pairs made in this process, each end with the other; [`PARTED`]: it has none any more.
    pub(super) pairs: BTreeMap<RawFd, RawFd>,
    /// The timers of this process, registered or not.
    pub(super) timers: BTreeMap<RawFd, Arc<Schedule>>,
    /// One end of each pair that every process is to have for itself, registered or not.
    pub(super) private_pairs: Vec<RawFd>,
    /// Kept from fork to fork, so that commit frees nothing.
    pub(super) plan: Plan,
}

/// A selector that exists: it leaves the list, under the lock, before it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live(*const Shared);

// SAFETY: `Shared` is `Sync`, and the pointer is valid wherever the list is locked.
unsafe impl Send for Live {}

impl Live {
    /// Only to be called while the lock is held.
    pub(super) fn get(&self) -> &Shared {
        // SAFETY: the lock is held, so the selector has not left the list and is not freed.
        unsafe { &*self.0 }
    }
}

pub(super) fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle to a selector that takes part in forks.
///
/// The last one takes the selector off the list and frees it under the lock, so that what the list names is there for as
/// long as the lock is held.
#[derive(Debug)]
pub(crate) struct Adopted(ManuallyDrop<Arc<Shared>>);

impl Adopted {
    pub(crate) fn new(selector: Shared) -> Adopted {
        let selector = Arc::new(selector);
        if OWNER.load(Ordering::Relaxed) == 0 {
            OWNER.store(std::process::id(), Ordering::Relaxed);
        }
        world().selectors.push(Live(Arc::as_ptr(&selector)));
        Adopted(ManuallyDrop::new(selector))
    }
}

impl Clone for Adopted {
    fn clone(&self) -> Adopted {
        Adopted(self.0.clone())
    }
}

impl Deref for Adopted {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        let mut world = world();
        // Others drop theirs under the lock too, and nobody can clone the last one.
        if Arc::strong_count(&self.0) == 1 {
            let gone = Live(Arc::as_ptr(&self.0));
            world.selectors.retain(|live| *live != gone);
        }
        // SAFETY: not used again. Freeing the selector takes no lock.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

/// A source that is registered with selector `id` is about to be closed.
///
/// The kernel drops the registrations of a closed descriptor by itself, and mio's users rely on it; the table has to be
/// told. tokio deregisters first, so this is not on its path.
pub(crate) fn closing(id: u32, fd: RawFd) {
    // Where a relative holds a duplicate, the kernel does not forget by itself.
    with_selector(id, |shared| shared.registered.close(&shared.queue, fd));
}

/// A source that is registered with selector `id` becomes a bare descriptor, still registered: nothing will tell when it
/// is closed.
pub(crate) fn given_away(id: u32, fd: RawFd) {
    with_selector(id, |shared| shared.registered.give_away(fd));
}

/// Whether the selector `id` is still there.
pub(crate) fn is_alive(id: u32) -> bool {
    let mut found = false;
    with_selector(id, |_| found = true);
    found
}

fn with_selector(id: u32, act: impl FnOnce(&Shared)) {
    // Between prepare and the end of a fork this thread has the lock; see `Prepared` for what it may not do then.
    if is_forking_here() {
        return;
    }
    let world = world();
    if let Some(live) = world.selectors.iter().find(|live| live.get().id == id) {
        act(live.get());
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
    if is_forking_here() {
        return;
    }
    let mut world = world();
    if let Some(peer) = world.pairs.remove(&fd) {
        world.pairs.remove(&peer);
        world.private_pairs.retain(|end| *end != fd && *end != peer);
    }
}

/// In place of the other end's number.
const PARTED: RawFd = -1;

/// One end is severed. Takes nothing off the map: it is async-signal-safe.
pub(super) fn part(pairs: &mut BTreeMap<RawFd, RawFd>, fd: RawFd) {
    let mut part_end = |fd| pairs.get_mut(&fd).map(|peer| std::mem::replace(peer, PARTED));
    if let Some(peer) = part_end(fd) {
        part_end(peer);
    }
}

/// Does something that no fork may see half done.
///
/// # Errors
///
/// Between prepare and the end of a fork of this thread.
#[allow(dead_code, reason = "where a queue has others beside it")]
pub(crate) fn keeping_forks_out<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    if is_forking_here() {
        return Err(io::Error::other(
            "this thread is between prepare and commit or abort of a fork: end the fork first",
        ));
    }
    let _world = world();
    Ok(act())
}

/// The timer at `fd` keeps to `schedule`.
pub(crate) fn remember_timer(fd: RawFd, schedule: Arc<Schedule>) -> io::Result<()> {
    if is_forking_here() {
        return Err(io::Error::other(
            "this thread is between prepare and commit or abort of a fork: end the fork before making a timer",
        ));
    }
    world().timers.insert(fd, schedule);
    Ok(())
}

/// The timer at `fd` is about to be closed.
pub(crate) fn forget_timer(fd: RawFd) {
    if !is_forking_here() {
        world().timers.remove(&fd);
    }
}

pub(super) fn is_forking_here() -> bool {
    FORKING.load(Ordering::Relaxed) == this_thread()
}

pub(super) fn this_thread() -> usize {
    MARK.with(|mark| ptr::from_ref(mark).addr())
}

/// The pair one end of which is the socket `identity`: that end first.
pub(super) fn find_pair(pairs: &BTreeMap<RawFd, RawFd>, identity: Identity) -> Option<(RawFd, RawFd)> {
    let mut ends = pairs.iter().filter(|(_, peer)| **peer != PARTED);
    ends.find(|(end, _)| descriptor::identity(**end).is_ok_and(|found| found == identity)).map(|(&a, &b)| (a, b))
}
