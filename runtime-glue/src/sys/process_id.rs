//! The process id, without a system call each time.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::zero_in_children;

/// Returns the process id, which is cached in a page that the kernel wipes in each child.
pub(crate) fn process_id() -> u32 {
    /// Null until the page is mapped.
    static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

    // SAFETY: the pointer is null, or points to a page that is never unmapped. An `AtomicU32` may have any value.
    let Some(kept) = (unsafe { PAGE.load(Ordering::Acquire).as_ref() }) else {
        if let Ok(page) = wiped_page() {
            if PAGE.compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                // SAFETY: no other thread has the address of this page.
                let _ = unsafe { munmap(page.cast(), rustix::param::page_size()) };
            }
        }
        return std::process::id();
    };
    match kept.load(Ordering::Relaxed) {
        0 => {
            let id = std::process::id();
            kept.store(id, Ordering::Relaxed);
            id
        }
        id => id,
    }
}

/// Maps a page of zeros that the kernel wipes in each child.
fn wiped_page() -> io::Result<*mut AtomicU32> {
    let size = rustix::param::page_size();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses an unused address for the new mapping, and no other code has it yet.
    unsafe {
        let page = mmap_anonymous(ptr::null_mut(), size, access, MapFlags::PRIVATE)?;
        if let Err(error) = zero_in_children(page, size) {
            munmap(page, size)?;
            return Err(error);
        }
        Ok(page.cast())
    }
}
