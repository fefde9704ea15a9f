//! `KERN_PROC` with `KERN_PROC_SHOW_THREADS` of sysctl(2): a `struct kinfo_proc` of the process, and one per thread.

use super::*;

pub(super) use libc::kinfo_proc as Record;

pub(super) fn list(room: &mut [MaybeUninit<Record>]) -> io::Result<Option<usize>> {
    let of_process = libc::KERN_PROC_PID | libc::KERN_PROC_SHOW_THREADS;
    let size = size_of::<Record>() as c_int;
    let most = c_int::try_from(room.len()).unwrap_or(c_int::MAX);
    let process = std::process::id() as i32;
    sysctl(&mut [libc::CTL_KERN, libc::KERN_PROC, of_process, process, size, most], room)
}

/// Returns the id, or `None` for the record of the process, whose id is -1.
pub(super) fn id(record: &Record) -> Option<u64> {
    u64::try_from(record.p_tid).ok()
}

pub(super) fn name(record: &Record) -> String {
    text(&record.p_name)
}

pub(super) fn own_id() -> u64 {
    // SAFETY: no memory is involved.
    u64::try_from(unsafe { libc::getthrid() }).unwrap_or(0)
}
