//! What a fork needs to find out about, and do with, descriptors of any kind.

use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::syscall;
use crate::source_kind::SourceKind;

/// Device and inode: the same for all duplicates of a socket or pipe. (Socket inodes count up to 2^32 and begin again, so
/// in a process with sockets of all ages two may share one.)
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity(fd: RawFd) -> io::Result<Identity> {
    let stat = stat(fd)?;
    #[allow(clippy::unnecessary_cast, reason = "systems differ in the types")]
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

fn stat(fd: RawFd) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills `stat`.
    syscall!(fstat(fd, stat.as_mut_ptr()))?;
    // SAFETY: fstat succeeded, so it is filled.
    Ok(unsafe { stat.assume_init() })
}

/// Finds out what a bare descriptor is.
pub(crate) fn kind(fd: RawFd) -> io::Result<SourceKind> {
    #[cfg(any(not(any(target_os = "linux", target_os = "android")), forkio_kqueue))]
    if let Some(kind) = super::kqueue::kind(fd) {
        return Ok(kind);
    }
    Ok(match stat(fd)?.st_mode & libc::S_IFMT {
        libc::S_IFSOCK if socket_option(fd, libc::SO_ACCEPTCONN)? != 0 => SourceKind::Listener,
        libc::S_IFSOCK => match socket_option(fd, libc::SO_TYPE)? {
            libc::SOCK_DGRAM | libc::SOCK_RAW => SourceKind::Datagram,
            _ => SourceKind::Stream,
        },
        libc::S_IFIFO => SourceKind::Pipe,
        libc::S_IFCHR => SourceKind::Other,
        _ => anonymous_kind(fd),
    })
}

fn socket_option(fd: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`.
    syscall!(getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut length))?;
    Ok(value)
}

/// Kernel objects without a file type of their own are told apart by the name that proc(5) gives for `fd/`.
fn anonymous_kind(fd: RawFd) -> SourceKind {
    // Without /proc there is no telling.
    let name = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    match name.to_string_lossy().as_ref() {
        "anon_inode:[eventpoll]" => SourceKind::Queue,
        "anon_inode:[timerfd]" => SourceKind::Timer,
        "anon_inode:[signalfd]" => SourceKind::Signal,
        "anon_inode:[pidfd]" => SourceKind::Process,
        "anon_inode:inotify" | "anon_inode:[fanotify]" => SourceKind::Watch,
        // pidfs, since Linux 6.9.
        name if name.starts_with("pidfd:") => SourceKind::Process,
        _ => SourceKind::Other,
    }
}

/// A connected stream socket pair, non-blocking and close-on-exec.
#[cfg(target_vendor = "apple")]
pub(crate) fn stream_pair() -> io::Result<[OwnedFd; 2]> {
    let (a, b) = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    a.set_nonblocking(true)?;
    b.set_nonblocking(true)?;
    Ok([a.into(), b.into()])
}

/// A connected stream socket pair, non-blocking and close-on-exec.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn stream_pair() -> io::Result<[OwnedFd; 2]> {
    let mut fds = [-1; 2];
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two descriptors.
    syscall!(socketpair(libc::AF_UNIX, flags, 0, fds.as_mut_ptr()))?;
    // SAFETY: the kernel has just given us these descriptors, and nobody else owns them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// A descriptor that reads end of file and cannot be written (`EPIPE`): a socket whose peer is closed.
pub(crate) fn dead_endpoint() -> io::Result<OwnedFd> {
    let [kept, closed] = stream_pair()?;
    drop(closed);
    Ok(kept)
}

/// Whether `fd` is a stream socket of the Unix domain, as the ends of a pair are.
pub(crate) fn is_unix_stream(fd: RawFd) -> bool {
    if fd < 0 {
        return false;
    }
    // SAFETY: not -1, and it goes nowhere but to getsockname(2), which says EBADF should the number not be open.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::net::getsockname(socket).is_ok_and(|name| name.address_family() == rustix::net::AddressFamily::UNIX)
        && socket_option(fd, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_STREAM)
}

/// How many bytes wait to be read.
pub(crate) fn pending_bytes(fd: RawFd) -> io::Result<usize> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the kernel writes an int.
    syscall!(ioctl(fd, libc::FIONREAD, &mut waiting))?;
    Ok(usize::try_from(waiting).unwrap_or(0))
}

/// Whether something is open under the number.
pub(crate) fn is_open(fd: RawFd) -> bool {
    syscall!(fcntl(fd, libc::F_GETFD)).is_ok()
}

/// Writes one byte to a socket.
pub(crate) fn send_byte(fd: RawFd) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | NO_SIGNAL;
    // SAFETY: the kernel reads one byte.
    syscall!(send(fd, [1_u8].as_ptr().cast(), 1, flags))?;
    Ok(())
}

/// Whether an error says that the number is not open.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADF)
}

/// Apple's sockets are set not to raise SIGPIPE when they are made.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;

/// Writes to `to` what waits to be read at `from`, without taking it from there.
pub(crate) fn copy_pending(from: RawFd, to: RawFd) -> io::Result<()> {
    let waiting = pending_bytes(from)?;
    if waiting == 0 {
        return Ok(());
    }
    let mut pending = vec![0_u8; waiting];
    let peek = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most `waiting` bytes to `pending`.
    let read = match syscall!(recv(from, pending.as_mut_ptr().cast(), waiting, peek)) {
        Ok(read) => read.cast_unsigned(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    let mut rest = &pending[..read];
    while !rest.is_empty() {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the kernel reads at most `rest.len()` bytes.
        let sent = syscall!(send(to, rest.as_ptr().cast(), rest.len(), flags))?;
        rest = &rest[sent.cast_unsigned()..];
    }
    Ok(())
}

/// Makes the number `onto` a close-on-exec duplicate of `from`. One system call, async-signal-safe.
pub(crate) fn replace(from: RawFd, onto: RawFd) -> Result<(), i32> {
    // Made in line where the system allows it: a child has to fetch each page of code anew.
    // SAFETY: `from` is one of prepare's; `onto` is open, and its owner goes on to own what it stands for. It is not dropped.
    let (from, mut onto) = unsafe { (BorrowedFd::borrow_raw(from), ManuallyDrop::new(OwnedFd::from_raw_fd(onto))) };
    loop {
        #[cfg(not(target_vendor = "apple"))]
        let result = rustix::io::dup3(from, &mut onto, rustix::io::DupFlags::CLOEXEC);
        // There is no dup3(2).
        #[cfg(target_vendor = "apple")]
        let result = rustix::io::dup2(from, &mut onto)
            .and_then(|()| rustix::io::fcntl_setfd(&*onto, rustix::io::FdFlags::CLOEXEC));
        match result {
            Ok(()) => return Ok(()),
            // The number is being taken by another thread's open: only in a process that forks with `vfork`'s sharing.
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error.raw_os_error()),
        }
    }
}

/// Closes a descriptor, and leaves its owner as it is: not to be dropped. Async-signal-safe.
pub(crate) fn close(owner: &OwnedFd) {
    // SAFETY: it is open, and the caller sees to it that nobody closes it again.
    unsafe { rustix::io::close(owner.as_raw_fd()) };
}

/// Whether the number may be given to dup2(2).
pub(crate) fn is_within_limit(fd: RawFd) -> bool {
    // `None`: there is no limit.
    descriptor_limit().is_none_or(|limit| u64::try_from(fd).is_ok_and(|fd| fd < limit))
}

/// RLIMIT_NOFILE.
fn descriptor_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// A limit that a failed preparation ran into, in words, and what to do about it.
pub(crate) fn limit_behind(error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::EMFILE => {
            let limit = descriptor_limit()?;
            Some(format!("the process may have {limit} descriptors open (RLIMIT_NOFILE): raise it, or close some"))
        }
        libc::ENFILE => Some("the system has no descriptor left (/proc/sys/fs/file-max)".to_owned()),
        libc::ENOSPC => {
            Some("the user has no epoll watch left (/proc/sys/fs/epoll/max_user_watches): raise it".to_owned())
        }
        libc::ENOMEM => Some("the kernel has no memory left".to_owned()),
        _ => None,
    }
}
