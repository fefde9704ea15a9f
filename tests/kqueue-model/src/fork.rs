//! The kernel's part of a fork: copies the queues that ask for a copy, and drops the other queues.

use std::cell::UnsafeCell;
use std::collections::BTreeSet;
use std::os::fd::RawFd;

use crate::control::{Call, reset_changes};
use crate::kernel::Kernel;
use crate::knote::Object;
use crate::linux::{close, leave_unused};
use crate::state::{Guard, Model, lock};

/// Registers the handlers before `main`. `before_fork` then runs after all other handlers, and `after_fork` and `in_child`
/// run before all others.
#[used]
#[unsafe(link_section = ".init_array")]
static SEE_FORKS: extern "C" fn() = {
    extern "C" fn see_forks() {
        // SAFETY: any fork may call the handlers.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
    }
    see_forks
};

/// The locked model between the beginning and the end of a fork.
struct Held(UnsafeCell<Option<Guard>>);

// SAFETY: only the thread that has the lock accesses it.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));

unsafe extern "C" fn before_fork() {
    let mut model = lock();
    model.sweep();
    for queue in model.queues.values_mut() {
        queue.settle();
    }
    // SAFETY: this thread has the lock.
    unsafe { *HELD.0.get() = Some(model) };
}

unsafe extern "C" fn after_fork() {
    // SAFETY: this thread has had the lock since `before_fork`.
    let Some(mut model) = (unsafe { (*HELD.0.get()).take() }) else { return };
    for knote in model.queues.values_mut().flat_map(|queue| queue.knotes.values_mut()) {
        // A later fork may run no handlers. Its child then reports every knote that is ready.
        knote.held = false;
    }
}

unsafe extern "C" fn in_child() {
    // SAFETY: this thread has had the lock since `before_fork`.
    let Some(mut model) = (unsafe { (*HELD.0.get()).take() }) else { return };
    do_kernels_part(&mut model);
    // SAFETY: the call takes no pointer.
    model.process = unsafe { libc::getpid() };
}

/// Turns the child's copy of the model into the child's own model: until then, its objects are the parent's.
pub(crate) fn do_kernels_part(model: &mut Model) {
    reset_changes();
    let mut unused = BTreeSet::new();
    for (fd, marked) in std::mem::take(&mut model.close_on_fork) {
        let queue = model.descriptors.get(&fd).copied();
        let is_still_marked = match marked {
            Object::Queue { id, .. } => queue == Some(id),
            Object::File(_) => marked.is_at(fd, queue),
        };
        if is_still_marked {
            close(fd);
            unused.insert(fd);
        }
    }
    for (fd, id) in model.descriptors.clone() {
        if unused.contains(&fd) {
            continue;
        }
        let is_copied = model.queues.get(&id).is_some_and(|queue| queue.is_copied);
        if !is_copied || Kernel::this() == Kernel::AtLimit || model.fail(Call::Copy).is_err() {
            close(fd);
            unused.insert(fd);
        }
    }
    model.descriptors.retain(|fd, _| !unused.contains(fd));
    let copied: BTreeSet<u64> = model.descriptors.values().copied().collect();
    // `unused` does not contain the model's own descriptors, which the program does not know.
    leave_unused(unused);
    model.queues.retain(|id, _| copied.contains(id));
    for queue in model.queues.values_mut() {
        queue.keep_parents_queues(&copied);
    }
    copy_queues(model);
    for queue in model.queues.values_mut() {
        queue.copy_knotes(model.process, &model.descriptors);
    }
}

/// Gives each descriptor of a queue a queue of its own, which does not watch its events yet.
fn copy_queues(model: &mut Model) {
    let mut copied = BTreeSet::new();
    let descriptors: Vec<(RawFd, u64)> = model.descriptors.iter().map(|(fd, id)| (*fd, *id)).collect();
    for (fd, id) in descriptors {
        let Some(queue) = model.queues.get_mut(&id) else { continue };
        if copied.insert(id) {
            queue.fd = fd;
            queue.replace_objects();
        } else {
            let separate = queue.separate(fd);
            model.descriptors.insert(fd, model.next_id);
            model.queues.insert(model.next_id, separate);
            model.next_id += 1;
        }
    }
}
