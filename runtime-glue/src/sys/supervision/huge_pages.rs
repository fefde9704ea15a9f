//! Memory in huge pages.

use std::io;

/// Puts private anonymous memory into huge pages, by `MADV_HUGEPAGE`, and by `MADV_COLLAPSE` since Linux 6.1. Skips
/// mappings that the kernel refuses, and only logs an error, because a server works without huge pages.
pub(crate) fn use_huge_pages() {
    let start = std::time::Instant::now();
    match collapse_mappings() {
        Ok(bytes) => tracing::info!(mib = bytes >> 20, took = ?start.elapsed(), "put memory into huge pages"),
        Err(error) => tracing::warn!(%error, "put no memory into huge pages; this needs Linux 6.1"),
    }
}

/// Returns how many bytes it has collapsed, or the first error if the kernel has refused all mappings.
#[cfg(target_os = "linux")]
fn collapse_mappings() -> io::Result<usize> {
    const HUGE: usize = 2 << 20;
    /// The crate libc does not have this constant for all C libraries.
    const MADV_COLLAPSE: libc::c_int = 25;

    let (mut collapsed, mut refused) = (0, Ok(0));
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let Some(range) = private_anonymous(line) else { continue };
        let start = range.start.next_multiple_of(HUGE);
        let end = range.end / HUGE * HUGE;
        if start >= end {
            continue;
        }
        let advise = |start: usize, length, advice| {
            // SAFETY: the call changes how memory is backed, not its contents. A mapping that was unmapped meanwhile gives an
            // error.
            unsafe { libc::madvise(start as *mut _, length, advice) }
        };
        advise(start, end - start, libc::MADV_HUGEPAGE);
        // The kernel returns an error if a part of the range has no pages yet, even if it has collapsed the other parts.
        for start in (start..end).step_by(HUGE) {
            if advise(start, HUGE, MADV_COLLAPSE) == 0 {
                collapsed += HUGE;
            } else if refused.is_ok() {
                refused = Err(io::Error::last_os_error());
            }
        }
    }
    if collapsed == 0 { refused } else { Ok(collapsed) }
}

#[cfg(not(target_os = "linux"))]
fn collapse_mappings() -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Parses a line of `/proc/self/maps`. Returns the mapping's range if the mapping is private, writable and anonymous.
#[cfg(target_os = "linux")]
fn private_anonymous(line: &str) -> Option<std::ops::Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_private = fields.next()? == "rw-p";
    let (_offset, _device, inode, name) = (fields.next(), fields.next(), fields.next()?, fields.next());
    let is_anonymous = inode == "0" && name.is_none_or(|name| name == "[heap]" || name.starts_with("[anon"));
    if !is_private || !is_anonymous {
        return None;
    }
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read() {
        let heap = "5617b1a2c000-5617b1a4d000 rw-p 00000000 00:00 0                          [heap]";
        assert_eq!(private_anonymous(heap), Some(0x5617_b1a2_c000..0x5617_b1a4_d000));
        assert!(private_anonymous("7f0000000000-7f0000200000 rw-p 00000000 00:00 0").is_some());
        for other in [
            "7f0000000000-7f0000200000 rw-s 00000000 00:01 5 /dev/zero (deleted)",
            "7f0000000000-7f0000200000 r--p 00000000 00:00 0",
            "7ffd6bd5b000-7ffd6bd7c000 rw-p 00000000 00:00 0 [stack]",
        ] {
            assert_eq!(private_anonymous(other), None, "{other}");
        }
    }
}
