//! `KERN_PROC` with `KERN_PROC_FLAG_LWP` (sys/sysctl.h): a `struct kinfo_proc` per thread.

use super::*;

pub(super) use libc::kinfo_proc as Record;

pub(super) fn list(room: &mut [MaybeUninit<Record>]) -> io::Result<Option<usize>> {
    let of_process = libc::KERN_PROC_PID | libc::KERN_PROC_FLAG_LWP;
    sysctl(&mut [libc::CTL_KERN, libc::KERN_PROC, of_process, std::process::id() as i32], room)
}

pub(super) fn id(record: &Record) -> Option<u64> {
    u64::try_from(record.kp_lwp.kl_tid).ok()
}

pub(super) fn name(record: &Record) -> String {
    text(&record.kp_lwp.kl_comm)
}

pub(super) fn own_id() -> u64 {
    unsafe extern "C" {
        /// Returns the id of the calling thread.
        safe fn lwp_gettid() -> libc::lwpid_t;
    }
    u64::try_from(lwp_gettid()).unwrap_or(0)
}
