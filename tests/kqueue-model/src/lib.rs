//! A model of kqueue(2) on Linux: the kernel of test builds of the kqueue backend.
//!
//! The backend's file `reactor/src/sys/kqueue/kernel.rs` calls the C functions of the module `abi`. The model keeps
//! queues and their events. The watched sockets and pipes are Linux's, and so are the forks: handlers of
//! pthread_atfork(3) do the kernel's part of a fork. A queue's descriptor is an epoll instance, so any code can
//! duplicate, watch and close it. It is readable while the queue has an event.
//!
//! The environment variable `FORKIO_KQUEUE_MODEL` selects one of several kernels: see [`Kernel`].
//!
//! # Checked on a real kernel
//!
//! FreeBSD 15.1-RELEASE-p1 (amd64, under emulation, also with INVARIANTS) gave these answers. The kernels `copying`,
//! `at-limit` and `unsafe-timers` give the same.
//!
//! - A queue with `KQUEUE_CPONFORK` is copied, at its descriptor. `KQUEUE_CLOEXEC` makes no difference. A queue that
//!   lacks the flag or is close-on-fork is not copied: its descriptor is closed in the child.
//! - Copied events: READ (pipes, sockets, listeners, eventfds), WRITE, TIMER and PROC, each with udata and with its
//!   disabled, oneshot and active state. Close-on-exec descriptors keep their events. Parent and child both get an
//!   active event that no call has taken.
//! - The copy does not report an event with `EV_CLEAR` that was taken and is still ready. `EV_ADD` in the child reports
//!   the event, and makes no second one.
//! - USER is not copied: a trigger in the child gives `ENOENT`, and a pending trigger is lost.
//! - `EV_ADD` with `NOTE_TRIGGER` in one change does not trigger. `NOTE_TRIGGER` stays in the `fflags` of later events.
//! - The copy of a SIGNAL event reports the parent's signals. `EV_ADD` does not change that, but `EV_DELETE`
//!   followed by `EV_ADD` does. Signals that are pending when the event is added are not reported.
//! - An event that watches a queue without the flag is not copied. The copy of an event that watches a queue with the
//!   flag watches the parent's queue. `EV_ADD` does not change that, but `EV_DELETE` followed by `EV_ADD` does.
//! - Duplicates of a queue's descriptor are separate queues in the child.
//! - If the user has as many queues as `RLIMIT_KQUEUES` allows, fork(2) succeeds, and the child does not have the
//!   queue. [`Call::Copy`] simulates this.
//! - A new descriptor in the child does not reuse that of a dropped queue.
//! - WRITE of a queue gives `EINVAL`, and so does kevent(2) on an open descriptor that is not a queue.
//! - fstat(2) of a queue gives `S_IFIFO`, and of TCP and UDP sockets device 0 and inode 0. `kf_sock_pcb` of `F_KINFO`
//!   identifies the socket.
//! - A PROC event can watch process 0.
//!
//! # Not checked on a real kernel
//!
//! - `EV_ADD` with `NOTE_TRIGGER` for a USER event that exists. The model does not trigger it.
//! - Forks while a TIMER of a queue with the flag expires: CVE-2026-58083 makes them dangerous.
//! - The kernels `einval`, `dropping` and `no-user-events`. `einval` gives FreeBSD's answers, except those about
//!   copies. The other two follow POSIX and the manuals: `EBADF` for kevent(2) on a descriptor that is not a queue,
//!   `ESRCH` for process 0, fstat(2) as on Linux, and the lowest free descriptor for a new one.
//!
//! # What the model does not show
//!
//! - It has no filters other than those above. (FreeBSD also copies VNODE and PROCDESC.)
//! - A descriptor that was closed and opened again is recognised by its inode. Eventfds and other anonymous objects
//!   share one inode.
//! - The model looks at pending signals in every call. SIGNAL events record only signals that are blocked and still
//!   pending then, and count a signal once while it is pending. A copy looks at the parent's pending signals every few
//!   milliseconds.
//! - `data` and `fflags` are rough: the number of bytes to read, one error for all errors, and the exit status of
//!   children only.
//! - Only the queues that a child creates avoid the descriptors of dropped queues. Linux gives other objects the lowest
//!   free descriptor.
//! - The model has descriptors of its own: see [`own`].
//! - The model detects a fork that runs no handlers, such as clone(2), at the child's first call. The child does
//!   not learn what happened to the queues before that call. It gets taken events again if they are still ready.

#![cfg(target_os = "linux")]

mod abi;
mod calls;
mod control;
mod copy;
mod events;
mod fork;
mod kernel;
mod knote;
mod linux;
#[allow(missing_docs, reason = "FreeBSD's manual describes them")]
mod names;
mod queue;
mod state;

pub use calls::{close, fstat, kevent, kqueue, kqueuex, socket_pcb};
pub use control::{Call, changes, inject, is_working, own, owns, reset_changes, set_close_on_fork, watched};
pub use kernel::Kernel;
pub use names::*;
