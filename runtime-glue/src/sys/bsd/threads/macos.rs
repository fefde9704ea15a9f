//! proc_pidinfo(): the ids and the names of the threads (xnu: bsd/kern/proc_info.c).

use super::*;

/// A thread id, as pthread_threadid_np(3) returns it.
pub(super) type Record = u64;

/// Flavours that are missing in `libc` (bsd/sys/proc_info.h, and its private part).
const LIST_OF_IDS: c_int = 28;
const THREAD_BY_ID: c_int = 15;

pub(super) fn list(room: &mut [MaybeUninit<Record>]) -> io::Result<Option<usize>> {
    match info(LIST_OF_IDS, 0, room)? / size_of::<Record>() {
        count if count < room.len() => Ok(Some(count)),
        _ => Ok(None),
    }
}

pub(super) fn id(record: &Record) -> Option<u64> {
    Some(*record)
}

/// Returns the name, or an empty one if the thread has ended meanwhile.
pub(super) fn name(record: &Record) -> String {
    let mut thread = [MaybeUninit::<libc::proc_threadinfo>::zeroed()];
    match info(THREAD_BY_ID, *record, &mut thread) {
        // SAFETY: all fields are integers, and those that the kernel did not write are zero.
        Ok(_) => text(&unsafe { thread[0].assume_init_ref() }.pth_name),
        Err(_) => String::new(),
    }
}

pub(super) fn own_id() -> u64 {
    let mut id = 0;
    // SAFETY: the call writes the id of the calling thread to `id`, and cannot fail.
    unsafe { libc::pthread_threadid_np(0, &mut id) };
    id
}

/// Fills `room`. Returns the number of bytes.
fn info<T>(flavour: c_int, argument: u64, room: &mut [MaybeUninit<T>]) -> io::Result<usize> {
    let size = c_int::try_from(size_of_val(room)).unwrap_or(c_int::MAX);
    // SAFETY: the kernel writes at most `size` bytes to `room`.
    let bytes =
        unsafe { libc::proc_pidinfo(std::process::id() as i32, flavour, argument, room.as_mut_ptr().cast(), size) };
    match usize::try_from(bytes) {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}
