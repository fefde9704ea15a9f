//! The memory of this process in which threads may have their stacks.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr;

use rustix::param::page_size;

use super::stacks::parse_range;

/// How many addresses the kernel reads in one call (`UIO_MAXIOV`).
pub(super) const READS_AT_ONCE: usize = 1024;

/// Returns the end address of each used page of [`anonymous_ranges`], and whether the page is in memory.
pub(super) fn used_page_ends() -> io::Result<Vec<(usize, bool)>> {
    // See pagemap in the kernel's documentation. Guard pages count as swapped.
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const PAGES_AT_ONCE: usize = 8192;

    let page = page_size();
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut entries = vec![0; PAGES_AT_ONCE * 8];
    let mut ends = Vec::new();
    for range in anonymous_ranges()? {
        for start in range.clone().step_by(page * PAGES_AT_ONCE) {
            let pages = PAGES_AT_ONCE.min((range.end - start) / page);
            let entries = &mut entries[..pages * 8];
            // The read may be short, because another thread may unmap memory at the same time.
            let length = pagemap.read_at(entries, (start / page * 8) as u64)?;
            let entries = entries[..length].chunks_exact(8);
            let entries = entries.map(|entry| entry.first_chunk().map_or(0, |entry| u64::from_ne_bytes(*entry)));
            let used = entries.enumerate().filter(|(_, entry)| entry & (PRESENT | SWAPPED) != 0);
            ends.extend(used.map(|(index, entry)| (start + (index + 1) * page, entry & PRESENT != 0)));
        }
    }
    Ok(ends)
}

/// Returns the ranges of `/proc/self/maps` that may have stacks of threads.
///
/// A guard lies before each stack, and other memory may follow the stack in the same mapping. So if guards are
/// [visible](has_visible_guards), a large mapping without a guard before it is a heap, or ends with the stack of a
/// thread without a guard (`pthread_attr_setguardsize`). Only its last page counts: reading all pages would take 0.1 s
/// per GiB. The stack of such a thread is missing if other memory follows it.
///
/// AddressSanitizer has mappings of terabytes. A stack can only be at the beginning of such a mapping.
fn anonymous_ranges() -> io::Result<Vec<Range<usize>>> {
    const LARGE: usize = 64 << 20;
    const LARGEST: usize = 64 << 30;

    let maps = fs::read_to_string("/proc/self/maps")?;
    let has_visible_guards = has_visible_guards();
    let mut guard_end = 0;
    let mut ranges = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some((range, access)) = fields.next().and_then(parse_range).zip(fields.next()) else { continue };
        if access.starts_with("---") {
            guard_end = range.end;
        }
        // The inode number and the name follow the offset and the device. glibc gives a name only if a tunable asks for it.
        let is_anonymous = fields.nth(2) == Some("0") && fields.next().is_none_or(|name| name.starts_with("[anon"));
        if !(access.starts_with("rw") && access.ends_with('p') && is_anonymous) {
            continue;
        }
        let is_heap = range.len() > LARGE && has_visible_guards && guard_end != range.start;
        ranges.push(match is_heap {
            true => range.end - page_size()..range.end,
            false => range.start..range.end.min(range.start + LARGEST),
        });
    }
    Ok(ranges)
}

/// Whether the guards of stacks are separate mappings. Newer versions of glibc make them inside of the stack's mapping
/// (`MADV_GUARD_INSTALL`).
fn has_visible_guards() -> bool {
    // SAFETY: the string lives as long as the program.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    let version = version.to_str().ok().and_then(|version| version.split_once('.'));
    version.is_some_and(|(major, minor)| major == "2" && minor.parse().is_ok_and(|minor: u32| minor < 41))
}

/// Reads a value at each of at most [`READS_AT_ONCE`] addresses, except where no memory is readable.
pub(super) fn read_each<T: Copy + Default>(addresses: &[usize]) -> io::Result<Vec<(usize, T)>> {
    let size = mem::size_of::<T>();
    let mut values = Vec::new();
    let mut rest = addresses;
    while !rest.is_empty() {
        let mut buffer = vec![T::default(); rest.len()];
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: size * rest.len() };
        let remote: Vec<_> = rest
            .iter()
            .map(|address| libc::iovec { iov_base: ptr::with_exposed_provenance_mut(*address), iov_len: size })
            .collect();
        // SAFETY: the kernel writes to the buffer, and checks the other addresses.
        let read = unsafe {
            libc::process_vm_readv(libc::getpid(), &local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
        };
        let whole = match usize::try_from(read) {
            Ok(read) => read / size,
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) => 0,
            Err(_) => return Err(io::Error::last_os_error()),
        };
        values.extend(rest.iter().copied().zip(buffer).take(whole));
        // The kernel stops at the first address that it cannot read.
        rest = rest.get(whole + 1..).unwrap_or_default();
    }
    Ok(values)
}
