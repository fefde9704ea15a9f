//! Finds the epoll instances of tokio on upstream mio, and fills their tables.
//!
//! The kernel's list of an instance shows neither the policy of a registration nor the interest of a muted one. The table keeps
//! both. A registration that has a policy of its own or is muted gets a [mark](crate::Interest::MARK) in the kernel. If the
//! descriptor is closed and registered again, the new registration has no mark, so the table entry is out of date. The registration
//! of the waker has a mark too, which distinguishes an adopted instance from a later one at the same descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::RawFd;

use super::entry::{Entry, EntryInfo};
use super::error::{PrepareError, PrepareObject};
use super::foreign_pairs::{OwnPairs, SIGNAL_PIPE, SignalPipe};
use super::policy::SourceKind;
use super::process_state::{AdoptedQueue, ProcessState, generation, next_id, selectors};
use super::selector_core::SelectorCore;
use crate::Interest;
use crate::sys::adoption::{self, Registered, WAKER};
use crate::sys::{Queue, descriptor};
use crate::wakeable_queue::WakerDescriptors;

impl AdoptedQueue {
    /// Fills the table from the kernel's list. Clears the table if that fails. Returns whether this is still the adopted
    /// queue.
    fn read_inherited(&self) -> bool {
        let fd = self.core.kernel.queue.fd();
        let mut descriptors = self.duplicates.iter().copied().chain([fd]);
        if !descriptors.all(|fd| descriptor::kind(fd).is_ok_and(|kind| kind == SourceKind::Queue)) {
            return false;
        }
        let list = adoption::list(fd).unwrap_or_default();
        let registered = adoption::registered(&self.core.kernel.queue, &list).unwrap_or_default();
        let open = adoption::open_descriptors(|_| false).unwrap_or_default();
        let mut pairs = OwnPairs::new(open, registered.iter());
        let instance = Instance { descriptors: vec![fd], registered };
        if !instance.waker().is_some_and(|waker| waker.interest.is_marked()) {
            return false;
        }
        if fill(self.core, &instance, &mut pairs).is_err() {
            self.core.table.clear();
        }
        true
    }
}

/// In the child of an unplanned fork, keeps the retired adopted selectors, and forgets the other ones. Parent and child
/// share the queue, so the kernel's list shows the registrations of both. The list is enough for a retired selector: each
/// listed socket that is open in this process is registered with the inherited runtime.
pub(super) fn keep_retired(state: &mut ProcessState) {
    let queues = std::mem::take(&mut state.adopted.queues);
    let (kept, left_out) = queues.into_iter().partition(|queue| queue.core.is_retired() && queue.read_inherited());
    state.adopted.queues = kept;
    end(state, left_out);
}

/// In the child of an unplanned fork, forgets all adopted selectors once the child has reconciled.
pub(super) fn abandon(state: &mut ProcessState) {
    state.adopted.pipe = None;
    let queues = std::mem::take(&mut state.adopted.queues);
    end(state, queues);
}

fn end(state: &mut ProcessState, queues: Vec<AdoptedQueue>) {
    for queue in queues {
        // If reconciling failed, the selector has ended already.
        if queue.core.is_adopted() {
            queue.core.end();
        }
        state.free_cores.push(queue.core);
    }
}

/// Adopts the epoll instances of all runtimes on upstream mio. `fd` must be registered with one of them.
pub(super) fn adopt(state: &mut ProcessState, fd: RawFd) -> Result<(), PrepareError> {
    let failed = PrepareError::of(PrepareObject::ForeignRegistration(fd));
    if state.adopted.pipe.is_none() {
        state.adopted.pipe = Some(find_pipe(fd).map_err(failed)?);
    }
    refresh(state)?;
    if is_adopted(fd) { Ok(()) } else { Err(failed(not_found())) }
}

/// Whether `fd` is registered with an adopted instance. The caller must have locked the state.
pub(super) fn is_adopted(fd: RawFd) -> bool {
    let mut adopted = selectors().filter(|selector| selector.is_adopted());
    adopted.any(|selector| selector.table.get(fd).and_then(Entry::get).is_some())
}

fn not_found() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "this process has no epoll instance of its own with this descriptor and tokio's signal pipe; a runtime that was \
         inherited in a fork that forkio did not make cannot be forked again",
    )
}

/// Finds the signal pipe of the runtime that `fd` is registered with.
fn find_pipe(fd: RawFd) -> io::Result<SignalPipe> {
    let (_, inode) = descriptor::identity(fd)?;
    let open = adoption::open_descriptors(|_| false)?;
    let lists: Vec<_> = open.queues.iter().filter_map(|queue| adoption::list(*queue).ok()).collect();
    let list = lists.iter().find(|list| list.iter().any(|listed| listed.fd == fd && listed.inode == inode));
    let mut receivers = list.into_iter().flatten().filter(|listed| listed.token == SIGNAL_PIPE);
    let receiver = receivers.find(|listed| descriptor::is_unix_stream(listed.fd)).ok_or_else(not_found)?;
    let receiver_key = (SIGNAL_PIPE, receiver.inode);
    let receivers = lists.iter().flatten().filter(|listed| (listed.token, listed.inode) == receiver_key);
    let registered: BTreeSet<_> = receivers.map(|listed| listed.fd).collect();
    SignalPipe::find(receiver.inode, generation(), &open, |fd| registered.contains(&fd))
}

/// An epoll instance that a tokio runtime of this process uses: its descriptors, and the registrations whose descriptors
/// still refer to the registered files.
struct Instance {
    descriptors: Vec<RawFd>,
    registered: Vec<Registered>,
}

impl Instance {
    fn waker(&self) -> Option<&Registered> {
        self.registered.iter().find(|registered| registered.token == WAKER)
    }
}

/// Brings the adopted selectors and their tables up to date, if a signal pipe is known. Fails if the pipe is closed, or
/// if the list of an instance cannot be read or does not tell for certain what a child must get.
pub(super) fn refresh(state: &mut ProcessState) -> Result<(), PrepareError> {
    let Some(pipe) = state.adopted.pipe.as_mut() else { return Ok(()) };
    let failed = PrepareError::of(PrepareObject::ForeignQueues);
    let inode = pipe.check(generation()).map_err(failed)?;
    let mut lists = Lists { inode, read: BTreeMap::new() };
    for queue in &state.adopted.queues {
        lists.read(queue.core.kernel.queue.fd())?;
    }
    // Most descriptors of a large process are registered sockets, which the lists already describe.
    let sockets = lists.read.values().flatten().flatten().filter(|registered| registered.kind.is_socket());
    let known: BTreeSet<_> = sockets.map(|registered| registered.fd).collect();
    let open = adoption::open_descriptors(|fd| known.contains(&fd)).map_err(failed)?;
    let instances = lists.group(&open.queues)?;
    let registered: BTreeSet<_> =
        instances.iter().flat_map(|instance| &instance.registered).map(|registered| registered.fd).collect();
    pipe.find_others(&open, |fd| registered.contains(&fd));
    state.records.add_pair([pipe.receiver, pipe.sender]).map_err(failed)?;
    let assigned = assign_cores(state, instances);
    let mut pairs = OwnPairs::new(open, assigned.iter().flat_map(|(_, instance)| &instance.registered));
    for (core, instance) in &assigned {
        let failed = PrepareError::of(PrepareObject::ForeignQueue(core.kernel.queue.fd()));
        fill(core, instance, &mut pairs).map_err(failed)?;
    }
    state.records.set_found_pairs(&pairs.found);
    Ok(())
}

struct Lists {
    /// The inode of the signal pipe's receiving end.
    inode: u64,
    /// The registrations of each instance, by its descriptor; `None` if the instance does not belong to tokio.
    read: BTreeMap<RawFd, Option<Vec<Registered>>>,
}

impl Lists {
    fn read(&mut self, fd: RawFd) -> Result<Option<&Vec<Registered>>, PrepareError> {
        // A runtime may have ended, and its descriptor may refer to another file now.
        if !self.read.contains_key(&fd)
            && descriptor::kind(fd).is_ok_and(|kind| kind == SourceKind::Queue)
            && selectors().all(|core| core.is_adopted() || core.kernel.queue.fd() != fd)
        {
            let failed = PrepareError::of(PrepareObject::ForeignQueue(fd));
            let list = adoption::list(fd).map_err(failed)?;
            let is_of_tokio = list.iter().any(|listed| (listed.token, listed.inode) == (SIGNAL_PIPE, self.inode));
            let queue = Queue::vacant();
            queue.set(fd);
            let registered = is_of_tokio.then(|| adoption::registered(&queue, &list).map_err(failed));
            self.read.insert(fd, registered.transpose()?);
        }
        Ok(self.read.get(&fd).and_then(Option::as_ref))
    }

    /// Groups `queues` by instance. Leaves out the instances that do not belong to tokio.
    fn group(mut self, queues: &[RawFd]) -> Result<Vec<Instance>, PrepareError> {
        let mut instances: Vec<Instance> = Vec::new();
        // The descriptors whose lists were read come first: reading a list again through a duplicate takes long.
        let known: Vec<_> = self.read.keys().copied().filter(|fd| queues.contains(fd)).collect();
        let others = queues.iter().copied().filter(|fd| !known.contains(fd));
        for fd in known.iter().copied().chain(others) {
            let failed = PrepareError::of(PrepareObject::ForeignQueue(fd));
            let mut same = None;
            for instance in &mut instances {
                if adoption::is_same_queue(instance.descriptors[0], fd).map_err(failed)? {
                    same = Some(instance);
                    break;
                }
            }
            if let Some(instance) = same {
                instance.descriptors.push(fd);
            } else if self.read(fd)?.is_some() {
                let registered = self.read.remove(&fd).flatten().unwrap_or_default();
                instances.push(Instance { descriptors: vec![fd], registered });
            }
        }
        Ok(instances)
    }
}

/// Returns each instance with its core, and ends the cores whose instances no longer exist.
///
/// If an instance has a marked waker, but no core in this process, the parent has adopted it. This process is then the child
/// of an unplanned fork, and leaves the instance alone.
fn assign_cores(state: &mut ProcessState, instances: Vec<Instance>) -> Vec<(&'static SelectorCore, Instance)> {
    let mut before = std::mem::take(&mut state.adopted.queues);
    let mut assigned = Vec::new();
    for instance in instances {
        let was_adopted = instance.waker().is_some_and(|waker| waker.interest.is_marked());
        let same = before.iter().position(|queue| {
            let mut descriptors = instance.descriptors.iter();
            descriptors.any(|fd| *fd == queue.core.kernel.queue.fd() || queue.duplicates.contains(fd))
        });
        let core = match same {
            Some(index) if was_adopted => before.swap_remove(index).core,
            None if was_adopted => continue,
            _ => {
                let core = state.take_core();
                core.begin_adopted(next_id());
                core
            }
        };
        core.kernel.queue.set(instance.descriptors[0]);
        state.adopted.queues.push(AdoptedQueue { core, duplicates: instance.descriptors[1..].to_vec() });
        assigned.push((core, instance));
    }
    end(state, before);
    assigned
}

/// Fills the table of a core from the list of its instance.
fn fill(core: &SelectorCore, instance: &Instance, pairs: &mut OwnPairs) -> io::Result<()> {
    let waker = instance.waker().filter(|waker| descriptor::is_eventfd(waker.fd));
    let waker = waker.ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, "the runtime's waker is not an eventfd: a child cannot get its own")
    })?;
    if !waker.interest.is_marked() {
        core.kernel.queue.modify(waker.fd, WAKER, Interest::READABLE.marked())?;
    }
    core.kernel.waker.occupy(WAKER);
    core.kernel.waker.set_descriptors(WakerDescriptors { registered: waker.fd, sender: waker.fd });
    let mut present = BTreeSet::new();
    for registered in instance.registered.iter().filter(|registered| registered.token != WAKER) {
        let entry = core.table.make_room(registered.fd).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let info = info(registered, entry, pairs.kind(registered))?;
        entry.set_token(registered.token);
        entry.set_info(info);
        present.insert(registered.fd);
    }
    for (_, entry) in core.table.iter().filter(|(fd, _)| !present.contains(fd)) {
        // A registration that a fork has left out keeps its policy.
        let info = entry.info();
        if !info.is_vacant() && !info.is_absent(generation()) {
            entry.vacate();
        }
    }
    Ok(())
}

/// Returns the state of the table entry for a listed registration.
fn info(registered: &Registered, entry: &Entry, kind: SourceKind) -> io::Result<EntryInfo> {
    if !registered.interest.is_marked() {
        return Ok(EntryInfo::new(registered.interest, Some(kind), None));
    }
    let known = entry.get().filter(|(token, info)| *token == registered.token && !info.is_absent(generation()));
    let Some((_, known)) = known else {
        return Err(io::Error::other(format!(
            "descriptor {} is muted or has a fork policy, which this process does not know: the epoll instance is \
             shared with another process since a fork that forkio did not make",
            registered.fd
        )));
    };
    let interest = registered.interest.remove(Interest::MARK).unwrap_or(known.interest());
    Ok(known.with_kind(kind).with_interest(interest))
}
