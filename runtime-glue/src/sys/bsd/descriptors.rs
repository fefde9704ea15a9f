//! The descriptors of this process: each number is asked about.

use std::io;
#[cfg(not(target_os = "openbsd"))]
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};

use forkio_reactor::fork as reactor;
use forkio_reactor::fork::SourceKind;
use rustix::fs::{FileType, OFlags, Stat, fcntl_getfl, fstat};

use crate::SharedObject;
use crate::sys::Descriptor;
use crate::sys::descriptor::addresses;

/// Numbers that are open, in order. (Not every system has a complete `/dev/fd`.)
pub(crate) fn open_descriptors() -> io::Result<Vec<RawFd>> {
    // SAFETY: no memory is involved.
    let limit = unsafe { libc::getdtablesize() };
    // SAFETY: as above.
    Ok((0..limit).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1).collect())
}

/// Looks at a number; `None` if it is not open, or if there is nothing in it that two processes could share.
pub(crate) fn describe(fd: RawFd) -> Option<Descriptor> {
    // SAFETY: the number was open a moment ago; should it be closed meanwhile, the calls below fail or see another file,
    // and neither is dangerous.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = fstat(file).ok()?;
    let kind = reactor::kind(&fd).ok()?;
    if kind == SourceKind::Process || is_queue(fd) {
        // A queue belongs to one process: children have a copy, or nothing.
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

/// Whether it is a queue: other descriptors are `EBADF` to kevent(2). (By fstat(2) it may be a pipe.)
fn is_queue(fd: RawFd) -> bool {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: no change, and room for no event.
    unsafe { libc::kevent(fd, std::ptr::null(), 0, std::ptr::null_mut(), 0, &now) == 0 }
}

/// /dev/null and its like: there is nothing in them.
fn is_memory_device(stat: &Stat) -> bool {
    const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
    let mut devices = DEVICES.iter().filter_map(|path| rustix::fs::stat(*path).ok());
    devices.any(|device| device.st_rdev == stat.st_rdev)
}

/// `F_KINFO` of fcntl(2), FreeBSD 13.1.
#[cfg(target_os = "freebsd")]
fn path(fd: RawFd) -> Option<String> {
    let mut file = MaybeUninit::<libc::kinfo_file>::zeroed();
    // SAFETY: all zero is a value of these fields; the kernel fills a structure of the size that it is told.
    let file = unsafe {
        (*file.as_mut_ptr()).kf_structsize = size_of::<libc::kinfo_file>() as libc::c_int;
        if libc::fcntl(fd, libc::F_KINFO, file.as_mut_ptr()) == -1 {
            return None;
        }
        file.assume_init()
    };
    text(&file.kf_path)
}

/// `F_GETPATH` of fcntl(2).
#[cfg(any(target_os = "dragonfly", target_os = "macos", target_os = "netbsd"))]
fn path(fd: RawFd) -> Option<String> {
    let mut path = MaybeUninit::<[libc::c_char; libc::PATH_MAX as usize]>::zeroed();
    // SAFETY: the kernel writes at most PATH_MAX bytes; all zero is a value.
    let path = unsafe {
        if libc::fcntl(fd, libc::F_GETPATH, path.as_mut_ptr()) == -1 {
            return None;
        }
        path.assume_init()
    };
    text(&path)
}

/// OpenBSD keeps no names of open files.
#[cfg(target_os = "openbsd")]
fn path(_: RawFd) -> Option<String> {
    None
}

/// Up to its zero byte; `None`: there is none.
#[cfg(not(target_os = "openbsd"))]
fn text(bytes: &[libc::c_char]) -> Option<String> {
    let bytes: Vec<u8> = bytes.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}
