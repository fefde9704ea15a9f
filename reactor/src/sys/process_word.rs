//! Words that read zero in the child of every fork, planned or not, and pairs of fences whose frequent side is cheap.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering, compiler_fence, fence};

#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::thread::{MembarrierCommand, membarrier};

/// The word, and a cache of the process id.
type Words = [AtomicU32; 2];

/// The words while there is no page for them: always zero.
static NONE: Words = [const { AtomicU32::new(0) }; 2];
static WORDS: AtomicPtr<Words> = AtomicPtr::new((&raw const NONE).cast_mut());

#[inline(always)]
fn words() -> &'static Words {
    // SAFETY: `WORDS` points to a static, or to a page that is never unmapped.
    unsafe { &*WORDS.load(Ordering::Relaxed) }
}

/// Returns the word, on a page that the kernel wipes in the child of a fork; zero before [`make_word`].
#[inline(always)]
pub(crate) fn word() -> &'static AtomicU32 {
    &words()[0]
}

/// Returns the process id. Without a page, this costs a system call each time.
pub fn process_id() -> u32 {
    let words = words();
    match words[1].load(Ordering::Relaxed) {
        0 => {
            let id = super::process::id();
            if !ptr::eq(words, &raw const NONE) {
                words[1].store(id, Ordering::Relaxed);
            }
            id
        }
        id => id,
    }
}

/// Makes the page, once. Returns `false` where the system has no such page: then the word stays zero and must not be
/// written, and the caller compares process ids. Fails if mmap(2) has no memory.
pub(crate) fn make_word() -> io::Result<bool> {
    if !ptr::eq(words(), &raw const NONE) {
        return Ok(true);
    }
    // SAFETY: no memory is involved.
    let length = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
    // SAFETY: the kernel chooses the place.
    let page = unsafe { libc::mmap(ptr::null_mut(), length, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page was just made, and nothing else knows it.
    let is_wiped = unsafe { wipe_on_fork(page, length) };
    let none = (&raw const NONE).cast_mut();
    if !is_wiped || WORDS.compare_exchange(none, page.cast(), Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: nothing else knows the page.
        unsafe { libc::munmap(page, length) };
    }
    // Another thread may have been faster.
    Ok(!ptr::eq(words(), none))
}

/// Asks the kernel to wipe the page in each child. Returns whether the kernel does so: by madvise(2) since Linux 4.14, by
/// minherit(2) since FreeBSD 12, NetBSD 8 and OpenBSD 5.6. macOS and DragonFly have no such call.
///
/// # Safety
///
/// The caller owns the page.
unsafe fn wipe_on_fork(page: *mut libc::c_void, length: usize) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: the caller owns the page.
    return unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) == 0 };
    #[cfg(target_os = "freebsd")]
    // SAFETY: the caller owns the page.
    return unsafe { libc::minherit(page, length, libc::INHERIT_ZERO) == 0 };
    #[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
    // SAFETY: the caller owns the page.
    return unsafe { libc::minherit(page, length, libc::MAP_INHERIT_ZERO) == 0 };
    #[cfg(any(target_os = "dragonfly", target_vendor = "apple"))]
    {
        let _ = (page, length);
        false
    }
}

/// Asks the kernel for asymmetric fences: membarrier(2), Linux 4.14. Returns whether it has them.
pub(crate) fn make_fences_asymmetric() -> bool {
    expedited(true)
}

/// Makes the cheap side of a pair of fences, where [`make_fences_asymmetric`] has returned `true`.
#[inline(always)]
pub(crate) fn light_fence() {
    compiler_fence(Ordering::SeqCst);
}

/// Makes the costly side of a pair of fences. If they are asymmetric, every other thread of the process has passed a fence
/// when this returns.
pub(crate) fn heavy_fence(is_asymmetric: bool) {
    fence(Ordering::SeqCst);
    if is_asymmetric {
        // A kernel that does not pass the registration on to a child returns EPERM.
        let _ = expedited(false) || (expedited(true) && expedited(false));
    }
}

/// Calls membarrier(2), or registers the process for that call. Returns whether that succeeded.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn expedited(registers: bool) -> bool {
    use MembarrierCommand::{PrivateExpedited, RegisterPrivateExpedited};
    membarrier(if registers { RegisterPrivateExpedited } else { PrivateExpedited }).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn expedited(_: bool) -> bool {
    false
}
