//! All that forks look after, in one place and under one lock.

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::lock::{Guard, Lock, this_thread};
use super::prepare::Plan;
use super::selectors::{Live, Selectors};
use crate::schedule::Schedule;
use crate::selector::Shared;
use crate::sys::descriptor::{self, Identity};

/// Everything static that a commit writes to, on one page: a page that a child writes to is one that it has to copy, which
/// takes longer than a system call.
#[repr(align(512))]
struct OnOnePage {
    generation: AtomicU32,
    owner: AtomicU32,
    parent: AtomicU32,
    forker: AtomicU32,
    forking: AtomicUsize,
    has_private: AtomicBool,
    #[cfg(feature = "atfork")]
    has_handlers: AtomicBool,
    selectors: Selectors,
    hold: Lock<()>,
    world: Lock<World>,
}

const _: () = assert!(size_of::<OnOnePage>() == align_of::<OnOnePage>());

static STATE: OnOnePage = OnOnePage {
    generation: AtomicU32::new(0),
    owner: AtomicU32::new(0),
    parent: AtomicU32::new(0),
    forker: AtomicU32::new(0),
    forking: AtomicUsize::new(0),
    has_private: AtomicBool::new(false),
    #[cfg(feature = "atfork")]
    has_handlers: AtomicBool::new(false),
    selectors: Selectors::new(),
    hold: Lock::new(()),
    world: Lock::new(World::new()),
};

/// How many forks lie between this process and the one that its program started as.
pub(super) static GENERATION: &AtomicU32 = &STATE.generation;

/// The process that the selectors belong to; 0: there has never been one.
pub(super) static OWNER: &AtomicU32 = &STATE.owner;

/// The process that forked this one; 0: none, in generation 0.
pub(super) static PARENT: &AtomicU32 = &STATE.parent;

/// This process as the parent of its children: its id.
pub(super) static FORKER: &AtomicU32 = &STATE.forker;

/// The thread that is between prepare and the end of a fork; 0: none.
pub(super) static FORKING: &AtomicUsize = &STATE.forking;

/// Whether there has been anything that each process is to have for itself beside the selectors and what is registered.
pub(super) static HAS_PRIVATE: &AtomicBool = &STATE.has_private;

/// Whether the forks of others are prepared too.
#[cfg(feature = "atfork")]
pub(super) static HAS_HANDLERS: &AtomicBool = &STATE.has_handlers;

/// The selectors that exist.
pub(super) static SELECTORS: &Selectors = &STATE.selectors;

/// All that forks look after. The lock is held from prepare to the end of the fork, so the child finds it in the hands of
/// the one thread it has.
pub(super) static WORLD: &Lock<World> = &STATE.world;

/// Held by whoever keeps forks waiting, and by a fork from prepare to its end.
pub(super) static HOLD: &Lock<()> = &STATE.hold;

/// All that forks look after beside the [selectors](SELECTORS), which the lock is for too.
#[derive(Debug)]
pub(super) struct World {
    /// The socket pairs made in this process, each end with the other; [`PARTED`]: it has none any more.
    pub(super) pairs: BTreeMap<RawFd, RawFd>,
    /// The timers of this process, registered or not.
    pub(super) timers: BTreeMap<RawFd, Arc<Schedule>>,
    /// One end of each pair that every process is to have for itself, registered or not.
    pub(super) private_pairs: Vec<RawFd>,
    /// What stood at the numbers, by selector, of registrations by number that are muted: the kernel does not have them, so
    /// nothing else tells when they are closed. Of a registration that is gone an entry may be left.
    pub(super) muted: BTreeMap<(u32, RawFd), Identity>,
    /// Kept from fork to fork, so that commit frees nothing.
    pub(super) plan: Plan,
}

impl World {
    pub(super) const fn new() -> World {
        World {
            pairs: BTreeMap::new(),
            private_pairs: Vec::new(),
            muted: BTreeMap::new(),
            timers: BTreeMap::new(),
            plan: Plan::new(),
        }
    }

    /// The owner of `fd` gives it away.
    fn give_away(&mut self, live: Live, fd: RawFd) {
        let shared = live.get();
        shared.registered.give_away(fd);
        // It may be muted.
        if let Ok(identity) = descriptor::identity(fd) {
            self.muted.insert((shared.id, fd), identity);
        }
    }

    /// Closes what was made ahead of a fork, if there is such a thing, and lets registrations through again.
    fn give_up_plan(&mut self) {
        // One that a fork is about to follow is not ahead any more: see `Prepared::make`.
        if self.plan.ahead_in != 0 {
            self.plan.clear();
            for live in SELECTORS.iter() {
                live.get().registered.open();
            }
        }
    }
}

/// Takes the lock. A thread that is between prepare and the end of a fork has it, and may look around: see
/// [`Prepared`](super::Prepared).
pub(super) fn world() -> Guard<World> {
    if is_forking_here() {
        // SAFETY: the thread has the lock, and nothing is borrowed from it between prepare and the end of the fork.
        return unsafe { WORLD.again(false) };
    }
    WORLD.lock()
}

/// As [`world`], for those who change what forks look at: a plan that was made ahead of a fork is for things as they were.
pub(super) fn world_to_change() -> Guard<World> {
    let mut world = world();
    world.give_up_plan();
    world
}

/// A handle to a selector that takes part in forks.
///
/// The last one takes the selector off the list and frees it under the lock, so that what the list names is there for as
/// long as the lock is held.
#[derive(Debug)]
pub(crate) struct Adopted(ManuallyDrop<Arc<Shared>>);

impl Adopted {
    pub(crate) fn new(selector: Shared) -> io::Result<Adopted> {
        // The fork would not know of it.
        refuse_inside_a_fork("making a selector")?;
        let selector = Arc::new(selector);
        if OWNER.load(Ordering::Relaxed) == 0 {
            OWNER.store(std::process::id(), Ordering::Relaxed);
        }
        let _world = world_to_change();
        SELECTORS.push(Live::of(Arc::as_ptr(&selector)));
        Ok(Adopted(ManuallyDrop::new(selector)))
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
        if is_forking_here() {
            // The fork has plans with it: it stays.
            return;
        }
        let mut world = world();
        // Others drop theirs under the lock too, and nobody can clone the last one.
        if Arc::strong_count(&self.0) == 1 {
            world.give_up_plan();
            world.muted.retain(|(selector, _), _| *selector != self.0.id);
            SELECTORS.remove(Live::of(Arc::as_ptr(&self.0)));
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
    if is_forking_here() {
        return leave_to_next_prepare(id, fd);
    }
    // Where a relative holds a duplicate, the kernel does not forget by itself.
    if let Some((_world, live)) = find_to_change(id) {
        let shared = live.get();
        shared.registered.close(&shared.queue, fd);
    }
}

/// A source that is registered with selector `id` becomes a bare descriptor, still registered: nothing will tell when it
/// is closed.
pub(crate) fn given_away(id: u32, fd: RawFd) {
    if is_forking_here() {
        return leave_to_next_prepare(id, fd);
    }
    if let Some((mut world, live)) = find_to_change(id) {
        world.give_away(live, fd);
    }
}

/// What cannot be done in the middle of a fork: the next one looks whether the number is still what was registered.
fn leave_to_next_prepare(id: u32, fd: RawFd) {
    // This thread has the lock.
    if let Some((mut world, live)) = find_to_change(id) {
        world.give_away(live, fd);
    }
}

/// Whether the selector `id` is still there.
pub(crate) fn is_alive(id: u32) -> bool {
    // Between prepare and the end of a fork this thread has the lock; see `Prepared` for what it may not do then.
    if is_forking_here() {
        return false;
    }
    let _world = world();
    SELECTORS.iter().any(|live| live.get().id == id)
}

/// The selector `id`, if it is still there.
fn find_to_change(id: u32) -> Option<(Guard<World>, Live)> {
    let world = world_to_change();
    let live = SELECTORS.iter().find(|live| live.get().id == id)?;
    Some((world, live))
}

#[cfg(feature = "net")]
pub(crate) fn remember_pair(a: RawFd, b: RawFd) {
    let mut world = world_to_change();
    world.pairs.insert(a, b);
    world.pairs.insert(b, a);
}

/// One end is closed or given away: what is left is no pair any more.
pub(crate) fn forget_pair(fd: RawFd) {
    let mut world = world_to_change();
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
    // The child would share it.
    refuse_inside_a_fork("making a timer")?;
    world_to_change().timers.insert(fd, schedule);
    HAS_PRIVATE.store(true, Ordering::Relaxed);
    Ok(())
}

/// The timer at `fd` is about to be closed.
pub(crate) fn forget_timer(fd: RawFd) {
    world_to_change().timers.remove(&fd);
}

pub(super) fn is_forking_here() -> bool {
    FORKING.load(Ordering::Relaxed) == this_thread()
}

/// An error for a thread that is between prepare and the end of a fork.
pub(super) fn refuse_inside_a_fork(doing: &str) -> io::Result<()> {
    if is_forking_here() {
        return Err(io::Error::other(format!(
            "this thread is between prepare and commit or abort of a fork: end the fork before {doing}"
        )));
    }
    Ok(())
}

/// The pair one end of which is the socket `identity`: that end first.
pub(super) fn find_pair(pairs: &BTreeMap<RawFd, RawFd>, identity: Identity) -> Option<(RawFd, RawFd)> {
    let mut ends = pairs.iter().filter(|(_, peer)| **peer != PARTED);
    ends.find(|(end, _)| descriptor::identity(**end).is_ok_and(|found| found == identity)).map(|(&a, &b)| (a, b))
}
