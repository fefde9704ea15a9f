//! Inspects epoll instances that other code in the process has made. `/proc/self/fdinfo` lists the registrations of an
//! instance (proc_pid_fdinfo(5)). If the process has one thread, the answers stay true until that thread changes a
//! descriptor or a registration.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{Stat, major, minor};
use rustix::io::Errno;

pub(crate) use super::unix_diag::SocketPeers;
use crate::Token;
use crate::source_kind::SourceKind;
use crate::sys::Queue;
use crate::sys::adoption::{Listed, OpenDescriptors, Registered, WAKER};
use crate::sys::descriptor::{self, borrow, unreadable};

pub(crate) const CAN_LIST: bool = true;

/// Reads the list of an epoll instance, in the order of descriptors. Needs Linux 5.4.
pub(crate) fn list(queue: RawFd) -> io::Result<Vec<Listed>> {
    let path = format!("/proc/self/fdinfo/{queue}");
    let text = fs::read(&path).map_err(|error| unreadable(&path, error))?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"tfd:"));
    let lines: Option<Vec<Listed>> = lines.map(|line| parse(std::str::from_utf8(line).ok()?)).collect();
    let mut lines = lines.ok_or_else(|| unsupported(format!("{path} has no inodes: Linux 5.4 or later shows them")))?;
    lines.sort_by_key(|line| line.fd);
    Ok(lines)
}

/// Returns the listed registrations whose descriptors still refer to the registered files. Fails if the list does not show for
/// certain which files are registered, or if a child cannot have a registration.
pub(crate) fn registered(queue: &Queue, lines: &[Listed]) -> io::Result<Vec<Registered>> {
    let mut registered = Vec::with_capacity(lines.len());
    for lines in lines.chunk_by(|a, b| a.fd == b.fd) {
        registered.extend(find_current(queue, lines)?);
    }
    Ok(registered)
}

/// Parses a line such as `tfd:        4 events: 80000019 data:                4  pos:0 ino:39080 sdev:9`
fn parse(line: &str) -> Option<Listed> {
    let mut fields = line.split(|c: char| c == ':' || c.is_ascii_whitespace()).filter(|field| !field.is_empty());
    let mut field = |name: &str| (fields.next()? == name).then(|| fields.next())?;
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let fd = field("tfd")?.parse().ok()?;
    let events = u32::from_str_radix(field("events")?, 16).ok()?;
    let token = Token(hexadecimal(field("data")?)?.try_into().unwrap_or(usize::MAX));
    field("pos")?;
    Some(Listed { fd, token, inode: hexadecimal(field("ino")?)?, events, device: hexadecimal(field("sdev")?)? })
}

/// Finds the registration of the file that is open now. All `lines` have the same descriptor: the other files were open at
/// it before, and another descriptor or process still has them open.
fn find_current(queue: &Queue, lines: &[Listed]) -> io::Result<Option<Registered>> {
    let fd = lines[0].fd;
    let Some((kind, inode, device)) = examine(fd)? else { return Ok(None) };
    let line = if kind.is_socket() {
        // The inode of a socket belongs to one open file.
        lines.iter().find(|line| (line.inode, line.device) == (inode, device))
    } else if let [line] = lines {
        Some(line)
    } else {
        return Err(io::Error::other(format!(
            "descriptor {fd} is registered {} times: files that were open at it before still exist, and the kernel's list does \
             not tell which one is open now. Deregister a descriptor before you close it",
            lines.len()
        )));
    };
    let Some(line) = line else { return Ok(None) };
    let interest = super::interest_of(line.events).ok_or_else(|| {
        unsupported(format!("descriptor {fd} is registered for the events {:#x}, which mio does not use", line.events))
    })?;
    // The inode of an object that is not a socket may belong to several open files. In the child of an unplanned fork,
    // `holds` may give the parent an event.
    if !kind.is_socket() && !queue.holds(fd, WAKER)? {
        return Ok(None);
    }
    let is_ring = |name: PathBuf| name.as_os_str() == "anon_inode:[io_uring]";
    if kind == SourceKind::Other && fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(is_ring) {
        let text = format!("descriptor {fd} is an io_uring, which a child cannot share: build tokio without it");
        return Err(unsupported(text));
    }
    Ok(Some(Registered { fd, token: line.token, interest, kind, inode }))
}

/// Returns the kind, the inode, and the device number in the encoding of proc(5), which differs from that of fstat(2);
/// `None` if the descriptor is not open.
fn examine(fd: RawFd) -> io::Result<Option<(SourceKind, u64, u64)>> {
    /// `MINORBITS` of the kernel's `dev_t`.
    const MINOR_BITS: u32 = 20;
    let examine = |stat: Stat| {
        let device = u64::from(major(stat.st_dev)) << MINOR_BITS | u64::from(minor(stat.st_dev));
        Ok((descriptor::kind_of_mode(fd, stat.st_mode)?, stat.st_ino, device))
    };
    descriptor::if_open(super::fstat(fd).and_then(examine))
}

fn unsupported(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// Lists the open epoll instances, sockets and pipes, except the descriptors that are known already.
pub(crate) fn open_descriptors(is_known: impl Fn(RawFd) -> bool) -> io::Result<OpenDescriptors> {
    const LIST: &str = "/proc/self/fd";
    let mut open = OpenDescriptors::default();
    for entry in fs::read_dir(LIST).map_err(|error| unreadable(LIST, error))? {
        let entry = entry.map_err(|error| unreadable(LIST, error))?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if is_known(fd) {
            continue;
        }
        // Another thread may have closed the descriptor.
        let Ok(name) = fs::read_link(entry.path()) else { continue };
        let name = name.to_string_lossy();
        let inode = |prefix| name.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok();
        if name == "anon_inode:[eventpoll]" {
            open.queues.push(fd);
        } else if let Some(inode) = inode("socket:[") {
            open.sockets.push((fd, inode));
        } else if let Some(inode) = inode("pipe:[") {
            open.pipes.push((fd, inode));
        }
    }
    open.queues.sort_unstable();
    open.sockets.sort_unstable();
    Ok(open)
}

/// Whether two descriptors refer to one epoll instance. Makes a registration with one descriptor and tries to repeat it with
/// the other: unlike kcmp(2), containers allow this.
pub(crate) fn is_same_queue(a: RawFd, b: RawFd) -> io::Result<bool> {
    // An unconnected socket, registered for no events, gives none.
    let socket = UnixDatagram::unbound()?;
    let (a, b) = (borrow(a)?, borrow(b)?);
    let add = |queue| epoll::add(queue, &socket, EventData::new_u64(0), EventFlags::empty());
    add(a)?;
    // An epoll instance refuses a second registration of the same file and descriptor.
    let added = add(b);
    epoll::delete(a, &socket)?;
    match added {
        // Closing the socket removes the registration: no other descriptor refers to the socket.
        Ok(()) => Ok(false),
        Err(Errno::EXIST) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Interest;
    use crate::sys::syscall;

    fn read(queue: &Queue) -> Vec<Registered> {
        registered(queue, &list(queue.fd()).unwrap()).unwrap()
    }

    #[test]
    fn lines_are_read() {
        let line = "tfd:        4 events: 80000419 data:     ffff00001234  pos:0 ino:39080 sdev:9";
        let token = Token(0xffff_0000_1234_u64 as usize);
        let read = Listed { fd: 4, events: 0x8000_0419, token, inode: 0x39080, device: 9 };
        assert_eq!(parse(line), Some(read));
        assert_eq!(parse("tfd:        4 events: 80000419 data:                1 "), None);
    }

    #[test]
    fn queues_are_told_apart() {
        let (a, b) = (Queue::vacant(), Queue::vacant());
        a.open().unwrap();
        b.open().unwrap();
        let duplicate = syscall!(fcntl(a.fd(), libc::F_DUPFD_CLOEXEC, 0)).unwrap();
        assert!(is_same_queue(a.fd(), duplicate).unwrap() && !is_same_queue(b.fd(), duplicate).unwrap());
        assert!(read(&a).is_empty() && read(&b).is_empty());
        let open = open_descriptors(|_| false).unwrap();
        assert!([a.fd(), b.fd(), duplicate].iter().all(|fd| open.queues.contains(fd)));
        // SAFETY: nothing else owns the duplicate.
        drop(unsafe { OwnedFd::from_raw_fd(duplicate) });
        a.close();
        b.close();
    }

    #[test]
    fn only_the_file_that_is_open_now_is_registered() {
        let queue = Queue::vacant();
        queue.open().unwrap();
        let (stream, _peer) = UnixStream::pair().unwrap();
        let fd = stream.as_raw_fd();
        queue.add(fd, Token(7), Interest::READABLE).unwrap();
        let found = read(&queue);
        assert_eq!((found.len(), found[0].fd, found[0].token), (1, fd, Token(7)));
        assert_eq!((found[0].interest, found[0].kind), (Interest::READABLE, SourceKind::Stream));
        // The duplicate keeps the socket, and so the registration.
        let _kept = stream.try_clone().unwrap();
        let (mut other, _peer) = UnixStream::pair().unwrap();
        assert_eq!(descriptor::replace(other.as_raw_fd(), fd), Ok(()));
        assert!(read(&queue).is_empty());
        queue.add(fd, Token(8), Interest::WRITABLE).unwrap();
        let found = read(&queue);
        assert_eq!((found.len(), found[0].token), (1, Token(8)));
        other.write_all(b"x").unwrap();
        queue.close();
    }
}
