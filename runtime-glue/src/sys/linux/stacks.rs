//! The stacks of the parent's threads, which glibc reuses in a child.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
use super::kept_stacks::keep;
#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
pub(crate) use super::kept_stacks::prepare_to_keep_stacks;
use crate::sys::{self, NotMade, PerProcess};

/// The addresses of the thread descriptors whose stacks this process keeps.
static KEPT: PerProcess<HashSet<usize>> = PerProcess::new();

/// Always fails: forkio cannot keep stacks with this C library and processor.
#[cfg(not(all(target_env = "gnu", target_arch = "x86_64")))]
pub(crate) fn prepare_to_keep_stacks() -> io::Result<()> {
    keep().map(|_| ())
}

#[cfg(not(all(target_env = "gnu", target_arch = "x86_64")))]
fn keep() -> io::Result<HashSet<usize>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "forkio keeps stacks only under glibc on x86_64"))
}

/// Prevents glibc from reusing or unmapping the stacks of the threads that were running in the parent at the fork. Once
/// a call has succeeded, later calls in the same process do nothing. Call it before the child starts threads. The
/// function starts no thread itself if the parent has called [`prepare_to_keep_stacks`].
pub(crate) fn keep_inherited_stacks() -> io::Result<()> {
    match KEPT.get_or_try_make(sys::process_key, keep) {
        Ok(_) => Ok(()),
        Err(NotMade::Failed(error)) => Err(error),
        Err(NotMade::InsideItself) => unreachable!("keeping stacks calls nothing of this crate"),
    }
}

/// Whether the child may reuse stacks of the parent's threads: under glibc, if the parent may have had another thread.
pub(crate) fn may_inherit_stacks() -> bool {
    cfg!(target_env = "gnu") && !forkio_reactor::fork::glue::is_single_threaded()
}

/// Makes each later child of a process with several threads [keep the stacks](keep_inherited_stacks) inside fork(2).
/// Does nothing if [`prepare_to_keep_stacks`] fails.
pub(crate) fn keep_stacks_at_forks() -> io::Result<()> {
    extern "C" fn in_child() {
        if may_inherit_stacks() {
            // Ignore an error: `ProcessRuntime` tries again, and returns the error of that attempt.
            let _ = keep_inherited_stacks();
        }
    }

    static IS_INSTALLED: AtomicBool = AtomicBool::new(false);
    if prepare_to_keep_stacks().is_err() || IS_INSTALLED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    // SAFETY: the function exists for as long as the program or library that it is in, and so does its registration.
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => Ok(()),
        error => {
            IS_INSTALLED.store(false, Ordering::Relaxed);
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

/// Prevents new threads of this child from getting the `pthread_t` of a thread that ended before the fork.
///
/// In a child, glibc reuses the stacks of all other threads (`reclaim_stacks`), even those of ended threads that were not
/// joined. The `pthread_t` is part of the stack. A join of the old thread would then join the new thread, or the calling thread
/// itself, and hang. tokio's blocking pool makes such joins: an idle thread that ends joins the thread that ended before it. So
/// this function occupies the stacks with threads that end at once and are not joined, as in the parent.
///
/// musl does not reuse stacks.
pub(crate) fn occupy_inherited_stacks() -> io::Result<()> {
    /// How long to wait for the threads. They take microseconds, unless a lock stays locked: `RuntimeError::InheritedLock`.
    const THREAD_LIMIT: Duration = Duration::from_secs(10);
    /// The stack sizes to request, in bytes. glibc reuses a stack for a request of a quarter of its size or more
    /// (`get_cached_stack`), so these requests find all stacks from 16 KiB to 1 GiB.
    const REQUESTS: [usize; 8] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20];

    let kept = KEPT.get(sys::process_key());
    let mapped = mapped_ranges()?;
    let mut fresh = Vec::new();
    for stack_size in REQUESTS {
        loop {
            let thread = thread::Builder::new().stack_size(stack_size).spawn(|| {})?;
            // The `pthread_t` is an address in the stack.
            let identity = thread.as_pthread_t() as usize;
            if !mapped.iter().any(|range| range.contains(&identity)) {
                // The stack is new, so no free one of this size was left.
                fresh.push(thread);
                break;
            }
            if kept.is_some_and(|kept| kept.contains(&identity)) {
                let error = "glibc reuses stacks that are marked as in use";
                return Err(io::Error::new(io::ErrorKind::Unsupported, error));
            }
            // Neither join nor detach the thread, so that it occupies the stack.
            std::mem::forget(thread);
        }
    }
    // Wait only after all stacks are occupied: when a thread returns its stack, glibc may unmap other free stacks.
    let start = Instant::now();
    for thread in fresh {
        while !thread.is_finished() {
            if start.elapsed() > THREAD_LIMIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::yield_now();
        }
        let _ = thread.join();
    }
    Ok(())
}

fn mapped_ranges() -> io::Result<Vec<Range<usize>>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(maps.lines().filter_map(|line| parse_range(line.split_once(' ')?.0)).collect())
}

/// Parses a range of addresses in the format of `/proc/self/maps`.
pub(super) fn parse_range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}
