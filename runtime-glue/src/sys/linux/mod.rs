//! System calls of Linux.

mod descriptors;
#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
mod kept_stacks;
mod reuse_port;
mod stacks;
#[cfg(all(target_env = "gnu", target_arch = "x86_64"))]
mod used_pages;

use std::fs;
use std::io;
use std::thread;

#[cfg(feature = "http")]
use rustix::net::SendFlags;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::gettid;

pub(crate) use self::descriptors::*;
pub(crate) use self::reuse_port::*;
pub(crate) use self::stacks::*;
use crate::Thread;

const TASKS: &str = "/proc/self/task";

/// Returns whether the calling thread is the only one.
pub(crate) fn is_single_threaded() -> io::Result<bool> {
    // The directory of proc_pid_task(5) has two links, and one more for the subdirectory of each thread.
    let links = rustix::fs::stat(TASKS).map_err(|error| unreadable(error.into()))?.st_nlink;
    Ok(links <= 3)
}

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

/// Waits until the calling thread is the only one. The other threads end by themselves, and no code joins them.
pub(crate) fn wait_until_single_threaded() -> io::Result<()> {
    while !is_single_threaded()? {
        thread::yield_now();
    }
    Ok(())
}

/// Sends the last bytes of a stream, which the caller shuts down next. The kernel keeps the bytes until then, for at
/// most 200 ms. It sends them in one segment with the end of the stream (`MSG_MORE` of send(2)). Returns `None`, and
/// sends nothing, if the stream takes no bytes now: the caller must then write as usual.
#[cfg(feature = "http")]
pub(crate) fn send_before_end(stream: &tokio::net::TcpStream, bytes: &[u8]) -> Option<io::Result<usize>> {
    let send = || Ok(rustix::net::send(stream, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?);
    let sent = stream.try_io(tokio::io::Interest::WRITABLE, send);
    (!sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)).then_some(sent)
}

fn unreadable(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {TASKS}: {error}; is /proc mounted?"))
}

/// Makes the kernel send a signal to this process when its parent ends (`PR_SET_PDEATHSIG`). Returns `false` if the parent has
/// ended already.
pub(crate) fn end_with_parent(parent: u32, signal: Signal) -> io::Result<bool> {
    set_parent_process_death_signal(Some(signal))?;
    Ok(getppid().is_some_and(|pid| pid.as_raw_nonzero().get() as u32 == parent))
}
