use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::entry::EntryInfo;
use super::error::InheritedState;
use super::table::Table;
use crate::Interest;
use crate::wakeable_queue::WakeableQueue;

/// A kernel queue, its waker, its registrations, and the state that forks need.
///
/// A core is never freed: when the last handle of a selector is dropped, a later selector gets its core. So a reference to a
/// core is always valid. The core's [id](SelectorCore::id) tells which selector uses it.
#[derive(Default)]
pub(crate) struct SelectorCore {
    pub(crate) kernel: WakeableQueue,
    pub(crate) table: Table,
    id: AtomicU64,
    pub(super) handles: AtomicUsize,
    /// The next core in the list of all.
    pub(super) next: AtomicPtr<SelectorCore>,
    /// A [`Poison`], as [`poison`](SelectorCore::poison) encodes it; 0: none.
    poison: AtomicI64,
    /// Children get no queue for this selector.
    is_retired: AtomicBool,
    /// Other code has made the queue.
    is_adopted: AtomicBool,
}

/// The reason why a selector cannot be used, in a child that got no queue of its own for it.
#[derive(Clone, Copy)]
pub(super) enum Poison {
    /// A system call or reconciling has failed with this errno, or the selector is retired (`ECANCELED`).
    Errno(i32),
    /// Replacing the parent's object at this descriptor has failed with this errno. Any selector may use the object.
    Unreplaced(RawFd, i32),
    /// The fork has interrupted a change of forkio's state.
    Lost(InheritedState),
}

impl SelectorCore {
    /// Returns the id of the selector, never used twice in the process; 0 while there is no selector.
    #[inline(always)]
    pub(crate) fn id(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn exists(&self) -> bool {
        self.id() != 0
    }

    /// Becomes the selector `id`, whose queue is open.
    pub(super) fn begin(&self, id: u64) {
        self.handles.store(1, Ordering::Relaxed);
        self.id.store(id, Ordering::Release);
    }

    /// Becomes the selector `id`, whose queue other code has made and polls.
    pub(super) fn begin_adopted(&self, id: u64) {
        self.is_adopted.store(true, Ordering::Relaxed);
        // The kernel does not tell whether a wake is pending, so each child gets a wake, which does no harm.
        self.kernel.wake.expose();
        self.kernel.wake.notify();
        self.begin(id);
    }

    /// Ends the selector: closes its queue, which ends the registrations, and keeps its waker. Leaves an adopted queue open, and
    /// forgets the waker of that queue.
    pub(super) fn end(&self) {
        self.id.store(0, Ordering::Release);
        if self.is_adopted() {
            self.kernel.queue.forget();
            self.kernel.waker.vacate();
        } else {
            self.kernel.queue.close();
        }
        self.kernel.wake.reset();
        self.table.clear();
        self.poison.store(0, Ordering::Relaxed);
        self.is_retired.store(false, Ordering::Relaxed);
        self.is_adopted.store(false, Ordering::Relaxed);
    }

    /// Makes polling and registering fail from now on; deregistering and waking do nothing then. The first reason counts.
    /// Async-signal-safe.
    pub(super) fn poison(&self, poison: Poison) {
        let code = match poison {
            Poison::Errno(errno) => errno.into(),
            Poison::Unreplaced(fd, errno) => (i64::from(fd) + 1) << 32 | i64::from(errno),
            Poison::Lost(InheritedState::InUse) => -1,
            Poison::Lost(InheritedState::Interrupted) => -2,
        };
        // Only the thread that commits or reconciles in the child runs this.
        if self.poison.load(Ordering::Relaxed) == 0 {
            self.poison.store(code, Ordering::Relaxed);
        }
        self.kernel.wake.silence();
        self.kernel.queue.disown();
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poison.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn check_poison(&self) -> io::Result<()> {
        let code = self.poison.load(Ordering::Relaxed);
        let error = io::Error::from_raw_os_error(code as i32);
        match (code, code >> 32) {
            (0, _) => Ok(()),
            (-1, _) => Err(io::Error::other(InheritedState::InUse)),
            (-2, _) => Err(io::Error::other(InheritedState::Interrupted)),
            (_, 0) => Err(error),
            (_, place) => {
                let fd = place - 1;
                let text = format!("this child could not replace its parent's object at descriptor {fd}: {error}");
                Err(io::Error::new(error.kind(), text))
            }
        }
    }

    /// Returns the cause of a system call's error: the poison, or the error itself if the selector has no poison.
    #[cold]
    pub(super) fn cause(&self, error: io::Error) -> io::Error {
        self.check_poison().err().unwrap_or(error)
    }

    /// Whether the queue was made by other code; see [`adopting`](super::adopting).
    pub(super) fn is_adopted(&self) -> bool {
        self.is_adopted.load(Ordering::Relaxed)
    }

    /// Returns the interest that a registration of this selector has in the kernel, in this process or in a child.
    pub(super) fn kernel_interest(&self, info: EntryInfo) -> Interest {
        let interest = info.kernel_interest();
        if self.is_adopted() && info.own_policy().is_some() { interest.marked() } else { interest }
    }

    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for SelectorCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectorCore").field("id", &self.id()).field("kernel", &self.kernel).finish_non_exhaustive()
    }
}
