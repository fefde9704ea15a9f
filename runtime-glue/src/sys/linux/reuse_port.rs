//! `SO_REUSEPORT`, socket(7), and CPUs.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{SockRef, Socket};
use tokio::net::TcpListener;

/// Lets other sockets bind the address of a bound listener.
///
/// The option is set after the bind. Otherwise, it would hide that another program uses the port.
pub(crate) fn share_port(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).set_reuse_port(true)
}

/// Does nothing: on Linux, [`share_port`] works after the bind.
pub(crate) fn prepare_to_bind(_: &Socket) -> io::Result<()> {
    Ok(())
}

/// Lets a socket bind the shared port of `model`, on the same device.
pub(crate) fn join_port(socket: &Socket, model: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)?;
    match model.device()? {
        Some(device) => socket.bind_device(Some(&device)),
        None => Ok(()),
    }
}

/// Makes the kernel prefer a listener for the connections that arrive on a CPU: `SO_INCOMING_CPU`.
pub(crate) fn prefer_on_cpu(listener: &impl AsFd, cpu: usize) -> io::Result<()> {
    SockRef::from(listener).set_cpu_affinity(cpu)
}

/// Returns how many connections may wait in a listener's queue: the argument of listen(2), within the system's limit.
pub(crate) fn backlog(listener: &impl AsFd) -> io::Result<i32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to `info`.
    let result = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut size,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all fields are integers, and those that the kernel did not write are zero.
    let info = unsafe { info.assume_init() };
    // For a listener, tcp_get_info() in the kernel puts the maximum (`sk_max_ack_backlog`) in this field.
    Ok(info.tcpi_sacked.try_into().unwrap_or(i32::MAX))
}

/// Returns the numbers of the CPUs that this process may run on.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect())
}

/// Keeps the calling thread, and the threads that it starts, on one CPU.
pub(crate) fn stay_on_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        // The kernel's answer for a CPU that does not exist. `set` would panic.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    Ok(sched_setaffinity(None, &only)?)
}
