//! The code that differs between systems, and most of the unsafe code.
//!
//! `linux` and `bsd` (with macOS) define the same names, as do `epoll.rs` and `kqueue.rs`. Others compile everywhere.

#[cfg(not(any(
    target_os = "linux",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "macos"
)))]
compile_error!("the crate forkio runs on Linux, FreeBSD, DragonFly, NetBSD, OpenBSD, macOS and Windows");

#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
#[cfg_attr(not(target_os = "linux"), path = "bsd/mod.rs")]
mod system;

// `forkio_kqueue` is a test build for Linux: see CONTRIBUTING.md.
#[cfg_attr(all(target_os = "linux", not(forkio_kqueue)), path = "epoll.rs")]
#[cfg_attr(any(not(target_os = "linux"), forkio_kqueue), path = "kqueue.rs")]
mod queue;

mod descriptor;
mod per_process;
mod process;
mod reuse_port;
mod shared_words;
mod supervision;
mod sync;

use std::marker::PhantomData;
use std::ptr;

use forkio_reactor::fork::{generation, glue};

pub(crate) use self::descriptor::Descriptor;
pub(crate) use self::per_process::{NotMade, PerProcess, ProcessKey};
pub(crate) use self::process::*;
pub(crate) use self::queue::*;
pub(crate) use self::reuse_port::{bind_beside, listen_beside, start_listening};
pub(crate) use self::shared_words::SharedWords;
pub(crate) use self::supervision::*;
pub(crate) use self::sync::this_thread;
pub(crate) use self::system::*;

impl<T> PerProcess<T> {
    /// Creates a `PerProcess` without a value. (This is not in `per_process.rs`, because a `const fn` cannot make loom's atomics.)
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess { newest: sync::AtomicPtr::new(ptr::null_mut()), _owns: PhantomData }
    }
}

pub(crate) fn process_key() -> ProcessKey {
    u64::from(generation()) << 32 | u64::from(glue::process_id())
}
