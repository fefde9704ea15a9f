//! What differs between systems, and what is unsafe.

#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod reuse_port;
#[cfg(target_os = "linux")]
mod shared_words;
#[cfg(target_os = "linux")]
pub(crate) use {descriptors::*, linux::*, reuse_port::*, shared_words::SharedWords};

#[cfg(not(target_os = "linux"))]
compile_error!("the crate forkio runs on Linux only for now");

mod per_process;
mod sync;

use std::marker::PhantomData;
use std::ptr;

pub(crate) use per_process::{NotMade, PerProcess, ProcessKey};

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
