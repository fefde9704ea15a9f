//! FreeBSD, DragonFly, NetBSD, OpenBSD and macOS.

mod descriptors;
mod reuse_port;
mod threads;

#[cfg(target_os = "freebsd")]
use std::ffi::c_void;
use std::io;

use rustix::process::Signal;

pub(crate) use self::descriptors::*;
pub(crate) use self::reuse_port::*;
pub(crate) use self::threads::*;

/// Replaces pthread_join(3) in the whole program. In a child, libthr returns ESRCH for a thread that had ended before the fork, and
/// Rust's standard library panics. This function returns 0 instead. tokio's blocking pool joins such a thread when a runtime is
/// dropped, or when one of the pool's threads ends. Seen on FreeBSD 15.1-RELEASE-p1.
#[cfg(target_os = "freebsd")]
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_join(thread: libc::pthread_t, value: *mut *mut c_void) -> libc::c_int {
    type Join = unsafe extern "C" fn(libc::pthread_t, *mut *mut c_void) -> libc::c_int;
    // SAFETY: the name ends with a zero byte.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_join".as_ptr()) };
    // SAFETY: the C library has a function of this name, with this type.
    let join = unsafe { std::mem::transmute::<*mut c_void, Join>(next) };
    // SAFETY: the caller has made the same promise.
    match unsafe { join(thread, value) } {
        libc::ESRCH if forkio_reactor::fork::generation() > 0 => 0,
        result => result,
    }
}

/// Returns `None`: these systems have no `MSG_MORE`.
#[cfg(feature = "http")]
pub(crate) fn send_before_end(_: &tokio::net::TcpStream, _: &[u8]) -> Option<io::Result<usize>> {
    None
}

/// Returns `false`: only glibc reuses the stacks of the parent's threads in a child.
pub(crate) fn may_inherit_stacks() -> bool {
    false
}

/// Always fails: we do not know whether the memory of the parent's threads survives a fork.
pub(crate) fn prepare_to_keep_stacks() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "forkio keeps stacks only on Linux, under glibc on x86_64"))
}

/// Fails like [`prepare_to_keep_stacks`].
pub(crate) fn keep_inherited_stacks() -> io::Result<()> {
    prepare_to_keep_stacks()
}

/// Does nothing: stacks are kept only on Linux.
pub(crate) fn keep_stacks_at_forks() -> io::Result<()> {
    Ok(())
}

/// Does nothing: only glibc reuses stacks.
pub(crate) fn occupy_inherited_stacks() -> io::Result<()> {
    Ok(())
}

/// Returns at once: [`occupy_inherited_stacks`] starts no thread on these systems.
pub(crate) fn wait_until_single_threaded() -> io::Result<()> {
    Ok(())
}

/// Makes the kernel send a signal to this process when its parent ends: `PROC_PDEATHSIG_CTL` of procctl(2), FreeBSD 11.2 and
/// DragonFly 6. Returns `false` if the parent has ended already.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
pub(crate) fn end_with_parent(parent: u32, signal: Signal) -> io::Result<bool> {
    let mut signal = signal.as_raw();
    // SAFETY: the kernel reads an int. The id 0 means this process.
    if unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_PDEATHSIG_CTL, (&raw mut signal).cast()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(is_parent(parent))
}

/// Returns `false` if the parent has ended already. These kernels send no signal when a parent ends, so a stuck worker
/// outlives its parent.
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly")))]
pub(crate) fn end_with_parent(parent: u32, _signal: Signal) -> io::Result<bool> {
    Ok(is_parent(parent))
}

fn is_parent(pid: u32) -> bool {
    std::os::unix::process::parent_id() == pid
}
