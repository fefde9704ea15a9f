//! Memory that is shared, and memory that makes a process large.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// Four numbers that this process shares with the children it forks.
#[derive(Debug)]
pub struct SharedPage(NonNull<[AtomicU64; 4]>);

impl SharedPage {
    /// Maps a page of four numbers, all zero.
    pub fn new() -> io::Result<SharedPage> {
        map(4096, libc::MAP_SHARED).map(|page| SharedPage(page.cast()))
    }

    /// Returns one of the four numbers.
    pub fn get(&self, index: usize) -> u64 {
        self.cells()[index].load(Ordering::Acquire)
    }

    /// Sets one of the four numbers.
    pub fn set(&self, index: usize, value: u64) {
        self.cells()[index].store(value, Ordering::Release);
    }

    fn cells(&self) -> &[AtomicU64; 4] {
        // SAFETY: the mapping has room for four numbers, begins as zeros, and is never unmapped.
        unsafe { self.0.as_ref() }
    }
}

/// The suffix that asks [`fill_memory`] for huge pages.
pub const HUGE: &str = "-huge";

/// Makes memory resident forever. `memory` is a number of mebibytes.
///
/// The memory is in small pages, like that of a heap that has grown gradually. With [`HUGE`] after the number, the memory is in
/// huge pages, as after `Prefork::huge_pages`.
///
/// # Errors
///
/// If `memory` is not a number, and those of mmap(2).
pub fn fill_memory(memory: &str) -> io::Result<()> {
    let (mebibytes, advice) = match memory.strip_suffix(HUGE) {
        Some(mebibytes) => (mebibytes, libc::MADV_HUGEPAGE),
        None => (memory, libc::MADV_NOHUGEPAGE),
    };
    let mebibytes: usize = mebibytes.parse().map_err(io::Error::other)?;
    if mebibytes == 0 {
        return Ok(());
    }
    let length = mebibytes << 20;
    let memory = map(length, libc::MAP_PRIVATE)?;
    // SAFETY: the mapping has `length` bytes, and only this function knows it.
    unsafe {
        libc::madvise(memory.as_ptr(), length, advice);
        ptr::write_bytes(memory.as_ptr().cast::<u8>(), 1, length);
    }
    Ok(())
}

fn map(length: usize, flags: i32) -> io::Result<NonNull<libc::c_void>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: without `MAP_FIXED` a new mapping replaces nothing.
    let memory = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags | libc::MAP_ANONYMOUS, -1, 0) };
    match NonNull::new(memory) {
        Some(memory) if memory.as_ptr() != libc::MAP_FAILED => Ok(memory),
        _ => Err(io::Error::last_os_error()),
    }
}
