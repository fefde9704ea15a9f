//! The C functions of the model. `reactor/src/sys/kqueue/kernel.rs` declares them, except `forkio_model_owns`, which audits call.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use libc::{c_int, c_uint, timespec};

use crate::{Kevent, fstat, kevent, kqueue, kqueuex, owns, socket_pcb};

fn answer(result: io::Result<c_int>) -> c_int {
    result.unwrap_or_else(|error| {
        // SAFETY: the C library returns the address of this thread's errno.
        unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EINVAL) };
        -1
    })
}

#[unsafe(no_mangle)]
extern "C" fn forkio_model_kqueue() -> c_int {
    answer(kqueue())
}

/// Fails with `ENOSYS` if this kernel has no such function.
#[unsafe(no_mangle)]
extern "C" fn forkio_model_kqueuex(flags: c_uint) -> c_int {
    answer(kqueuex(flags).unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ENOSYS))))
}

/// # Safety
///
/// The pointers must be as kevent(2) requires.
#[unsafe(no_mangle)]
unsafe extern "C" fn forkio_model_kevent(
    queue: c_int,
    changes: *const Kevent,
    nchanges: c_int,
    events: *mut Kevent,
    nevents: c_int,
    timeout: *const timespec,
) -> c_int {
    // SAFETY: the caller passes a timeout, or null.
    let timeout = unsafe { timeout.as_ref() };
    let timeout = timeout.map(|time| Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32));
    let length = |count: c_int| usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller passes as many changes, and as much room, as it says.
    let result = unsafe { kevent(queue, changes, length(nchanges), events, length(nevents), timeout) };
    answer(result.map(|count| count as c_int))
}

/// # Safety
///
/// `stat` must point to room for the structure, as for fstat(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn forkio_model_fstat(fd: c_int, stat: *mut libc::stat) -> c_int {
    // SAFETY: the caller passes room for the structure.
    answer(fstat(fd).map(|found| unsafe { stat.write(found) }).map(|()| 0))
}

/// Returns the address of a socket's control block. Returns 0 if the descriptor is not a socket, or if the kernel does not
/// report it.
#[unsafe(no_mangle)]
extern "C" fn forkio_model_socket_pcb(fd: c_int) -> u64 {
    socket_pcb(fd).unwrap_or(0)
}

#[unsafe(no_mangle)]
extern "C" fn forkio_model_owns(fd: RawFd) -> bool {
    owns(fd)
}
