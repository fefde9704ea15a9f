//! Words that read zero in the child of every fork, planned or not, and pairs of fences whose frequent side is cheap.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering, compiler_fence, fence};

// The call that makes the kernel wipe a page in each child.
#[cfg(target_os = "freebsd")]
use libc::{INHERIT_ZERO as WIPE, minherit as advise};
#[cfg(any(target_os = "linux", target_os = "android"))]
use libc::{MADV_WIPEONFORK as WIPE, madvise as advise};
#[cfg(any(target_os = "netbsd", target_os = "openbsd"))]
use libc::{MAP_INHERIT_ZERO as WIPE, minherit as advise};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::thread::{MembarrierCommand, membarrier};

/// macOS and DragonFly have no such call. Linux has it since 4.14, FreeBSD since 12, NetBSD since 8, OpenBSD since 5.6.
#[cfg(any(target_os = "dragonfly", target_vendor = "apple"))]
unsafe fn advise(_: *mut libc::c_void, _: usize, _: libc::c_int) -> libc::c_int {
    -1
}
#[cfg(any(target_os = "dragonfly", target_vendor = "apple"))]
const WIPE: libc::c_int = 0;

/// The word, and a cache of the process id.
type Words = [AtomicU32; 2];

/// The words while there is no page for them: always zero.
static NO_PAGE: Words = [const { AtomicU32::new(0) }; 2];
static WORDS: AtomicPtr<Words> = AtomicPtr::new((&raw const NO_PAGE).cast_mut());

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
            if !ptr::eq(words, &raw const NO_PAGE) {
                words[1].store(id, Ordering::Relaxed);
            }
            id
        }
        id => id,
    }
}

/// Returns the word, if there is a page for it.
pub(crate) fn wiped_word() -> Option<&'static AtomicU32> {
    let words = WORDS.load(Ordering::Acquire);
    // SAFETY: as in `words`.
    (!ptr::eq(words, &raw const NO_PAGE)).then(|| unsafe { &(*words)[0] })
}

/// Makes the page, once, with this value of the word. Where the system has no such page, the word stays zero. Fails if mmap(2)
/// has no memory.
pub(crate) fn make_word(value: u32) -> io::Result<()> {
    if wiped_word().is_some() {
        return Ok(());
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
    let is_wiped = unsafe {
        // `words` does not synchronise with this thread.
        (*page.cast::<AtomicU32>()).store(value, Ordering::Relaxed);
        advise(page, length, WIPE) == 0
    };
    let no_page = (&raw const NO_PAGE).cast_mut();
    // Another thread may have been faster.
    if !is_wiped || WORDS.compare_exchange(no_page, page.cast(), Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: nothing else knows the page.
        unsafe { libc::munmap(page, length) };
    }
    Ok(())
}

/// Asks the kernel for asymmetric fences: membarrier(2), Linux 4.14. Returns whether it has them.
pub(crate) fn make_fences_asymmetric() -> bool {
    make_membarrier(true)
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
        let _ = make_membarrier(false) || (make_membarrier(true) && make_membarrier(false));
    }
}

/// Calls membarrier(2), or registers the process for that call. Returns whether that succeeded.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn make_membarrier(registers: bool) -> bool {
    use MembarrierCommand::{PrivateExpedited, RegisterPrivateExpedited};
    membarrier(if registers { RegisterPrivateExpedited } else { PrivateExpedited }).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn make_membarrier(_: bool) -> bool {
    false
}
