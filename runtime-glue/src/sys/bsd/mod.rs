//! FreeBSD, DragonFly, NetBSD, OpenBSD and macOS.

mod descriptors;
mod reuse_port;
mod threads;

#[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
use std::ffi::c_void;
use std::io;

pub(crate) use self::descriptors::*;
pub(crate) use self::reuse_port::*;
pub(crate) use self::threads::*;

/// Has the page be zero in every child: minherit(2) of FreeBSD 12, NetBSD 8 and OpenBSD 5.6.
///
/// # Safety
///
/// Nobody uses the page yet.
#[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
pub(super) unsafe fn zero_in_children(page: *mut c_void, size: usize) -> io::Result<()> {
    #[cfg(target_os = "freebsd")]
    use libc::INHERIT_ZERO as ZERO;
    #[cfg(not(target_os = "freebsd"))]
    use libc::MAP_INHERIT_ZERO as ZERO;

    // SAFETY: the caller's promise.
    match unsafe { libc::minherit(page, size, ZERO) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Only glibc hands the stacks of threads on to others.
pub(crate) fn may_inherit_stacks() -> bool {
    false
}

/// There are none.
pub(crate) fn occupy_inherited_stacks() -> io::Result<()> {
    Ok(())
}

/// Nothing has been made that would have to go.
pub(crate) fn wait_until_single_threaded() -> io::Result<()> {
    Ok(())
}

/// Has this process sent SIGTERM when its parent ends: `PROC_PDEATHSIG_CTL` of procctl(2), FreeBSD 11.2 and DragonFly 6.
/// `false`: it has ended already.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
pub(crate) fn terminate_with_parent(parent: u32) -> io::Result<bool> {
    let mut signal = libc::SIGTERM;
    // SAFETY: the kernel reads an int. The id 0 means this process.
    if unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_PDEATHSIG_CTL, (&raw mut signal).cast()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(is_parent(parent))
}

/// The kernel sends no signal when a parent ends: a worker that is stuck, and does not see it, stays. `false`: it has ended
/// already.
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly")))]
pub(crate) fn terminate_with_parent(parent: u32) -> io::Result<bool> {
    Ok(is_parent(parent))
}

fn is_parent(pid: u32) -> bool {
    std::os::unix::process::parent_id() == pid
}
