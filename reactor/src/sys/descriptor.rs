//! Inspecting and replacing descriptors of any kind, for forks.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::syscall;
use crate::source_kind::SourceKind;

/// Device and inode: the same for all duplicates of a socket or pipe. (Socket inodes count up to 2^32 and begin again, so a
/// very old socket and a new one may share an inode.) For sockets that have no inode, another number from the kernel takes
/// its place.
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity(fd: RawFd) -> io::Result<Identity> {
    let stat = system::fstat(fd)?;
    #[allow(clippy::unnecessary_cast, reason = "systems differ in the types")]
    let (device, inode) = (stat.st_dev as u64, stat.st_ino as u64);
    Ok(match system::socket_pcb(fd).filter(|_| inode == 0) {
        Some(pcb) => (u64::MAX, pcb),
        None => (device, inode),
    })
}

/// Determines the kind of a bare descriptor.
pub(crate) fn kind(fd: RawFd) -> io::Result<SourceKind> {
    if let Some(kind) = system::kind(fd) {
        return Ok(kind);
    }
    kind_of_mode(fd, system::fstat(fd)?.st_mode)
}

/// Like [`kind`], for a descriptor that has this `st_mode`.
fn kind_of_mode(fd: RawFd, mode: libc::mode_t) -> io::Result<SourceKind> {
    Ok(match mode & libc::S_IFMT {
        libc::S_IFSOCK => match socket_option(fd, libc::SO_TYPE)? {
            libc::SOCK_DGRAM | libc::SOCK_RAW => SourceKind::Datagram,
            _ if socket_option(fd, libc::SO_ACCEPTCONN)? != 0 => SourceKind::Listener,
            _ => SourceKind::Stream,
        },
        libc::S_IFIFO => SourceKind::Pipe,
        libc::S_IFCHR => SourceKind::Other,
        _ => anonymous_kind(fd),
    })
}

#[cfg(all(test, target_os = "linux", not(forkio_kqueue)))]
mod tests {
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

/// Returns kind, inode and device number of a descriptor. The device number is the one of proc(5), not that of fstat(2).
#[cfg(all(any(target_os = "linux", target_os = "android"), not(forkio_kqueue)))]
pub(crate) fn examine(fd: RawFd) -> io::Result<(SourceKind, u64, u64)> {
    /// `MINORBITS` of the kernel's `dev_t`.
    const MINOR_BITS: u32 = 20;
    let stat = system::fstat(fd)?;
    let (major, minor) = (libc::major(stat.st_dev), libc::minor(stat.st_dev));
    Ok((kind_of_mode(fd, stat.st_mode)?, stat.st_ino, u64::from(major) << MINOR_BITS | u64::from(minor)))
}

/// The facts about descriptors that a kqueue system has beside fstat(2).
#[cfg(any(not(any(target_os = "linux", target_os = "android")), forkio_kqueue))]
mod system {
    use std::os::fd::RawFd;

    use crate::source_kind::SourceKind;
    pub(super) use crate::sys::kqueue::kernel::{fstat, socket_pcb};
    use crate::sys::kqueue::{self, is_queue};

    /// The kinds that fstat(2) does not tell: it may report a queue as a pipe.
    pub(super) fn kind(fd: RawFd) -> Option<SourceKind> {
        kqueue::kind(fd).or_else(|| is_queue(fd).then_some(SourceKind::Queue))
    }
}

#[cfg(all(any(target_os = "linux", target_os = "android"), not(forkio_kqueue)))]
mod system {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::RawFd;

    use crate::source_kind::SourceKind;
    use crate::sys::syscall;

    pub(super) fn fstat(fd: RawFd) -> io::Result<libc::stat> {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the kernel fills `stat`.
        syscall!(fstat(fd, stat.as_mut_ptr()))?;
        // SAFETY: fstat succeeded, so it is filled.
        Ok(unsafe { stat.assume_init() })
    }

    pub(super) fn socket_pcb(_: RawFd) -> Option<u64> {
        None
    }

    pub(super) fn kind(_: RawFd) -> Option<SourceKind> {
        None
    }
}

fn socket_option(fd: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`.
    syscall!(getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut length))?;
    Ok(value)
}

/// Tells kernel objects without a file type of their own apart, by the name that proc(5) gives for `fd/`.
fn anonymous_kind(fd: RawFd) -> SourceKind {
    // Without /proc the kind is unknown.
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

/// Makes a connected stream socket pair, non-blocking and close-on-exec.
#[cfg(target_vendor = "apple")]
pub(crate) fn stream_pair() -> io::Result<[OwnedFd; 2]> {
    let (a, b) = socket2::Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    a.set_nonblocking(true)?;
    b.set_nonblocking(true)?;
    Ok([a.into(), b.into()])
}

/// Makes a connected stream socket pair, non-blocking and close-on-exec.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn stream_pair() -> io::Result<[OwnedFd; 2]> {
    let mut fds = [-1; 2];
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two descriptors.
    syscall!(socketpair(libc::AF_UNIX, flags, 0, fds.as_mut_ptr()))?;
    // SAFETY: the kernel has just given us these descriptors, and nothing else owns them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Makes a socket whose peer is closed: reads return end of file, and writes fail with `EPIPE`.
pub(crate) fn dead_endpoint() -> io::Result<OwnedFd> {
    let [kept, closed] = stream_pair()?;
    drop(closed);
    Ok(kept)
}

/// Whether `fd` is a stream socket of the Unix domain, like the ends of a pair.
pub(crate) fn is_unix_stream(fd: RawFd) -> bool {
    if fd < 0 {
        return false;
    }
    // SAFETY: not -1, and used only for getsockname(2), which returns EBADF if the descriptor is not open.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::net::getsockname(socket).is_ok_and(|name| name.address_family() == rustix::net::AddressFamily::UNIX)
        && socket_option(fd, libc::SO_TYPE).is_ok_and(|kind| kind == libc::SOCK_STREAM)
}

/// Whether `fd` is a Unix stream socket, and neither it nor its peer has a name: like the ends of a pair.
#[cfg_attr(forkio_kqueue, allow(dead_code))]
pub(crate) fn is_unnamed_stream(fd: RawFd) -> bool {
    if !is_unix_stream(fd) {
        return false;
    }
    // SAFETY: it is open, and used only for getsockname(2) and getpeername(2).
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    // The address of a socket without a name is a family alone.
    let is_unnamed =
        |address: rustix::net::SocketAddrAny| address.addr_len() as usize <= size_of::<libc::sa_family_t>();
    rustix::net::getsockname(socket).is_ok_and(is_unnamed)
        && rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_none_or(is_unnamed))
}

/// Takes up to `count` bytes from a socket.
pub(crate) fn take_bytes(fd: RawFd, count: usize) -> io::Result<()> {
    let mut bytes = vec![0_u8; count];
    // SAFETY: the kernel writes at most `count` bytes.
    syscall!(recv(fd, bytes.as_mut_ptr().cast(), count, libc::MSG_DONTWAIT))?;
    Ok(())
}

/// How many bytes wait to be read.
pub(crate) fn pending_bytes(fd: RawFd) -> io::Result<usize> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the kernel writes an int.
    syscall!(ioctl(fd, libc::FIONREAD, &mut waiting))?;
    Ok(usize::try_from(waiting).unwrap_or(0))
}

/// Whether the descriptor is open.
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

/// Whether an error says that the descriptor is not open.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADF)
}

/// Apple's sockets are set not to raise SIGPIPE when they are made.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;

/// Copies the bytes that wait to be read at `from` to `to`, without taking them from `from`.
pub(crate) fn copy_pending(from: RawFd, to: RawFd) -> io::Result<()> {
    let waiting = pending_bytes(from)?;
    if waiting == 0 {
        return Ok(());
    }
    let mut pending = vec![0_u8; waiting];
    let peek = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most `waiting` bytes to `pending`.
    let read = match syscall!(recv(from, pending.as_mut_ptr().cast(), waiting, peek)) {
        Ok(read) => read as usize,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    let mut rest = &pending[..read];
    while !rest.is_empty() {
        let flags = libc::MSG_DONTWAIT | NO_SIGNAL;
        // SAFETY: the kernel reads at most `rest.len()` bytes.
        let sent = syscall!(send(to, rest.as_ptr().cast(), rest.len(), flags))?;
        rest = &rest[sent as usize..];
    }
    Ok(())
}

/// Makes the descriptor `onto` a close-on-exec duplicate of `from`. One system call, async-signal-safe.
pub(crate) fn replace(from: RawFd, onto: RawFd) -> Result<(), i32> {
    // rustix makes the call inline where the system allows it: each page of code that a child runs costs a page fault.
    // SAFETY: `from` is open; so is `onto`, and its owner then owns the duplicate. `onto` is not dropped.
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
            // Another thread, or a process that shares the descriptors, is opening a file at `onto`.
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error.raw_os_error()),
        }
    }
}

/// Whether the descriptor still refers to an object of this kind, in a process that may have closed it since. A dead
/// endpoint that an earlier fork has put in place counts too.
pub(crate) fn is_still(fd: RawFd, registered: SourceKind) -> bool {
    kind(fd).is_ok_and(|found| match registered {
        SourceKind::Pair => matches!(found, SourceKind::Stream | SourceKind::Datagram | SourceKind::Pipe),
        SourceKind::Waker => found == SourceKind::Pipe || is_eventfd(fd),
        kind => found == kind,
    }) || is_unix_stream(fd)
}

/// Whether the descriptor is an eventfd.
pub(crate) fn is_eventfd(fd: RawFd) -> bool {
    match std::fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(name) => name.as_os_str() == "anon_inode:[eventfd]",
        // Without /proc: an object that has no file type.
        Err(_) => system::fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == 0),
    }
}

/// Closes a descriptor, and leaves its owner as it is. The owner must not be dropped. Async-signal-safe.
pub(crate) fn close(owner: &OwnedFd) {
    // SAFETY: it is open, and the caller does not drop its owner, which would close it again.
    unsafe { rustix::io::close(owner.as_raw_fd()) };
}

/// Whether dup2(2) accepts the descriptor.
pub(crate) fn is_within_limit(fd: RawFd) -> bool {
    // `None`: there is no limit.
    descriptor_limit().is_none_or(|limit| u64::try_from(fd).is_ok_and(|fd| fd < limit))
}

/// RLIMIT_NOFILE.
fn descriptor_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Describes the limit that a failed preparation has reached, and what to do about it.
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
