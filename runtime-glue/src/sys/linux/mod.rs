//! System calls of Linux.

mod descriptors;
mod reuse_port;

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::thread::JoinHandleExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::mm::{Advice, madvise};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::gettid;

pub(crate) use self::descriptors::*;
pub(crate) use self::reuse_port::*;
use crate::Thread;

const TASKS: &str = "/proc/self/task";

/// Whether the calling thread is the only one.
pub(crate) fn is_single_threaded() -> io::Result<bool> {
    // proc_pid_task(5) has a subdirectory for each thread, so it has two links and one for each thread.
    let links = rustix::fs::stat(TASKS).map_err(|error| unreadable(error.into()))?.st_nlink;
    Ok(links <= 3)
}

/// The other threads of this process.
pub(crate) fn other_threads() -> io::Result<Vec<Thread>> {
    let own = u64::from(gettid().as_raw_nonzero().get() as u32);
    let mut threads = Vec::new();
    for entry in fs::read_dir(TASKS).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()).filter(|id| *id != own) else {
            continue;
        };
        // A thread that has ended meanwhile has no name.
        if let Ok(name) = fs::read_to_string(entry.path().join("comm")) {
            threads.push(Thread { id, name: name.trim_end().to_owned() });
        }
    }
    Ok(threads)
}

/// Makes the kernel wipe the page in each child (`MADV_WIPEONFORK` of madvise(2), Linux 4.14).
///
/// # Safety
///
/// The page must not be in use yet.
pub(super) unsafe fn zero_in_children(page: *mut c_void, size: usize) -> io::Result<()> {
    // SAFETY: the caller has made the same promise.
    Ok(unsafe { madvise(page, size, Advice::LinuxWipeOnFork) }?)
}

/// Whether the child has to [`occupy_inherited_stacks`]: under glibc, if there may have been another thread.
pub(crate) fn may_inherit_stacks() -> bool {
    cfg!(target_env = "gnu") && !forkio_reactor::fork::glue::is_single_threaded()
}

/// Keeps glibc from giving the `pthread_t` of a thread that ended before the fork to a thread made after it.
///
/// In a child, glibc reuses the stacks of all other threads (`__reclaim_stacks`), also those of ended threads that were not
/// joined. The `pthread_t` is part of the stack. A join of the old thread would then join the new thread, or the calling thread
/// itself, and hang. tokio's blocking pool makes such joins: an idle thread that ends joins the thread that ended before it. So
/// this function occupies the stacks with threads that end at once and are not joined, as in the parent.
///
/// musl keeps no stacks.
pub(crate) fn occupy_inherited_stacks() -> io::Result<()> {
    /// The limit for a wait of microseconds, unless a lock is missing: see `RuntimeError::InheritedLock`.
    const THREAD_LIMIT: Duration = Duration::from_secs(10);
    /// glibc reuses a stack for a request of a quarter of its size or more (`get_cached_stack`), so these requests find all
    /// stacks from 16 KiB to 1 GiB.
    const REQUESTS: [usize; 8] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20];

    let mapped = mapped_ranges()?;
    let mut fresh = Vec::new();
    for stack_size in REQUESTS {
        loop {
            let thread = thread::Builder::new().stack_size(stack_size).spawn(|| {})?;
            // The `pthread_t` is an address in the stack.
            let identity = thread.as_pthread_t() as usize;
            if !mapped.iter().any(|range| range.contains(&identity)) {
                // A new stack: no free one of this size was left.
                fresh.push(thread);
                break;
            }
            // Neither joined nor detached.
            std::mem::forget(thread);
        }
    }
    // Only after all are occupied: when a stack is returned, glibc may unmap other free stacks.
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

/// Waits until the kernel has removed the ended threads, which no code joins.
pub(crate) fn wait_until_single_threaded() -> io::Result<()> {
    while !is_single_threaded()? {
        thread::yield_now();
    }
    Ok(())
}

/// The address ranges of `/proc/self/maps`.
fn mapped_ranges() -> io::Result<Vec<Range<usize>>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let parse = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let (end, _) = rest.split_once(' ')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    Ok(maps.lines().filter_map(parse).collect())
}

fn unreadable(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("reading {TASKS}: {error}; is /proc mounted?"))
}

/// Makes the kernel send SIGTERM to this process when its parent ends (`PR_SET_PDEATHSIG`). Returns `false` if the parent has
/// ended already.
pub(crate) fn terminate_with_parent(parent: u32) -> io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(getppid().is_some_and(|pid| pid.as_raw_nonzero().get() as u32 == parent))
}
