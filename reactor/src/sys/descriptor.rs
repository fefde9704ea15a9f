//! Inspects and replaces descriptors of any kind, for forks.

use std::ffi::CStr;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::sockopt::socket_type;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketType};
use rustix::path::DecInt;
#[cfg(not(target_vendor = "apple"))]
use rustix::pipe::PipeFlags;
use socket2::{Domain, Socket, Type};

use super::{bare_kind, fstat, socket_pcb, syscall};
use crate::source_kind::SourceKind;

/// Borrows a descriptor for a system call. If the descriptor is not open, the call returns EBADF.
#[inline(always)]
pub(crate) fn borrow(fd: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the descriptor is not -1, and only system calls that leave it open get it.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Device and inode: the same for all duplicates of a socket or pipe. (Socket inodes count up to 2^32 and begin again, so a
/// very old socket and a new one may share an inode.) For sockets that have no inode, another number from the kernel takes
/// its place.
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity(fd: RawFd) -> io::Result<Identity> {
    let stat = fstat(fd)?;
    #[allow(clippy::unnecessary_cast, reason = "systems differ in the types")]
    let (device, inode) = (stat.st_dev as u64, stat.st_ino as u64);
    let pcb = if inode == 0 { socket_pcb(fd) } else { None };
    Ok(pcb.map_or((device, inode), |pcb| (u64::MAX, pcb)))
}

/// The identity of an open file, and whether it reads or writes: the two ends of a pipe may share an inode.
pub(crate) type OpenFile = (Identity, OFlags);

pub(crate) fn open_file(fd: RawFd) -> io::Result<OpenFile> {
    Ok((identity(fd)?, access_mode(fd)?))
}

fn access_mode(fd: RawFd) -> Result<OFlags, Errno> {
    Ok(rustix::fs::fcntl_getfl(borrow(fd)?)? & OFlags::ACCMODE)
}

/// Determines the kind of a bare descriptor.
pub(crate) fn kind(fd: RawFd) -> io::Result<SourceKind> {
    bare_kind(fd).map_or_else(|| kind_of_mode(fd, fstat(fd)?.st_mode), Ok)
}

/// Whether the descriptor refers to an object that may be registered as this kind.
pub(crate) fn has_kind(fd: RawFd, registered: SourceKind) -> io::Result<bool> {
    use SourceKind::{Datagram, Pair, Pipe, Stream, Waker};
    Ok(if_open(kind(fd))?.is_some_and(|found| {
        found == registered || matches!((registered, found), (Pair, Stream | Datagram | Pipe) | (Waker, Pipe))
    }))
}

/// Like [`kind`], for a descriptor that has this `st_mode`.
pub(super) fn kind_of_mode(fd: RawFd, mode: libc::mode_t) -> io::Result<SourceKind> {
    Ok(match mode & libc::S_IFMT {
        libc::S_IFSOCK => match socket_type(borrow(fd)?)? {
            SocketType::DGRAM | SocketType::RAW => SourceKind::Datagram,
            _ if is_listening(fd)? => SourceKind::Listener,
            _ => SourceKind::Stream,
        },
        libc::S_IFIFO => SourceKind::Pipe,
        libc::S_IFCHR => SourceKind::Other,
        // An object without a file type, or a file with a path.
        _ => match name_in_proc(fd, &mut [MaybeUninit::uninit(); NAME_LENGTH])? {
            b"anon_inode:[eventpoll]" => SourceKind::Queue,
            b"anon_inode:[timerfd]" => SourceKind::Timer,
            b"anon_inode:[signalfd]" => SourceKind::Signal,
            b"anon_inode:[pidfd]" => SourceKind::Process,
            b"anon_inode:inotify" | b"anon_inode:[fanotify]" => SourceKind::Watch,
            // Linux 6.9 and later have pidfs.
            name if name.starts_with(b"pidfd:") => SourceKind::Process,
            // Without /proc the kind is unknown.
            _ => SourceKind::Other,
        },
    })
}

/// Whether a stream socket listens. Apple systems, DragonFly, and releases of NetBSD and OpenBSD do not tell. There, a socket
/// without a peer counts as a listener.
fn is_listening(fd: RawFd) -> io::Result<bool> {
    #[cfg(not(target_vendor = "apple"))]
    match rustix::net::sockopt::socket_acceptconn(borrow(fd)?) {
        Err(Errno::NOPROTOOPT) => {}
        listens => return Ok(listens?),
    }
    Ok(borrow(fd).and_then(rustix::net::getpeername).is_err())
}

/// More bytes than the longest name that matters.
const NAME_LENGTH: usize = 32;

/// Returns the beginning of the name that proc(5) gives a descriptor in `fd/`, or nothing without /proc. Does not format or
/// allocate: each page of code or memory that a child uses first costs a page fault.
fn name_in_proc(fd: RawFd, name: &mut [MaybeUninit<u8>; NAME_LENGTH]) -> Result<&[u8], Errno> {
    const FOLDER: &[u8; 14] = b"/proc/self/fd/";
    let (mut path, number) = ([0; NAME_LENGTH], DecInt::new(fd));
    path[..FOLDER.len()].copy_from_slice(FOLDER);
    path[FOLDER.len()..][..number.as_bytes().len()].copy_from_slice(number.as_bytes());
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::NAMETOOLONG)?;
    match rustix::fs::readlinkat_raw(rustix::fs::CWD, path, name) {
        Ok((name, _)) => Ok(name),
        // EINVAL: NetBSD has no name for most kinds of objects.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => Ok(&[]),
        Err(error) => Err(error),
    }
}

/// Makes a connected socket pair, non-blocking and close-on-exec.
pub(crate) fn pair(kind: Type) -> io::Result<[Socket; 2]> {
    #[cfg(not(target_vendor = "apple"))]
    let kind = kind.nonblocking();
    let (a, b) = Socket::pair(Domain::UNIX, kind, None)?;
    #[cfg(target_vendor = "apple")]
    [&a, &b].into_iter().try_for_each(|end| end.set_nonblocking(true))?;
    Ok([a, b])
}

/// Opens a pipe. Returns the reading end, then the writing end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(not(target_vendor = "apple"))]
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    #[cfg(target_vendor = "apple")]
    let (reader, writer) = rustix::pipe::pipe()?;
    #[cfg(target_vendor = "apple")]
    for end in [&reader, &writer] {
        rustix::io::ioctl_fioclex(end)?;
        rustix::io::ioctl_fionbio(end, true)?;
    }
    Ok((reader, writer))
}

/// Makes a socket whose peer is closed: reads return end of file, and writes fail with `EPIPE`.
pub(crate) fn dead_endpoint() -> io::Result<OwnedFd> {
    pair(Type::STREAM).map(|[kept, _closed]| kept.into())
}

/// Whether `fd` is a stream socket of the Unix domain, like the ends of a pair.
pub(crate) fn is_unix_stream(fd: RawFd) -> bool {
    let Ok(socket) = borrow(fd) else { return false };
    let is_unix = rustix::net::getsockname(socket).is_ok_and(|name| name.address_family() == AddressFamily::UNIX);
    is_unix && socket_type(socket) == Ok(SocketType::STREAM)
}

/// Whether `fd` is a Unix stream socket, and neither it nor its peer has a name: like the ends of a pair.
pub(crate) fn is_unnamed_stream(fd: RawFd) -> bool {
    // The address of a socket without a name is a family alone.
    let is_unnamed = |address: SocketAddrAny| address.addr_len() as usize <= size_of::<libc::sa_family_t>();
    is_unix_stream(fd)
        && borrow(fd).and_then(rustix::net::getsockname).is_ok_and(is_unnamed)
        && borrow(fd).and_then(rustix::net::getpeername).is_ok_and(|peer| peer.is_none_or(is_unnamed))
}

/// Whether two descriptors of one pipe are its two ends.
pub(crate) fn are_both_ends(a: RawFd, b: RawFd) -> bool {
    let (reads, writes) = (Ok(OFlags::RDONLY), Ok(OFlags::WRONLY));
    [(reads, writes), (writes, reads)].contains(&(access_mode(a), access_mode(b)))
}

pub(crate) fn pending_bytes(fd: RawFd) -> io::Result<usize> {
    Ok(rustix::io::ioctl_fionread(borrow(fd)?)? as usize)
}

pub(crate) fn is_open(fd: RawFd) -> bool {
    borrow(fd).and_then(rustix::io::fcntl_getfd).is_ok()
}

#[cfg(feature = "os-ext")]
pub(crate) fn is_readable(fd: RawFd) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let (fd, now) = (borrow(fd)?, Timespec { tv_sec: 0, tv_nsec: 0 });
    // A signal may interrupt poll(2), although it does not wait.
    let ready = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)))?;
    Ok(ready > 0)
}

pub(crate) fn send_byte(fd: RawFd) -> io::Result<()> {
    rustix::net::send(borrow(fd)?, &[1], SEND)?;
    Ok(())
}

/// Whether an error says that the descriptor is not open.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADF)
}

/// Returns `None` if the result is the error that the descriptor is not open.
pub(crate) fn if_open<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_closed(&error) => Ok(None),
        result => result.map(Some),
    }
}

/// Sockets of Apple systems have `SO_NOSIGPIPE` in place of `MSG_NOSIGNAL`. socket2 sets it on every socket that it makes.
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::DONTWAIT;
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Whether `fd` may be an end of a pair that a signal handler writes to: an unnamed socket that does not block.
pub(crate) fn is_signal_pipe_end(fd: RawFd) -> bool {
    let is_nonblocking =
        || borrow(fd).and_then(rustix::fs::fcntl_getfl).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
    is_unnamed_stream(fd) && is_nonblocking()
}

/// Duplicates `from` at the closed descriptor `onto`. Returns `false` if a file is open at `onto`.
pub(crate) fn duplicate_onto_closed(from: &impl AsFd, onto: RawFd) -> io::Result<bool> {
    // Unlike dup2(2), this call never closes a file that another thread opens at `onto` meanwhile.
    let duplicate = rustix::io::fcntl_dupfd_cloexec(from, onto)?;
    // The owner of `onto` closes the duplicate.
    Ok(duplicate.as_raw_fd() == onto && duplicate.into_raw_fd() == onto)
}

/// Copies the bytes that wait to be read at `from` to `to`, without taking them from `from`.
pub(crate) fn copy_pending(from: RawFd, to: RawFd) -> io::Result<()> {
    let mut pending = vec![0; pending_bytes(from)?];
    if pending.is_empty() {
        return Ok(());
    }
    let read = match rustix::net::recv(borrow(from)?, &mut pending, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((read, _)) => read,
        Err(Errno::AGAIN) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut rest = &pending[..read];
    while !rest.is_empty() {
        let sent = rustix::net::send(borrow(to)?, rest, SEND)?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// Makes the descriptor `onto` a close-on-exec duplicate of `from`. Async-signal-safe.
pub(crate) fn replace(from: RawFd, onto: RawFd) -> Result<(), i32> {
    // rustix makes the call inline where the system allows it: each page of code that a child runs costs a page fault.
    // SAFETY: `from` is open. `onto` need not be open: the call makes it the duplicate, and `ManuallyDrop` leaves the
    // duplicate open.
    let (from, mut onto) = unsafe { (BorrowedFd::borrow_raw(from), ManuallyDrop::new(OwnedFd::from_raw_fd(onto))) };
    loop {
        #[cfg(not(target_vendor = "apple"))]
        let result = rustix::io::dup3(from, &mut onto, rustix::io::DupFlags::CLOEXEC);
        // Apple systems have no dup3(2).
        #[cfg(target_vendor = "apple")]
        let result = rustix::io::dup2(from, &mut onto)
            .and_then(|()| rustix::io::fcntl_setfd(&*onto, rustix::io::FdFlags::CLOEXEC));
        match result {
            Ok(()) => return Ok(()),
            // Another thread, or a process that shares the descriptors, is opening a file at `onto`.
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error.raw_os_error()),
        }
    }
}

/// Whether the descriptor refers to an object with this name in /proc, or may do so because the name cannot be read.
fn may_be_named(fd: RawFd, name: &[u8]) -> bool {
    match name_in_proc(fd, &mut [MaybeUninit::uninit(); NAME_LENGTH]) {
        Ok(found) if !found.is_empty() => *found == *name,
        _ => has_no_type(fd),
    }
}

pub(crate) fn is_eventfd(fd: RawFd) -> bool {
    may_be_named(fd, b"anon_inode:[eventfd]")
}

pub(crate) fn is_epoll(fd: RawFd) -> bool {
    may_be_named(fd, b"anon_inode:[eventpoll]")
}

/// Marks an epoll instance, eventfd or timerfd of this crate, whose other flags are `flags`. By the mark, a child sees
/// whether a descriptor, which it may have closed since, still refers to the file.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[cfg_attr(forkio_kqueue, allow(dead_code))]
pub(super) fn mark(file: impl AsFd, flags: OFlags) -> Result<(), Errno> {
    // Such files ignore the flag, so other code does not set it.
    rustix::fs::fcntl_setfl(file, flags | OFlags::APPEND)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[cfg_attr(forkio_kqueue, allow(dead_code))]
pub(super) fn is_marked(fd: RawFd) -> bool {
    let has_flag = borrow(fd).and_then(rustix::fs::fcntl_getfl).is_ok_and(|flags| flags.contains(OFlags::APPEND));
    has_flag && has_no_type(fd)
}

fn has_no_type(fd: RawFd) -> bool {
    fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == 0)
}

/// Closes a descriptor that the caller owns. If the descriptor is not open, that does no harm. Async-signal-safe.
pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns the descriptor, and does not use it again.
    unsafe { rustix::io::close(fd) };
}

/// Returns RLIMIT_NOFILE, the least descriptor that dup2(2) refuses; `None` if there is no limit, or if the system does
/// not tell.
pub(crate) fn limit() -> Option<u64> {
    // rustix's `getrlimit` panics if a seccomp filter denies the call.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    syscall!(getrlimit(libc::RLIMIT_NOFILE, &raw mut limit)).ok()?;
    #[allow(clippy::unnecessary_cast, reason = "systems differ in the type")]
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as u64)
}

/// Returns the error of reading a file of proc(5). An error that names a limit keeps its errno, for [`limit_behind`].
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn unreadable(path: &str, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => error,
        _ => io::Error::new(error.kind(), format!("reading {path}: {error}; is /proc mounted?")),
    }
}

/// Describes the limit that a failed system call has reached, and what to do about it.
pub fn limit_behind(error: &io::Error) -> Option<String> {
    let text = match error.raw_os_error()? {
        libc::EMFILE => {
            let limit = limit()?;
            &format!("the process may have {limit} descriptors open (RLIMIT_NOFILE): raise it, or close some")
        }
        libc::ENFILE => "the system has no descriptor left (Linux: raise /proc/sys/fs/file-max)",
        libc::ENOSPC => "the user has no epoll watch left (/proc/sys/fs/epoll/max_user_watches): raise it",
        libc::ENOMEM => "the kernel has no memory left",
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(all(test, target_os = "linux", not(forkio_kqueue)))]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn ends_of_pairs_are_unnamed() {
        let (end, _other) = UnixStream::pair().unwrap();
        assert!(is_unnamed_stream(end.as_raw_fd()));
        let path = std::env::temp_dir().join(format!("forkio-unnamed-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!is_unnamed_stream(client.as_raw_fd()) && !is_unnamed_stream(accepted.as_raw_fd()));
    }
}
