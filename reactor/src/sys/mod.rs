//! Everything that differs between systems, and everything unsafe but the fork protocol's own.
//!
//! # The contract of a kernel queue
//!
//! One file per kind of queue. Each defines
//!
//! - `Queue`, which owns the queue's descriptor (close-on-exec): `new`, `add`, `modify`, `delete` and `wait`. A
//!   registration is keyed by descriptor number; adding one twice is `AlreadyExists`, changing or deleting one that is
//!   not there `NotFound`. All registrations are edge-triggered. `wait` is one system call: it clears the events, fills
//!   them up to their capacity, rounds its timeout up, and returns `Interrupted` rather than retry.
//! - `Event`, `Events` (a vector of them, the capacity being the most a `wait` returns) and the module `event`, which
//!   reads them.
//! - with `cponfork`, `Queue::holds` and `Queue::take_over`, `Remakes` for what only a child can make, and a `QueueCopy`
//!   that implements [the trait](crate::fork::QueueCopy); with `atfork`, `Queue::detach`.
//!
//! A waker's kernel object is a `WakeSignal`: sending makes the queue it is registered with return a readable event,
//! each time anew, from any thread.
//!
//! # The other sources
//!
//! - `timer::Timer`, which is set to an absolute time of its clock, and counts what has expired, also of a time that had
//!   passed by then; `timer::now` reads the clock. With `cponfork`, `timer::renewed` makes one for the child that goes on
//!   where a [`Schedule`](crate::schedule::Schedule) is, and `timer::renewed_by_descriptor` where a descriptor is of which
//!   nothing else is known.
//! - `SignalQueue`, which takes signals of this process one by one, and `ProcessHandle`, which watches a process.
//!
//! Where such a source is a descriptor, the system's file says so by implementing `AsFd` for the public type.

// A test build for Linux has a kqueue: CONTRIBUTING.md.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(forkio_kqueue)))]
mod epoll;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(forkio_kqueue)))]
mod eventfd;
#[cfg(any(not(any(target_os = "linux", target_os = "android")), forkio_kqueue))]
pub(crate) mod kqueue;
#[cfg(all(feature = "os-ext", any(target_os = "linux", target_os = "android"), not(forkio_kqueue)))]
mod pidfd;
#[cfg(all(feature = "os-ext", any(target_os = "linux", target_os = "android"), not(forkio_kqueue)))]
mod signalfd;
// With a kqueue only what forks do with descriptors that are timers.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[cfg_attr(forkio_kqueue, allow(dead_code))]
pub(crate) mod timerfd;

#[cfg(all(any(target_os = "linux", target_os = "android"), not(forkio_kqueue)))]
mod queue {
    #[cfg(feature = "cponfork")]
    pub(crate) use super::epoll::QueueCopy;
    pub(crate) use super::epoll::{Event, Events, Queue, event};
    pub(crate) use super::eventfd::WakeSignal;
    pub(crate) use super::timerfd as timer;
    #[cfg(feature = "os-ext")]
    pub(crate) use super::{pidfd::ProcessHandle, signalfd::SignalQueue, timerfd::Timer};

    /// There are none: whatever a child needs is made before the fork.
    #[cfg(feature = "cponfork")]
    #[derive(Debug)]
    pub(crate) struct Remakes;

    #[cfg(feature = "cponfork")]
    impl Remakes {
        pub(crate) const fn new() -> Remakes {
            Remakes
        }

        pub(crate) fn prepare(&mut self) {}

        pub(crate) fn numbers(&self) -> impl Iterator<Item = std::os::fd::RawFd> {
            std::iter::empty()
        }

        pub(crate) fn remake(&self) -> impl Iterator<Item = (std::os::fd::RawFd, i32)> {
            std::iter::empty()
        }
    }
}
#[cfg(any(not(any(target_os = "linux", target_os = "android")), forkio_kqueue))]
mod queue {
    pub(crate) use super::kqueue::{Event, Events, Queue, WakeSignal, event, timer};
    #[cfg(feature = "os-ext")]
    pub(crate) use super::kqueue::{ProcessHandle, SignalQueue, Timer};
    #[cfg(feature = "cponfork")]
    pub(crate) use super::kqueue::{QueueCopy, Remakes};
}
pub(crate) use self::queue::*;

/// The kernel that the kqueue backend runs on, for this project's tests.
#[doc(hidden)]
pub mod testing {
    #[cfg(any(not(any(target_os = "linux", target_os = "android")), forkio_kqueue))]
    pub use super::kqueue::kernel as kqueue;
}

mod interest;
#[cfg(any(feature = "net", feature = "os-ext"))]
pub(crate) mod socket;

#[cfg(feature = "cponfork")]
pub(crate) mod descriptor;
#[cfg(feature = "cponfork")]
pub(crate) mod process;

/// Calls a function of libc that reports failure by -1, once.
macro_rules! syscall {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        // SAFETY: the arguments fulfil what the function's manual page asks for; the caller says why where it is not
        // plain to see (descriptors are never unsafe: a wrong one gives EBADF).
        let result = unsafe { libc::$name($($arg),*) };
        if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}
use syscall;
