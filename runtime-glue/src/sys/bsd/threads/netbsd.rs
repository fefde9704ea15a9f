//! `KERN_LWP` of sysctl(7): a `struct kinfo_lwp` per thread.

use super::*;

pub(super) use libc::kinfo_lwp as Record;

pub(super) fn list(room: &mut [MaybeUninit<Record>]) -> io::Result<Option<usize>> {
    let size = size_of::<Record>() as c_int;
    let most = c_int::try_from(room.len()).unwrap_or(c_int::MAX);
    sysctl(&mut [libc::CTL_KERN, libc::KERN_LWP, std::process::id() as i32, size, most], room)
}

pub(super) fn id(record: &Record) -> Option<u64> {
    u64::try_from(record.l_lid).ok()
}

pub(super) fn name(record: &Record) -> String {
    text(&record.l_name)
}

pub(super) fn own_id() -> u64 {
    // SAFETY: no memory is involved.
    u64::try_from(unsafe { libc::_lwp_self() }).unwrap_or(0)
}
