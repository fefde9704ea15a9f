//! What differs between systems, and what is unsafe.
//!
//! One module per family of systems, Linux and the BSDs (macOS among them), and one per kernel queue, with the same names
//! in each. What all of them have is beside them.

#[cfg(not(any(
    target_os = "linux",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "macos"
)))]
compile_error!("the crate forkio runs on Linux, FreeBSD, DragonFly, NetBSD, OpenBSD and macOS");

#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
#[cfg_attr(not(target_os = "linux"), path = "bsd/mod.rs")]
mod system;

// A test build for Linux has a kqueue: CONTRIBUTING.md.
#[cfg_attr(all(target_os = "linux", not(forkio_kqueue)), path = "epoll.rs")]
#[cfg_attr(any(not(target_os = "linux"), forkio_kqueue), path = "kqueue.rs")]
mod queue;

mod descriptor;
mod per_process;
mod process;
// Elsewhere no memory is zero in children.
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
mod process_id;
mod reuse_port;
mod shared_words;
mod sync;

use std::marker::PhantomData;
use std::ptr;

pub(crate) use self::descriptor::Descriptor;
pub(crate) use self::per_process::{NotMade, PerProcess, ProcessKey};
pub(crate) use self::process::*;
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
pub(crate) use self::process_id::process_id;
pub(crate) use self::queue::*;
pub(crate) use self::reuse_port::listen_beside;
pub(crate) use self::shared_words::SharedWords;
pub(crate) use self::system::*;
#[cfg(any(target_os = "dragonfly", target_os = "macos"))]
pub(crate) use std::process::id as process_id;

impl<T> PerProcess<T> {
    /// Nothing is made yet. (Not where the rest is, because loom's atomics cannot be made by a `const fn`.)
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess { newest: sync::AtomicPtr::new(ptr::null_mut()), _owns: PhantomData }
    }
}

/// Which process this is.
pub(crate) fn process_key() -> ProcessKey {
    u64::from(forkio_reactor::fork::generation()) << 32 | u64::from(process_id())
}
