//! The descriptors of this process, as `/proc` shows them.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use forkio_reactor::fork::{SourceKind, glue};
use rustix::fs::{FileType, OFlags, fstat, major};

use crate::audit::SharedObject;
use crate::sys::Descriptor;
use crate::sys::descriptor::addresses;

const LIST: &str = "/proc/self/fd";

/// Returns the open descriptors in ascending order, including that of the list itself, which is closed by now.
pub(crate) fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot read {LIST}: {error}; is /proc mounted?"));
    let mut descriptors = Vec::new();
    for entry in fs::read_dir(LIST).map_err(failed)? {
        descriptors.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    descriptors.sort_unstable();
    #[cfg(all(forkio_kqueue, not(forkio_libkqueue)))]
    descriptors.retain(|fd| !forkio_model_owns(*fd));
    Ok(descriptors)
}

// In a test build, the model of kqueue(2) has descriptors that a program must not see. See CONTRIBUTING.md.
#[cfg(all(forkio_kqueue, not(forkio_libkqueue)))]
unsafe extern "C" {
    safe fn forkio_model_owns(fd: RawFd) -> bool;
}

/// Describes a descriptor. Returns `None` if it is closed, or if its object has no state to share.
pub(crate) fn describe(fd: RawFd) -> Option<Descriptor> {
    // A path may contain any bytes.
    let name = fs::read_link(format!("{LIST}/{fd}")).ok()?.to_string_lossy().into_owned();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let flags = OFlags::from_bits_retain(open_flags(&info)?);
    let object = match glue::kind(&fd).ok()? {
        _ if flags.contains(OFlags::PATH) => return None,
        SourceKind::Process => return None,
        kind => SharedObject::of_kind(kind),
    };
    match object {
        Some(object @ (SharedObject::Listener | SharedObject::Datagram | SharedObject::Stream)) => {
            Some(Descriptor { object, name: addresses(fd).unwrap_or(name) })
        }
        Some(object) => Some(Descriptor { object, name }),
        None => Some(Descriptor { object: examine(fd, &name, &info, flags)?, name }),
    }
}

/// Finds the object of a descriptor whose source kind does not identify the object.
fn examine(fd: RawFd, name: &str, info: &str, flags: OFlags) -> Option<SharedObject> {
    /// The major number of /dev/null, zero, full, random and urandom (Documentation/admin-guide/devices.txt).
    const MEMORY_DEVICES: u32 = 1;

    // SAFETY: the descriptor was open a moment ago. If another thread closes it meanwhile, the call fails or sees another file,
    // which is harmless.
    let stat = fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
    Some(match FileType::from_raw_mode(stat.st_mode) {
        // The file is a namespace, or another file without a path.
        FileType::RegularFile if !name.starts_with('/') => SharedObject::Other,
        FileType::RegularFile if is_locked(info) => SharedObject::LockedFile,
        FileType::RegularFile if flags.contains(OFlags::APPEND) => SharedObject::AppendedFile,
        FileType::RegularFile | FileType::Directory => SharedObject::File,
        FileType::CharacterDevice if major(stat.st_rdev) == MEMORY_DEVICES => return None,
        FileType::CharacterDevice | FileType::BlockDevice => SharedObject::Device,
        _ if name == "anon_inode:[eventfd]" => SharedObject::Eventfd,
        _ => SharedObject::Other,
    })
}

/// Parses the `flags` of proc_pid_fdinfo(5), which are octal.
fn open_flags(info: &str) -> Option<u32> {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(flags.trim(), 8).ok()
}

/// Returns whether the open file description holds a lock. (A `POSIX` lock belongs to the process: children lack it.)
fn is_locked(info: &str) -> bool {
    let mut locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    locks.any(|lock| lock.contains("FLOCK") || lock.contains("OFDLCK"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_is_read() {
        let info =
            "pos:\t0\nflags:\t02102001\nmnt_id:\t29\nino:\t7\nlock:\t1: FLOCK  ADVISORY  WRITE 1 00:1d:7 0 EOF\n";
        let flags = OFlags::from_bits_retain(open_flags(info).unwrap());
        assert!(flags.contains(OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC) && !flags.contains(OFlags::PATH));
        assert!(is_locked(info));
        assert!(!is_locked("flags:\t0\nlock:\t1: POSIX  ADVISORY  WRITE 1 00:1d:7 0 EOF\n"));
        assert_eq!(open_flags("pos:\t0\n"), None);
    }
}
