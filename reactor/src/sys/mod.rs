//! The code that differs between systems.
//!
//! # The contract of a kernel queue
//!
//! One folder per kind of queue: `epoll` and `kqueue`. Each defines
//!
//! - for a [`Queue`], which is close-on-exec: `open` and `close`, `add`, `modify`, `delete` and `wait`. A registration is
//!   edge-triggered, and keyed by descriptor. If `IS_EXACT`, adding one twice fails with `AlreadyExists`, and changing a
//!   missing one with `NotFound`; otherwise both succeed. Deleting a missing one fails with `NotFound`. `wait` is one system
//!   call, which is not retried: it clears the events, fills them up to their capacity, and rounds its timeout up.
//! - `Event`, as the kernel writes it, and the module `event`, which reads it. `event::wake` makes the event of a waker.
//! - `WakeSignal`, the kernel object of a waker: each `signal`, from any thread, makes the next `wait` return a
//!   readable event. `signal_at` does the same for a waker that another thread may own, and is async-signal-safe; its
//!   error is an errno. `renew` makes fresh objects for a child, each with the descriptor whose place it takes.
//! - for forks: `Queue::MAY_BE_ABSENT_AFTER_FORK` says whether a child may lack its parent's queue. `is_there_after_fork` tells
//!   whether an open file is at the descriptor of that queue, `holds` whether the file at a descriptor is registered,
//!   `still_has` and `is_still_own` whether a child's descriptor still refers to the parent's file. `ChildQueue` implements
//!   [`QueueCopy`]; only the child can make a `Remake`. By `fstat`, `socket_pcb` and `bare_kind`, `descriptor` identifies files.
//! - with `cponfork`, the module `listing`, which inspects the queues of other code in the process, if the system lists
//!   registrations.
//!
//! # The other sources
//!
//! - `Timer`, which is set to an absolute time of its clock, and counts its expirations from that time, even if the time has
//!   passed. `set` discards the expirations that were not taken, and disarms the timer if there is no setting. `take` returns
//!   the number of expirations, or `WouldBlock`. The timer's owner then records the setting or
//!   the number in the [`TimerState`](crate::timer_state::TimerState) that the timer was made with. For children,
//!   `timer::renewed` continues such a state, and `timer::renewed_by_descriptor` continues a timerfd.
//! - `SignalQueue`, which blocks its signals in the calling thread, and takes signals of this process one by one.
//! - `ProcessHandle`, which watches a process. `try_wait` reaps a child that has ended.

#[cfg(not(unix))]
compile_error!("the crate forkio-reactor needs epoll or kqueue, and fork(2): use mio on this system");

// A test build for Linux may have a kqueue: see CONTRIBUTING.md.
#[cfg_attr(all(any(target_os = "linux", target_os = "android"), not(forkio_kqueue)), path = "epoll/mod.rs")]
#[cfg_attr(not(all(any(target_os = "linux", target_os = "android"), not(forkio_kqueue))), path = "kqueue/mod.rs")]
mod backend;
pub(crate) use self::backend::*;

#[cfg(feature = "cponfork")]
pub(crate) mod adoption;
pub(crate) mod descriptor;
pub(crate) mod process;
pub(crate) mod process_word;
mod queue;
#[cfg(feature = "net")]
pub(crate) mod socket;
// With a kqueue only forks use this module, for timerfds.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[cfg_attr(forkio_kqueue, allow(dead_code))]
pub(crate) mod timerfd;

pub(crate) use self::queue::{Queue, QueueCopy};

/// The events of a `wait`, which returns at most as many as there is capacity for.
pub(crate) type Events = Vec<crate::event::Event>;

impl crate::Interest {
    /// Priority readiness, such as that of out-of-band data on a TCP socket (`EPOLLPRI`). Linux and Android only.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub const PRIORITY: Self = Self::from_bits(crate::interest::PRIORITY).unwrap();

    /// The completion of an `aio(4)` request (`EVFILT_AIO`). FreeBSD, DragonFly and Apple systems only.
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly", target_vendor = "apple"))]
    pub const AIO: Self = Self::from_bits(crate::interest::AIO).unwrap();

    /// The completion of a `lio_listio(2)` request (`EVFILT_LIO`). FreeBSD only.
    #[cfg(target_os = "freebsd")]
    pub const LIO: Self = Self::from_bits(crate::interest::LIO).unwrap();
}

/// Calls a function of libc that reports failure by -1. Does not retry.
macro_rules! syscall {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        // SAFETY: the arguments fulfil what the function's manual page asks for; if that is not obvious, the caller says why.
        // (A wrong descriptor is safe: the call returns EBADF.)
        let result = unsafe { libc::$name($($arg),*) };
        if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    }};
}

/// Implements `AsRawFd` for a type that owns its descriptor through a field.
macro_rules! as_raw_fd {
    ($name:ident, $field:tt) => {
        impl std::os::fd::AsRawFd for $name {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                std::os::fd::AsRawFd::as_raw_fd(&self.$field)
            }
        }
    };
}
pub(crate) use as_raw_fd;
use syscall;
