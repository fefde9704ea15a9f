//! The descriptors of this process: fcntl(2) and fstat(2) on each one.

use std::io;
#[cfg(not(target_os = "openbsd"))]
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};

use forkio_reactor::fork::{SourceKind, glue};
use rustix::fs::{FileType, OFlags, Stat, fcntl_getfl, fstat};

use crate::audit::SharedObject;
use crate::sys::Descriptor;
use crate::sys::descriptor::addresses;

/// Returns the open descriptors, in ascending order. (Not every system has a complete `/dev/fd`.)
pub(crate) fn open_descriptors() -> io::Result<Vec<RawFd>> {
    // SAFETY: no memory is involved.
    let limit = unsafe { libc::getdtablesize() };
    // SAFETY: as above.
    let open = (0..limit).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1);
    // The limit may be much larger than the last open descriptor.
    Ok(open.take(how_many()).collect())
}

/// Returns how many descriptors this process has open: `kern.proc.nfds` of sysctl(3), since FreeBSD 13.
#[cfg(target_os = "freebsd")]
fn how_many() -> usize {
    let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_NFDS, 0];
    let mut count: libc::c_int = 0;
    let mut length = size_of_val(&count);
    // SAFETY: the kernel reads the name, and writes at most `length` bytes to `count`.
    let result = unsafe {
        libc::sysctl(name.as_ptr(), name.len() as _, (&raw mut count).cast(), &mut length, std::ptr::null(), 0)
    };
    if result == 0 { usize::try_from(count).unwrap_or(usize::MAX) } else { usize::MAX }
}

/// Returns `usize::MAX`, because the system does not report how many descriptors are open.
#[cfg(not(target_os = "freebsd"))]
fn how_many() -> usize {
    usize::MAX
}

/// Describes a descriptor. Returns `None` if it is closed, or if its object has no state to share.
pub(crate) fn describe(fd: RawFd) -> Option<Descriptor> {
    // SAFETY: the descriptor was open a moment ago. If another thread closes it meanwhile, the calls below fail or see another
    // file, which is harmless.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = fstat(file).ok()?;
    let kind = glue::kind(&fd).ok()?;
    if kind == SourceKind::Process || is_queue(fd) {
        // A queue belongs to one process: a child has a copy, or no queue.
        return None;
    }
    let object = match SharedObject::of_kind(kind) {
        Some(object) => object,
        None => match FileType::from_raw_mode(stat.st_mode as _) {
            FileType::RegularFile if fcntl_getfl(file).ok()?.contains(OFlags::APPEND) => SharedObject::AppendedFile,
            FileType::RegularFile | FileType::Directory => SharedObject::File,
            FileType::CharacterDevice if is_memory_device(&stat) => return None,
            FileType::CharacterDevice | FileType::BlockDevice => SharedObject::Device,
            _ => SharedObject::Other,
        },
    };
    let name = addresses(fd).or_else(|| path(fd));
    let name = name.unwrap_or_else(|| format!("inode {} of device {:#x}", { stat.st_ino }, { stat.st_dev }));
    Some(Descriptor { object, name })
}

/// Returns whether a descriptor is a kqueue: kevent(2) refuses other descriptors. (fstat(2) may call it a pipe.)
fn is_queue(fd: RawFd) -> bool {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call has no changes and no room for events, so the kernel accesses no memory but the timeout.
    unsafe { libc::kevent(fd, std::ptr::null(), 0, std::ptr::null_mut(), 0, &now) == 0 }
}

/// Returns whether a device is /dev/null or a similar one, which has no state.
fn is_memory_device(stat: &Stat) -> bool {
    const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
    let mut devices = DEVICES.iter().filter_map(|path| rustix::fs::stat(*path).ok());
    devices.any(|device| device.st_rdev == stat.st_rdev)
}

/// Returns the path of an open file: `F_KINFO` of fcntl(2), since FreeBSD 13.1.
#[cfg(target_os = "freebsd")]
fn path(fd: RawFd) -> Option<String> {
    let mut file = MaybeUninit::<libc::kinfo_file>::zeroed();
    // SAFETY: zero is valid for all fields. The kernel writes at most `kf_structsize` bytes.
    let file = unsafe {
        (*file.as_mut_ptr()).kf_structsize = size_of::<libc::kinfo_file>() as libc::c_int;
        if libc::fcntl(fd, libc::F_KINFO, file.as_mut_ptr()) == -1 {
            return None;
        }
        file.assume_init()
    };
    text(&file.kf_path)
}

/// Returns the path of an open file: `F_GETPATH` of fcntl(2).
#[cfg(any(target_os = "dragonfly", target_os = "macos", target_os = "netbsd"))]
fn path(fd: RawFd) -> Option<String> {
    let mut path = MaybeUninit::<[libc::c_char; libc::PATH_MAX as usize]>::zeroed();
    // SAFETY: the kernel writes at most PATH_MAX bytes, and zero is valid for the others.
    let path = unsafe {
        if libc::fcntl(fd, libc::F_GETPATH, path.as_mut_ptr()) == -1 {
            return None;
        }
        path.assume_init()
    };
    text(&path)
}

/// Returns `None`, because OpenBSD keeps no names of open files.
#[cfg(target_os = "openbsd")]
fn path(_: RawFd) -> Option<String> {
    None
}

/// Returns the text before the first zero byte, or `None` if it is empty.
#[cfg(not(target_os = "openbsd"))]
fn text(bytes: &[libc::c_char]) -> Option<String> {
    let bytes: Vec<u8> = bytes.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}
