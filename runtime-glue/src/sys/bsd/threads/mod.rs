//! The threads of this process, as the kernel lists them.

use std::ffi::{c_char, c_int};
use std::io;
use std::mem::MaybeUninit;

use crate::Thread;

#[cfg_attr(target_os = "freebsd", path = "freebsd.rs")]
#[cfg_attr(target_os = "dragonfly", path = "dragonfly.rs")]
#[cfg_attr(target_os = "netbsd", path = "netbsd.rs")]
#[cfg_attr(target_os = "openbsd", path = "openbsd.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
mod system;

use system::Record;

/// Returns whether the calling thread is the only one. Async-signal-safe.
pub(crate) fn is_single_threaded() -> io::Result<bool> {
    // There is room for more records than a single-threaded process has.
    let mut room = [const { MaybeUninit::<Record>::uninit() }; 4];
    let Some(count) = system::list(&mut room)? else { return Ok(false) };
    // SAFETY: the kernel has filled `count` records.
    let ids = room[..count].iter().filter_map(|record| system::id(unsafe { record.assume_init_ref() }));
    Ok(ids.count() <= 1)
}

pub(crate) fn other_threads() -> io::Result<Vec<Thread>> {
    let own = system::own_id();
    let mut size = 32;
    loop {
        let mut records = Vec::<Record>::with_capacity(size);
        if let Some(count) = system::list(&mut records.spare_capacity_mut()[..size])? {
            // SAFETY: the kernel has filled `count` records.
            unsafe { records.set_len(count) };
            let others = records.iter().filter_map(|record| Some((system::id(record)?, record)));
            let others = others.filter(|(id, _)| *id != own);
            return Ok(others.map(|(id, record)| Thread { id, name: system::name(record) }).collect());
        }
        size *= 2;
    }
}

/// Fills `room` with records of sysctl(3). Returns their number, or `None` if `room` is full or too small.
#[cfg(not(target_os = "macos"))]
fn sysctl(name: &mut [c_int], room: &mut [MaybeUninit<Record>]) -> io::Result<Option<usize>> {
    let mut bytes = size_of_val(room);
    // SAFETY: the kernel reads the name, and writes at most `bytes` bytes to `room`.
    let result = unsafe {
        libc::sysctl(
            name.as_mut_ptr(),
            name.len() as libc::c_uint,
            room.as_mut_ptr().cast(),
            &mut bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    match result {
        0 if bytes % size_of::<Record>() != 0 => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's records of threads have an unknown size"))
        }
        0 => Ok(Some(bytes / size_of::<Record>()).filter(|count| *count < room.len())),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOMEM) => Ok(None),
            error => Err(error),
        },
    }
}

/// Returns the text before the first zero byte, or all of it.
fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
