//! Memory that a process and its children share.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Words in memory that this process shares with its children (`MAP_SHARED`, mmap(2)), initially zero.
pub(crate) struct SharedWords {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the words are atomics, and no thread owns the mapping.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `count` words, or one if `count` is 0.
    pub(crate) fn new(count: usize) -> io::Result<SharedWords> {
        let size = count.max(1) * size_of::<AtomicU64>();
        // SAFETY: the kernel chooses an unused address.
        let first =
            unsafe { mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED) }?;
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedWords { first, count: count.max(1) })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page aligned, has `count` words, and stays until drop. Zero is a valid atomic.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: `new` mapped it with this size, and no references are left. Other processes have mappings of their own.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

impl fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
