//! Functions by which tests control the model.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::knote::Object;
use crate::queue::Queue;
use crate::state::{Fault, lock};

/// A call that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// kqueue(2) and kqueuex(2).
    Create,
    /// A change by kevent(2). The error is the answer to the change.
    Change,
    /// The copy of a queue at a fork. If it fails, the child does not have the queue, as on FreeBSD at `RLIMIT_KQUEUES`.
    Copy,
}

/// Makes calls of one kind fail with `errno`, after the first `spare` calls. With errno 0, they succeed again.
pub fn inject(call: Call, spare: usize, errno: i32) {
    let mut model = lock();
    model.faults.retain(|fault| fault.call != call);
    if errno != 0 {
        model.faults.push(Fault { call, spare, errno });
    }
}

static CHANGES: AtomicUsize = AtomicUsize::new(0);

/// Returns how many changes this process has passed to kevent(2), including those that failed. A fork sets the child's count
/// to 0, and so does [`reset_changes`].
pub fn changes() -> usize {
    CHANGES.load(Ordering::Relaxed)
}

/// Sets [`changes`] to 0.
pub fn reset_changes() {
    CHANGES.store(0, Ordering::Relaxed);
}

pub(crate) fn count_change() {
    CHANGES.fetch_add(1, Ordering::Relaxed);
}

/// Returns the descriptors that a queue watches, each once and with its token, in order.
pub fn watched(queue: RawFd) -> Vec<(RawFd, u64)> {
    let mut model = lock();
    let Some(id) = model.id_of(queue) else { return Vec::new() };
    let mut watched = model.queues.get_mut(&id).map(Queue::watched).unwrap_or_default();
    watched.dedup();
    watched
}

/// Returns the descriptors that belong to the model.
pub fn own() -> BTreeSet<RawFd> {
    lock().queues.values().flat_map(Queue::own).map(AsRawFd::as_raw_fd).collect()
}

/// Whether a descriptor is one of [`own`].
pub fn owns(fd: RawFd) -> bool {
    lock().queues.values().flat_map(Queue::own).any(|own| own.as_raw_fd() == fd)
}

/// Marks a descriptor as close-on-fork (`O_CLOFORK`): children do not have it.
pub fn set_close_on_fork(fd: RawFd) {
    let mut model = lock();
    let queue = model.id_of(fd);
    if let Ok(object) = Object::at(fd, queue) {
        model.close_on_fork.insert(fd, object);
    }
}

static WORKING: AtomicBool = AtomicBool::new(false);

/// Whether the model is doing the work of a call. The topic `allocator` ignores allocations meanwhile, because a kernel
/// would use its own memory.
pub fn is_working() -> bool {
    WORKING.load(Ordering::Relaxed)
}

pub(crate) fn set_working(is_working: bool) {
    WORKING.store(is_working, Ordering::Relaxed);
}
