//! `KERN_PROC` with `KERN_PROC_INC_THREAD` (sys/sysctl.h): a `struct kinfo_proc` per thread, as for `procstat -t`.

use super::*;

pub(super) use libc::kinfo_proc as Record;

pub(super) fn list(room: &mut [MaybeUninit<Record>]) -> io::Result<Option<usize>> {
    let of_process = libc::KERN_PROC_PID | libc::KERN_PROC_INC_THREAD;
    sysctl(&mut [libc::CTL_KERN, libc::KERN_PROC, of_process, std::process::id() as i32], room)
}

pub(super) fn id(record: &Record) -> Option<u64> {
    u64::try_from(record.ki_tid).ok()
}

/// Returns the name, which the kernel splits into two fields if it is long (sys/user.h).
pub(super) fn name(record: &Record) -> String {
    text(&record.ki_tdname) + &text(&record.ki_moretdname)
}

pub(super) fn own_id() -> u64 {
    // SAFETY: no memory is involved.
    u64::try_from(unsafe { libc::pthread_getthreadid_np() }).unwrap_or(0)
}
